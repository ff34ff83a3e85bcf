"""SIGKILL of drivers and of workers while a study runs on Ray: it goes on by itself, or with the same command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

import analysis.read
from scaleexp import schema
from scaleexp.config import load_study
from scaleexp.launch.runner import prepare
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.faults import test_kills

SEED = 20261122
COMMON = [
    "worker_batch=16",
    "seeds=[0]",
    "lr_rules=[none]",
    "lr_multipliers=[0.5, 1]",
    "targets=[{metric: val_loss, values: [0.01]}]",
    "evaluation.every_samples=1280",
    "noise.every_samples=1280",
    "realisations=[]",
    "workload.hidden=[8]",
    "deterministic=true",
    "checkpoint.every_s=0.2",
]
PACKS = [*COMMON, "workers=[1, 2]", "base={batch_size: 16, lr: 0.02}", "limits.samples=160000"]
REAL = [
    *COMMON,
    "workers=[2]",
    "base={batch_size: 32, lr: 0.02}",
    "lr_multipliers=[1]",
    "limits.samples=640000",
    "evaluation.every_samples=32000",
    "engine=ddp",
]


NOTING = "workload={name: 'tests.plugin_workloads:Noting', hidden: [8]}"
"""A workload whose processes note where they take up each trial, in this file of the study."""
NOTE = "taken-up.jsonl"


def parents(pid):
    """Process numbers from a process up."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid


def workers_of(driver, name):
    """Processes of Ray below a driver that do the work."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if name in (entry / "cmdline").read_bytes() and driver in parents(int(entry.name)):
                    found.append(int(entry.name))
    return found


@contextmanager
def running(root, sets):
    """The command, in a process."""
    options = [word for override in sets for word in ("--set", override)]
    command = [sys.executable, "-m", "scaleexp", "run", "quickstart", "--storage", str(root), "--yes", *options]
    environment = os.environ | {"RAY_ADDRESS": "local", "SCALEEXP_TEST_NOTE": str(root / NOTE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        try:
            yield run
        finally:
            run.kill()


def committed(root, keys):
    """Commits of all trials."""
    return sum(c["number"] if (c := last_commit(Store(root), key)) else 0 for key in keys)


def wait_for_progress(run, root, keys, delay_s):
    """Until something was committed since now, and a little longer; False when the run has ended by then."""
    before, end = committed(root, keys), time.monotonic() + 300
    while committed(root, keys) <= before + len(keys):
        if run.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.05)
    time.sleep(delay_s)
    return run.poll() is None


def waited_for(run, name):
    """Processes that do the work, once there are some; none if the run has ended."""
    while not (found := workers_of(run.pid, name)) and run.poll() is None:
        time.sleep(0.05)
    return found


def disturbed(root, sets, keys, plan, name, draw):
    """Run a study through a plan of kills; how many of them hit a trial between its first and last commit.

    Each entry of the plan is one run of the command; the last, whose driver lives, brings the study to its end.
    """
    landed = 0
    for victims in plan:
        with running(root, sets) as run:
            for victim in victims:
                if not wait_for_progress(run, root, keys, draw.uniform(0.0, 0.5)):
                    break
                processes = [run.pid] if victim == "driver" else waited_for(run, name)
                if not processes:
                    break
                os.kill(draw.choice(processes), signal.SIGKILL)
                landed += any(c and c["status"] == "running" for c in (last_commit(Store(root), k) for k in keys))
            told, _ = run.communicate(timeout=600)
    assert run.returncode == 0, told
    return landed


def assert_no_committed_step_ran_again(root, keys):
    """Nor was one left out: every attempt begins at the last commit, and its rows follow those of the one before."""
    notes = [json.loads(line) for line in (root / NOTE).read_text().splitlines()]
    assert [n for n in notes if n["step"] != n["committed"]] == []
    log = analysis.read.load(root)
    rows = analysis.read.read_table(log, "steps", ["trial_id", "step", "attempt"], None).to_pylist()
    for trial in log.trials:
        taken_up = {0} | {n["step"] for n in notes if n["key"] == trial.key}
        steps = defaultdict(list)
        for row in rows:
            if row["trial_id"] == trial.key:
                steps[row["attempt"]].append(row["step"])
        before = 0
        for attempt in sorted(steps):
            assert min(steps[attempt]) == before + 1, "of what was committed before"
            assert before in taken_up
            before = max(steps[attempt])
    assert {n["key"] for n in notes} == set(keys)


def compare(tmp_path, sets, plan, name, *, at_least, capsys, seed=SEED):
    """A disturbed study against an undisturbed one."""
    sets = [*sets, NOTING]
    keys = [t.key for t in prepare(load_study("quickstart", sets)).plan.trials]
    with running(tmp_path / "undisturbed", sets) as run:
        told, _ = run.communicate(timeout=600)
    assert run.returncode == 0, told
    landed = disturbed(tmp_path / "disturbed", sets, keys, plan, name, random.Random(seed))
    tables, states = test_kills.held(tmp_path / "undisturbed")
    found, ended = test_kills.held(tmp_path / "disturbed")
    assert {last_commit(Store(tmp_path / "disturbed"), key)["status"] for key in keys} <= schema.FINAL_STATUSES
    assert found == tables
    assert all(torch.equal(ended[key][name], states[key][name]) for key in keys for name in states[key])
    assert_no_committed_step_ran_again(tmp_path / "disturbed", keys)
    with capsys.disabled():
        print(f"\nseed {seed}: {landed} kills between a trial's first and last commit")
    assert landed >= at_least


KILLS_OF_PACKS = [("worker", "worker", "driver"), ("worker", "worker", "driver"), ("worker", "worker")]
KILLS_OF_REAL_WORKERS = [("worker", "driver"), ("worker", "worker")]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_packs_survive_the_death_of_their_processes_and_of_the_driver(tmp_path, capsys):
    compare(tmp_path, PACKS, KILLS_OF_PACKS, b"ray::ImplicitFunc", at_least=7, capsys=capsys)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_real_workers_survive_the_death_of_one_and_of_the_driver(tmp_path, capsys):
    compare(tmp_path, REAL, KILLS_OF_REAL_WORKERS, b"TrainWorker", at_least=4, capsys=capsys)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.parametrize("seed", range(10))
def test_packs_survive_eighty_more(tmp_path, capsys, seed):
    compare(tmp_path, PACKS, KILLS_OF_PACKS, b"ray::ImplicitFunc", at_least=7, capsys=capsys, seed=seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.ray
@pytest.mark.parametrize("seed", range(5))
def test_real_workers_survive_twenty_more(tmp_path, capsys, seed):
    compare(tmp_path, REAL, KILLS_OF_REAL_WORKERS, b"TrainWorker", at_least=4, capsys=capsys, seed=seed)
