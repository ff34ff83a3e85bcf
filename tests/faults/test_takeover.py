"""A driver dies, another takes the study over, and what was left of the first comes back from the dead."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scaleexp import schema
from scaleexp.commits import commit_files
from scaleexp.config import load_study
from scaleexp.launch.runner import prepare
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.verify import verify
from tests.faults import test_kills
from tests.faults.clusters import nodes
from tests.faults.small_study import rewritten
from tests.faults.test_kills_on_ray import REAL, parents
from tests.faults.test_nodes import driver, wait_for_commits

SEED = 20261124
REFUSAL = "another driver (lease 2) has taken over"
SETS = [*REAL, "processes=1", "limits.samples=640000"]


def written_by(root, key, fence):
    """Files of a trial that a driver's workers wrote, committed or not."""
    found = (root / schema.TRIALS_DIR / key).rglob(f"*-f{fence:04d}-*")
    return {file.relative_to(root).as_posix() for file in found if not file.name.endswith(".tmp")}


def commits(root, key):
    """(fence, step) of every commit, by number."""
    return [
        ((c := Store(root).read_json(f))["fence"], c["step"]) for _, f in sorted(commit_files(Store(root), key).items())
    ]


def wait_until(run, happened, what):
    end = time.monotonic() + 300
    while not happened():
        assert run is None or run.poll() is None, f"ended before {what}: {run.communicate()[0]}"
        if time.monotonic() > end:
            if run is not None:
                run.kill()
            pytest.fail(f"waited in vain until {what}: {run.communicate()[0] if run else ''}")
        time.sleep(0.02)


LEAVES_A_GROUP = """
import ray
from ray.util.placement_group import placement_group
ray.init(log_to_driver=False, namespace="left")
@ray.remote(num_cpus=0)
class Controller:
    def take(self):
        self.group = placement_group([{"CPU": 1}])
        return self.group.wait(30)
assert ray.get(Controller.options(name="controller", lifetime="detached").remote().take.remote())
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("name", "kept"), [("scaleexp.py", 0.0), ("another.py", 1.0)])
def test_cpus_that_a_killed_driver_of_ours_left_taken_are_given_back(tmp_path, name, kept):
    """As those that Ray Train's controller asks for as it dies; another program's are not touched."""
    (tmp_path / name).write_text(LEAVES_A_GROUP)
    joins = "from scaleexp.launch.cluster import ray_cluster\nwith ray_cluster([]): pass"
    with nodes(0, 1) as cluster:
        subprocess.run([sys.executable, tmp_path / name, "run"], env=cluster.environment, check=True, timeout=300)
        assert cluster.ask("held")["CPUs"] == 1.0
        subprocess.run([sys.executable, "-c", joins], env=cluster.environment, check=True, timeout=300)
        time.sleep(1)
        assert cluster.ask("held")["CPUs"] == kept


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_that_was_taken_over_refuses_the_worker_of_its_first_driver(tmp_path, capsys):
    """The worker's node stands still meanwhile: Ray ends a worker whose node it can reach with its driver."""
    draw, root = random.Random(SEED), tmp_path / "study"
    (trial,) = prepare(load_study("quickstart", SETS)).plan.trials
    with nodes(0, 1) as cluster:
        with driver(cluster, tmp_path / "undisturbed", SETS) as run:
            printed, _ = run.communicate(timeout=300)
        assert run.returncode == 0, printed
        with driver(cluster, root, SETS) as run:
            wait_for_commits(run, root, trial.key, draw.randint(2, 4))
            (zombie,) = cluster.processes("TrainWorker")
            (node,) = set(cluster.ask("nodes")) & set(parents(zombie))
            for pid in (node, zombie):
                os.kill(pid, signal.SIGSTOP)
            run.kill()
        wait_until(None, lambda: cluster.ask("alive") == 1, "its node was given up")
        cluster.ask("add", 1)
        before, last = written_by(root, trial.key, 1), last_commit(Store(root), trial.key)
        rewritten(root, "lease/0001.json", lambda held: held.update(space="another machine", host="elsewhere"))
        time.sleep(5)
        with driver(cluster, root, SETS) as second:
            wait_until(second, lambda: commits(root, trial.key)[-1][0] == 2, "the second took over")
            os.kill(zombie, signal.SIGCONT)
            printed = root / "logs" / "0001" / "real-1-0" / "rank-0.log"
            wait_until(second, lambda: printed.exists() and REFUSAL in printed.read_text(), "the zombie was refused")
            late = last_commit(Store(root), trial.key)
            os.kill(node, signal.SIGCONT)
            printed, _ = second.communicate(timeout=300)
        assert second.returncode == 0, printed
        assert "was last run by process" in printed
        assert "on elsewhere; waiting 30 s for a sign of life" in printed
        assert cluster.left_behind() == {}
        assert not Path(f"/proc/{zombie}").exists()
    assert late["status"] == "running", "the zombie came when all was done"
    made = commits(root, trial.key)
    assert [fence for fence, _ in made] == [1] * last["number"] + [2] * (len(made) - last["number"])
    assert made[last["number"]][1] >= last["step"], "the second went on where the first had been"
    scraps = {f.file for f in verify(Store(root)) if f.kind == "note"}
    assert written_by(root, trial.key, 1) - before <= scraps
    assert [f for f in verify(Store(root)) if f.kind != "note"] == []
    tables, states = test_kills.held(tmp_path / "undisturbed")
    found, ended = test_kills.held(root)
    assert found == tables
    assert all(torch.equal(ended[trial.key][name], states[trial.key][name]) for name in states[trial.key])
    with capsys.disabled():
        print(f"\nseed {SEED}: taken over after step {last['step']}, the zombie back at step {late['step']}")
