"""What is installed from a wheel works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with the wheel's content, first on the path."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    subprocess.run(build, cwd=ROOT, check=True, timeout=300)
    (wheel,) = out.glob("scaleexp-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(out / "site")
    return out / "site"


def run(installed, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=installed.parent, capture_output=True, text=True, timeout=300
    )


def test_studies_profiles_schemas_and_templates_are_inside(installed):
    script = """
import importlib.resources, json, pathlib, scaleexp, analysis
from scaleexp.config import load_study
from scaleexp.hardware_profile import builtin_hardware
from scaleexp.study_files import builtin_studies
here = pathlib.Path(scaleexp.__file__).parents[1]
assert here.name == "site" and pathlib.Path(analysis.__file__).parents[1] == here, here
print(sorted(load_study(name).name for name in builtin_studies()), sorted(builtin_hardware()))
print(sorted(p.name for p in (importlib.resources.files("analysis") / "templates").iterdir()))
print(sorted(p.name for p in (importlib.resources.files("analysis") / "schemas").iterdir()))
print(sorted(p.name for p in (importlib.resources.files("scaleexp") / "schemas").iterdir()))
"""
    done = run(installed, "-c", script)
    assert done.returncode == 0, done.stderr
    for name in (
        "quickstart",
        "quadratic",
        "t4",
        "report.html.j2",
        "report.css",
        "fit.json",
        "plan.json",
        "frontier.js",
        "h100",
        "advise.json",
    ):
        assert name in done.stdout


def test_the_commands_run_from_it(installed):
    done = run(installed, "-m", "scaleexp", "plan", "quickstart", "--no-calibrate")
    assert done.returncode == 0, done.stderr
    assert "201 trials + 1" in done.stdout
    assert run(installed, "-m", "analysis", "--help").returncode == 0


def test_the_tests_and_the_checkout_are_not_in_it(installed):
    assert not list(installed.glob("tests*"))
    assert not list(installed.glob("clusters*"))
