"""The README's worked example, as a reader would type it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str, mark: str) -> str:
    """The one fenced block of a language that contains a mark."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    (found,) = [content for its_language, content in blocks if its_language == language and mark in content]
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_the_worked_example_gives_an_answer(tmp_path):
    (tmp_path / "my_digits.py").write_text(block("python", "def load()"))
    (tmp_path / "my_study.yaml").write_text(block("yaml", "name: my-digits"))
    for line in block("bash", "scaleexp plan my_study.yaml").splitlines():
        command = line.split("#")[0].split()
        command[0] = str(Path(sys.executable).parent / command[0])
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "scaleexp-results" / "my-digits" / "report" / "report.html").exists()
    fit = [str(Path(sys.executable).parent / "scaleexp-analysis"), "fit", "scaleexp-results/my-digits"]
    card = subprocess.run(fit, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True).stdout
    assert "status  ok" in card, card


def test_the_example_of_a_typing_error_is_what_is_printed(tmp_path):
    study = block("yaml", "name: my-digits").replace("worker_batch:", "worker_batchs:")
    (tmp_path / "my_study.yaml").write_text(study)
    command = [sys.executable, "-m", "scaleexp", "plan", "my_study.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == block("", "worker_batchs")


def test_the_figure_that_the_readme_shows_is_there():
    (path,) = re.findall(r"!\[.*?\]\((.*?)\)", README, flags=re.DOTALL)
    assert (Path(__file__).parents[1] / path).read_bytes().startswith(b"\x89PNG")


def test_the_table_of_points_gives_what_is_printed(tmp_path, capsys):
    (tmp_path / "points.csv").write_text(block("csv", "batch_size,steps"))
    assert main(["fit", str(tmp_path / "points.csv")]) == 0
    assert capsys.readouterr().out.startswith(block("", "95 % interval 115 to 128"))


def test_the_card_of_advice_is_what_is_printed():
    command = next(line for line in block("bash", "scaleexp advise fits.json").splitlines() if "advise" in line)
    words = command.replace("fits.json", str(Path(__file__).parent / "golden" / "quickstart_fits.json")).split()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == block("", "4 GPUs, the cheapest")


def test_the_table_of_step_times_gives_what_is_printed(tmp_path):
    from click.testing import CliRunner

    from scaleexp.cli import cli

    (tmp_path / "step_times.csv").write_text(block("csv", "worker_batch,step_time_s"))
    for line in block("bash", "scaleexp simulate fit").splitlines():
        words = [str(tmp_path / w) if "." in w else w for w in shlex.split(line.split("#")[0])[1:]]
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert done.stdout == block("", "of it communication")
