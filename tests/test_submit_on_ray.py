"""`scaleexp submit` against a real Ray with its dashboard: logs come back, and so do the study's own exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.clusters import nodes

STUDY = """
name: tiny
question: Does a job come back?
workload: {name: quadratic, dimensions: 4}
targets: [{metric: expected_loss, values: [0.25]}]
optimizer: {name: sgd}
base: {batch_size: 16, lr: 0.2}
workers: [2, 4]
worker_batch: 4
lr_multipliers: [1]
lr_rules: [none]
seeds: [0]
limits: {samples: 1600}
evaluation: {every_samples: 32}
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the dashboard of a Ray whose jobs find this installation's commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        with nodes(2) as cluster:
            yield cluster.ask("dashboard")


def submit(address: str, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (directory / "tiny.yaml").write_text(STUDY)
    storage = ("--storage", str(directory / "study"), "--json")
    command = [sys.executable, "-m", "scaleexp", "submit", "tiny.yaml", "--address", address, *storage, *more]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.ray
def test_a_study_comes_back_with_its_log_and_its_own_exit_code(address, tmp_path):
    done = submit(address, tmp_path)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert (first["status"], first["exit_code"]) == ("SUCCEEDED", 0)
    assert "3/3 trials done" in done.stderr, done.stderr
    assert " INFO " not in done.stderr.replace("\t", " ").replace("INFO job_manager", ""), "of whoever carried it"
    assert (tmp_path / "study" / "study.json").exists()

    again = json.loads(submit(address, tmp_path).stdout)
    assert again["submission_id"] == f"{first['submission_id']}-2"
    assert again["exit_code"] == 0

    other = submit(address, tmp_path, "--set", "base.lr=0.1")
    assert other.returncode == 2, other.stderr
    assert "holds the study 'tiny', which differs in base.lr" in other.stderr
    assert json.loads(other.stdout)["status"] == "FAILED"
    asked = submit(address, tmp_path, "--set", "base.lr=0.1", "--status")
    assert (asked.returncode, json.loads(asked.stdout)["exit_code"]) == (0, 2)


@pytest.mark.ray
def test_whoever_lacks_the_token_is_told_what_to_set(address, tmp_path, monkeypatch):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    done = submit(address, tmp_path)
    assert done.returncode == 2
    assert "asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in done.stderr
