"""The main job, as a newcomer types it: a true answer on real digits, and a plain no where there is nothing to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import analysis
from analysis.bootstrap import CONFIDENCE

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def quickstart(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scaleexp", "quickstart", "--storage", str(directory), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    directory = tmp_path_factory.mktemp("quickstart") / "study"
    return directory, quickstart(directory)


def test_the_quickstart_gives_an_answer_with_a_usable_interval(first):
    directory, done = first
    assert done.returncode == 0, done.stderr
    study = analysis.fit(directory)
    assert study.fit.status == "ok"
    low, high = study.fit.b_crit_interval
    assert high / low <= 3
    assert study.fit.confidence == CONFIDENCE
    assert study.fit.n_batches >= 8
    assert f"The critical batch size for val_loss ≤ 0.4 is {study.fit.b_crit:.1f} examples" in done.stdout


def test_it_ends_with_figures_that_exist_and_the_next_command(first):
    _, done = first
    paths = [Path(word) for word in done.stdout.split() if word.endswith((".png", ".html"))]
    assert len(paths) >= 5
    assert all(path.stat().st_size > 10_000 for path in paths)
    assert done.stdout.strip().splitlines()[-1].startswith("Next: ")
    assert "trials done" in done.stderr
    assert "ETA" in done.stderr
    assert "Traceback" not in done.stderr
    assert "(pid=" not in done.stderr  # Ray's own output goes to files


def test_two_real_workers_agree_with_virtual_ones(first):
    directory, done = first
    (agreement,) = analysis.fit(directory).agreements
    assert agreement.agrees
    assert f"{agreement.other_key} against {agreement.key}: agree" in done.stdout
    assert agreement.steps > 20
    assert agreement.loss_difference < 1e-4  # float32 over a whole run
    assert agreement.value_difference < 1e-4


def test_the_noise_scale_stands_beside_the_answer_and_is_another_number(first):
    directory, _ = first
    noise = analysis.fit(directory).noise
    assert "noise scale near the target, not the same thing as the critical batch size" in first[1].stdout
    assert noise.status == "ok"
    assert noise.interval[0] < noise.b_simple < noise.interval[1]
    page = (directory / "report" / "report.html").read_text()
    assert "another quantity than the critical batch size" in page


def test_the_plan_has_every_rule_on_the_grid(first):
    plan = json.loads((first[0] / "plan" / "0001.json").read_text())
    lrs = {(t["batch_size"], t["lr"]) for t in plan["trials"]}
    assert {(rule["batch_size"], rule["lr"]) for rule in plan["rules"]} <= lrs
    assert min(b for b, _ in lrs) == 4
    assert max(b for b, _ in lrs) == 1024
    assert all(len({lr for b, lr in lrs if b == size}) >= 5 for size in {b for b, _ in lrs})


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_seed_bases_agree(first, tmp_path):
    found = [analysis.fit(first[0]).fit.b_crit]
    for base in (10, 20):
        directory = tmp_path / str(base)
        done = quickstart(directory, "--set", f"seeds=[{base}, {base + 1}, {base + 2}]")
        assert done.returncode == 0, done.stderr
        study = analysis.fit(directory)
        assert study.fit.status == "ok", study.fit.reason
        found.append(study.fit.b_crit)
    assert max(found) / min(found) <= 1.5, found


def test_shuffled_labels_give_no_answer_and_exit_code_6(tmp_path):
    done = quickstart(tmp_path / "study", "--set", "workload.shuffle_labels=true", "--set", "seeds=[0]")
    assert done.returncode == 6
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: The data do not say what the critical batch size")
    assert "0 of 67 runs reached" in last
    assert "Traceback" not in done.stderr
