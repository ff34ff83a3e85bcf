"""Studies of users' own scripts through a real local Ray: killed, stopped, gone on with, failed, reported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import chdir, contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from analysis.read import load, read_evals, read_steps
from scaleexp import lease, schema
from scaleexp.config import validate_study
from scaleexp.errors import TrialsFailedError
from scaleexp.launch.opening import prepare
from scaleexp.launch.runner import run_study
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.scripts import prepare_text

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = SCRIPTS.parents[1]
TINY_GPT = f"""
name: tiny-gpt
question: Does the loop scale?
command: [python, {SCRIPTS / "forked.py"}, "{{workers}}", {SCRIPTS / "tiny_gpt.py"}, "--batch_size={{micro_batch}}",
          "--gradient_accumulation_steps={{accumulation_steps}}", "--learning_rate={{lr}}", "--seed={{seed}}",
          "--max_iters={{limit_steps}}", "--out_dir={{checkpoint_dir}}", --eval_interval=10]
unit: example
targets: [{{metric: val_loss, values: [2.7], direction: min}}]
optimizer: {{name: adamw}}
base: {{batch_size: 8, lr: 0.003}}
workers: [1, 2]
micro_batch: 4
accumulation_steps: 2
lr_rules: [sqrt]
lr_multipliers: [0.5, 1, 2]
seeds: [0, 1]
limits: {{samples: 2400}}
evaluation: {{every_samples: 160}}
checkpoint: {{every_s: 0.2}}
"""
"""nanoGPT's manner: configured by name=value, evaluated at its own cadence, a target that some trials do not reach."""
DOCS = ROOT / "scaleexp" / "docs"


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


def far_enough(store, keys, wanted):
    """Whether so many trials have ended, and another one is in the middle with steps committed."""
    commits = [c for key in keys if (c := last_commit(store, key))]
    under_way = [c for c in commits if c["status"] == "running" and c["step"] > 0]
    return len(ended(store, keys)) >= wanted and bool(under_way)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_study_of_a_small_gpt_on_token_bins_survives_a_kill_and_a_stop_and_is_reported(tmp_path):
    prepare_text.prepare(tmp_path / "data")
    survives(tmp_path, yaml.safe_load(TINY_GPT), "forked.py")


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("page", "script", "seeds"), [("own_script.md", "raw_loop.py", 2), ("huggingface.md", "hf_trainer.py", 3)]
)
def test_the_study_of_a_page_survives_a_kill_and_a_stop_and_is_reported(tmp_path, page, script, seeds):
    """Under torchrun, as the page has it, with a few seeds more."""
    text = (DOCS / page).read_text()
    code, study = (text.partition(f"```{language}\n")[2].partition("```")[0] for language in ("python", "yaml"))
    (tmp_path / script).write_text(code)
    survives(tmp_path, {**yaml.safe_load(study), "seeds": list(range(seeds))}, script, patience=3)


def survives(tmp_path, raw, code_file, patience=1):
    """A dozen trials or more of a script on one and two workers; what has ended once never runs again."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    with chdir(tmp_path):
        trials = prepare(validate_study(raw, "the file")).plan.trials
    keys = [t.key for t in trials]
    assert len(keys) >= 12
    assert {t.workers for t in trials} == {1, 2}
    store = Store(tmp_path / "study")
    with running(tmp_path) as run:
        assert wait_for(lambda: far_enough(store, keys, 3) or run.poll() is not None, 200 * patience)
        before = ended(store, keys)
        run.kill()
    assert 3 <= len(before) < len(keys)
    assert wait_for(lambda: not of_script(tmp_path), 30), "the driver's death left processes of the script"
    with running(tmp_path) as run:
        assert wait_for(lambda: far_enough(store, keys, len(before) + 1) or run.poll() is not None, 200 * patience)
        assert lease.request_stop(store)  # as `scaleexp stop` does, which takes longer to start than a trial has left
        assert run.wait(120) == 130
    stopped = ended(store, keys)
    assert len(before) < len(stopped) < len(keys)
    assert not of_script(tmp_path)
    with running(tmp_path) as run:
        said, _ = run.communicate(timeout=300 * patience)
    assert run.returncode == 0, said
    final = ended(store, keys)
    assert len(final) == len(keys)
    assert "reached" in {commit["status"] for commit in final.values()}
    assert any(commit["attempt"] for commit in final.values())  # what was interrupted was started again
    assert {key: c["number"] for key, c in before.items()} == {key: final[key]["number"] for key in before}
    assert {key: c["number"] for key, c in stopped.items()} == {key: final[key]["number"] for key in stopped}
    _rows_are_whole(tmp_path / "study", code_file)
    report = [sys.executable, "-m", "analysis", "report", "study"]
    done = subprocess.run(
        report, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 6), done.stderr  # two batch sizes are not enough for a curve
    page = (tmp_path / "study" / "report" / "report.html").read_text()
    assert Path([word for word in raw["command"] if word.endswith(".py")][-1]).name in page
    assert "uncontrolled" in page


def _rows_are_whole(root, code_file):
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
        assert trial.commit["realisation"]["code"]["file"].endswith(code_file)


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
