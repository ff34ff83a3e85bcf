"""A node goes away under real workers, told before or not, with room left elsewhere or none until one is added."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

import analysis.read
from scaleexp.config import load_study
from scaleexp.errors import TrialsFailedError
from scaleexp.launch.runner import prepare
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.verify import verify
from tests.faults import test_kills
from tests.faults.clusters import nodes
from tests.faults.test_kills_on_ray import PACKS, REAL, parents

SEED = 20261123
SETS = [*REAL, "limits.samples=160000"]


@contextmanager
def driver(cluster, root, sets=SETS):
    """The command on a cluster, in a process."""
    options = [word for override in sets for word in ("--set", override)]
    command = [sys.executable, "-m", "scaleexp", "run", "quickstart", "--storage", str(root), "--yes", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cluster.environment
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def wait_for_commits(run, root, key, more):
    """Until so many more states of a trial were committed; its last commit."""
    store, end = Store(root), time.monotonic() + 300
    number = (c["number"] if (c := last_commit(store, key)) else 1) + more  # the first binds no state
    while not (c := last_commit(store, key)) or c["number"] < number:
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < end, "nothing was committed for long"
        time.sleep(0.02)
    assert c["status"] == "running", "it ended before the node was taken away"
    return c


def holding(cluster):
    """Nodes, the head left out, that hold a worker."""
    workers = cluster.processes("TrainWorker")
    return [node for node in cluster.ask("nodes") if any(node in parents(pid) for pid in workers)]


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_outlives_the_nodes_of_its_workers(tmp_path, capsys):
    draw = random.Random(SEED)
    (trial,) = prepare(load_study("quickstart", SETS)).plan.trials
    with nodes(1, 1, 1) as cluster:
        with driver(cluster, tmp_path / "undisturbed") as run:
            assert run.wait(300) == 0, run.communicate()[0]
        assert cluster.left_behind() == {}
        root, resumed = tmp_path / "disturbed", [0]
        with driver(cluster, root) as run:
            for told in (True, False):
                wait_for_commits(run, root, trial.key, draw.randint(2, 4))
                cluster.ask("remove", draw.choice(holding(cluster)), told)
                resumed.append(last_commit(Store(root), trial.key)["step"])
            cluster.ask("add", 1)  # one CPU was left, and two are needed
            printed, _ = run.communicate(timeout=300)
        assert run.returncode == 0, printed
        assert cluster.left_behind() == {}
    tables, states = test_kills.held(tmp_path / "undisturbed")
    found, ended = test_kills.held(root)
    assert found == tables
    assert all(torch.equal(ended[trial.key][name], states[trial.key][name]) for name in states[trial.key])
    steps = analysis.read.read_table(analysis.read.load(root), "steps", ["step", "attempt"], None).to_pylist()
    first = [min(row["step"] for row in steps if row["attempt"] == attempt) for attempt in range(3)]
    assert first == [step + 1 for step in resumed], "every attempt begins after the last commit of the one before"
    with capsys.disabled():
        print(f"\nseed {SEED}: a told loss after step {resumed[1]}, an untold one after step {resumed[2]}")


@pytest.mark.long
@pytest.mark.ray
def test_real_workers_without_a_place_fail_by_their_deadline_and_the_others_go_on(tmp_path):
    """Another driver holds every CPU until the group of one worker has failed and that of two waits."""
    sets = [
        *REAL,
        "workers=[1, 2]",
        "lr_rules=[sqrt]",
        "limits={samples: 6400, start_s: 4}",
        "evaluation.every_samples=640",
    ]
    one, two = (t.key for t in prepare(load_study("quickstart", sets)).plan.trials)
    root = tmp_path / "study"
    with nodes(2) as cluster:
        cluster.ask("hold", 2)
        with driver(cluster, root, sets) as run:
            cluster.ask("let_go_for", 2)
            printed, _ = run.communicate(timeout=300)
        assert run.returncode == TrialsFailedError.exit_code, printed
        failed = last_commit(Store(root), one)
        assert (failed["status"], failed["step"]) == ("failed", 0)
        assert failed["cause"] == (
            "no place for 1 real worker in 4 s (limits.start_s): that takes 1 CPU at once, and 0 of 2 are free; let "
            "others on the cluster end, join a larger one with RAY_ADDRESS, or raise limits.start_s"
        )
        assert f"1 of 2 trials failed; the first cause was {failed['cause']!r} (trial {one})" in printed
        assert last_commit(Store(root), two)["status"] == "limit"
        assert verify(Store(root)) == []
        assert cluster.left_behind() == {}
        with driver(cluster, root, sets) as run:
            printed, _ = run.communicate(timeout=300)
        assert run.returncode == 0, printed
    assert {last_commit(Store(root), key)["status"] for key in (one, two)} == {"limit"}
    assert verify(Store(root)) == []


@pytest.mark.slow
@pytest.mark.ray
def test_packs_without_a_place_fail_by_their_deadline(tmp_path):
    sets = [*PACKS, "limits={samples: 6400, start_s: 4}"]
    with nodes(1) as cluster:
        cluster.ask("hold", 1)
        with driver(cluster, tmp_path / "study", sets) as run:
            printed, _ = run.communicate(timeout=300)
        assert run.returncode == TrialsFailedError.exit_code, printed
        assert "5 of 5 trials failed; the first cause was 'no place for a pack of trials in 4 s" in printed
        assert "that takes 1 CPU at once, and 0 of 1 are free; let others on the cluster end" in printed


@pytest.mark.long
@pytest.mark.ray
def test_what_drives_real_workers_has_a_deadline_too(tmp_path):
    """Another driver holds all memory of the head, where it would run."""
    sets = [*REAL, "limits={samples: 6400, start_s: 4}", "evaluation.every_samples=640"]
    (trial,) = prepare(load_study("quickstart", sets)).plan.trials
    with nodes(2) as cluster:
        cluster.ask("hold", cluster.ask("memory") - 1000, "memory")
        with driver(cluster, tmp_path / "study", sets) as run:
            printed, _ = run.communicate(timeout=120)
        assert run.returncode == TrialsFailedError.exit_code, printed
    failed = last_commit(Store(tmp_path / "study"), trial.key)
    assert (failed["status"], failed["step"]) == ("failed", 0)
    assert failed["cause"].startswith(
        "what drives real workers did not start in 4 s (limits.start_s) and 30 s more: it"
    )
    assert "1 of 1 trials failed; the first cause was 'what drives real workers did not start" in printed
