"""Studies of users' own scripts through a real local Ray: killed, stopped, gone on with, failed, reported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from analysis.read import load, read_evals, read_steps
from scaleexp import schema
from scaleexp.config import validate_study
from scaleexp.errors import TrialsFailedError
from scaleexp.launch.opening import prepare
from scaleexp.launch.runner import run_study
from scaleexp.runlog import last_commit
from scaleexp.storage import Store

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = SCRIPTS.parents[1]
STUDY = f"""
name: own-loop
question: Does the loop scale?
command: [python, {SCRIPTS / "forked.py"}, "{{workers}}", {SCRIPTS / "raw_loop.py"}, --worker-batch, "{{worker_batch}}",
          --lr, "{{lr}}", --seed, "{{seed}}", --steps, "{{limit_steps}}", --out, "{{checkpoint_dir}}"]
unit: example
n_train: 399992
targets: [{{metric: val_loss, values: [2.9], direction: min}}]
optimizer: {{name: sgd}}
base: {{batch_size: 16, lr: 0.5}}
workers: [1, 2]
worker_batch: 16
lr_rules: [sqrt]
lr_multipliers: [0.5, 1, 2]
seeds: [0, 1]
limits: {{samples: 16000}}
evaluation: {{every_samples: 320}}
checkpoint: {{every_s: 0.2}}
"""


def of_script(word):
    """Processes whose command line has a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if str(word).encode() in line and b"scaleexp\0run" not in line:
                    found.append(int(entry.name))
    return found


def wait_for(what, seconds):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@contextmanager
def running(directory):
    """The command, in a process."""
    command = [sys.executable, "-m", "scaleexp", "run", "study.yaml", "--storage", "study", "--yes"]
    environment = os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=directory, env=environment, **pipes) as run:
        try:
            yield run
        finally:
            run.kill()


def ended(store, keys):
    """Commits of trials that have ended, by key."""
    commits = {key: last_commit(store, key) for key in keys}
    return {key: c for key, c in commits.items() if c and c["status"] in schema.FINAL_STATUSES}


@pytest.mark.ray
@pytest.mark.slow
def test_a_command_study_survives_a_kill_and_a_stop_and_is_reported(tmp_path):
    """Twelve trials of a raw torch loop on one and two workers; what has ended once never runs again."""
    (tmp_path / "study.yaml").write_text(STUDY)
    import yaml

    keys = [t.key for t in prepare(validate_study(yaml.safe_load(STUDY), "the file")).plan.trials]
    assert len(keys) == 12
    store = Store(tmp_path / "study")
    with running(tmp_path) as run:
        assert wait_for(lambda: len(ended(store, keys)) >= 3 or run.poll() is not None, 200)
        before = ended(store, keys)
        run.kill()
    assert 3 <= len(before) < 12
    assert wait_for(lambda: not of_script(tmp_path), 30), "the driver's death left processes of the script"
    with running(tmp_path) as run:
        assert wait_for(lambda: len(ended(store, keys)) > len(before) + 1 or run.poll() is not None, 200)
        stop = [sys.executable, "-m", "scaleexp", "stop", "study"]
        subprocess.run(stop, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
        assert run.wait(120) == 130
    stopped = ended(store, keys)
    assert len(before) < len(stopped) < 12
    assert not of_script(tmp_path)
    with running(tmp_path) as run:
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    final = ended(store, keys)
    assert len(final) == 12
    assert any(commit["attempt"] for commit in final.values())  # what was interrupted was started again
    assert {key: c["number"] for key, c in before.items()} == {key: final[key]["number"] for key in before}
    assert {key: c["number"] for key, c in stopped.items()} == {key: final[key]["number"] for key in stopped}
    _rows_are_whole(tmp_path / "study")
    report = [sys.executable, "-m", "analysis", "report", "study"]
    done = subprocess.run(
        report, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 6), done.stderr  # two batch sizes are not enough for a curve
    page = (tmp_path / "study" / "report" / "report.html").read_text()
    assert "raw_loop.py" in page
    assert "uncontrolled" in page


def _rows_are_whole(root):
    """Every step and every evaluation of a trial is there once, however often it was interrupted."""
    log = load(root)
    assert not log.problems
    steps, evals = read_steps(log, ["trial_id", "step", "samples", "loss", "batch_size"]), read_evals(log)
    for trial in log.trials:
        own = [r for r in steps.to_pylist() if r["trial_id"] == trial.key]
        assert [r["step"] for r in own] == list(range(1, trial.commit["step"] + 1))
        assert all(r["samples"] == r["step"] * r["batch_size"] for r in own)
        seen = [r["step"] for r in evals.to_pylist() if r["trial_id"] == trial.key]
        assert seen == sorted(set(seen))
        assert trial.commit["realisation"]["engine"] == "command"
        assert trial.commit["realisation"]["code"]["file"].endswith("forked.py")


ENTRYPOINT = {
    "name": "behaves",
    "question": "What may a function do?",
    "entrypoint": "tests.scripts.behaves:train",
    "unit": "token",
    "optimizer": {"name": "sgd"},
    "base": {"batch_size": 8, "lr": 0.1},
    "workers": [2],
    "worker_batch": 4,
    "lr_rules": ["sqrt"],
    "lr_multipliers": [1],
    "seeds": [0, 1, 2, 3, 4, 5],
    "limits": {"samples": 160},
    "evaluation": {"every_samples": 40},
}


@pytest.mark.ray
def test_a_function_that_fails_fails_its_own_trial_alone(tmp_path):
    prepared = prepare(validate_study(ENTRYPOINT, "the file"))
    with pytest.raises(TrialsFailedError, match="3 of 6 trials failed"):
        run_study(prepared, tmp_path / "study")
    store = Store(tmp_path / "study")
    stands = {t.seed: last_commit(store, t.key) for t in prepared.plan.trials}
    assert {seed: commit["status"] for seed, commit in stands.items()} == {
        0: "limit",
        1: "failed",
        2: "failed",
        3: "failed",
        4: "limit",
        5: "limit",
    }
    assert stands[1]["cause"] == "ValueError: rank 1 does not like this seed"
    assert "never reported" in stands[2]["cause"]
    assert "states batch_size=9" in stands[3]["cause"]
    assert "planned 8" in stands[3]["cause"]
    assert "does nothing" in (tmp_path / "study/logs/0001/real-2-0/rank-0.log").read_text()
