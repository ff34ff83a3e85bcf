"""The cluster is gone, or Ray fails: the command says so in a sentence, can be given again, and loses nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import ray
import torch
from click.testing import CliRunner

from scaleexp import schema
from scaleexp.cli import cli
from scaleexp.config import load_study
from scaleexp.errors import ClusterLostError, TrialsFailedError
from scaleexp.execute import run_packed
from scaleexp.launch import cluster
from scaleexp.launch.runner import open_study, prepare
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.faults import small_study, test_kills
from tests.faults.test_kills_on_ray import PACKS, running, wait_for_progress, workers_of
from tests.without_ray import assigned

RESUMABLE = 130
SETS = [*PACKS, "workers=[1]", "lr_multipliers=[1]", "limits.samples=64000"]


@pytest.fixture
def no_cluster(monkeypatch):
    """Joining Ray is joining nothing."""
    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(cluster, "_remove_orphans", lambda: None)


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ActorDiedError(),
        ray.exceptions.RaySystemError("the system is down"),
        ConnectionError("GCS cannot be reached"),
        pytest.param("TuneError", id="TuneError"),
    ],
)
def test_what_ray_raises_is_a_sentence_and_resumable(no_cluster, error):
    from ray.tune.error import TuneError

    error = TuneError("The trial ended.\nTraceback ...") if error == "TuneError" else error
    with (
        pytest.raises(ClusterLostError, match=r"^the Ray cluster failed \(\w+: .+\)$") as caught,
        cluster.ray_cluster([]),
    ):
        raise error
    assert caught.value.exit_code == RESUMABLE
    assert "\n" not in str(caught.value)


def test_what_others_raise_stays_what_it_is(no_cluster):
    for error in (TrialsFailedError("1 of 2 trials failed"), KeyError("pixels"), FileExistsError("study.json")):
        with pytest.raises(type(error)), cluster.ray_cluster([]):
            raise error


def test_who_gave_the_command_reads_which_command_goes_on(no_cluster, monkeypatch, tmp_path):
    def gone(*arguments):
        raise ray.exceptions.RaySystemError("the system is down")

    monkeypatch.setattr("scaleexp.launch.tune.run_phases", gone)
    monkeypatch.setattr(sys, "argv", ["scaleexp", "run", "quadratic", "--yes"])
    done = CliRunner().invoke(cli, ["run", "quadratic", "--yes", "--storage", str(tmp_path)])
    assert isinstance(done.exception, ClusterLostError)
    assert re.fullmatch(
        r"the Ray cluster failed \(RaySystemError: .*the system is down\); "
        f"what was committed is kept in {tmp_path}, and this goes on from there: scaleexp run quadratic --yes",
        str(done.exception),
    )
    assert "released" in " ".join(Store(tmp_path).names("lease")), "the next one need not wait"


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_whose_cluster_loses_its_head_ends_with_a_sentence_and_goes_on_in_the_next_one(tmp_path):
    study = prepare(load_study("quickstart", SETS))
    keys, root = [t.key for t in study.plan.trials], tmp_path / "study"
    open_study(study, tmp_path / "undisturbed")
    run_packed(assigned(study, tmp_path / "undisturbed"), study.plan.trials, threads=1)
    torch.use_deterministic_algorithms(False)
    with running(root, SETS) as run:
        assert wait_for_progress(run, root, keys, 0.0)
        for process in workers_of(run.pid, b""):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        printed, _ = run.communicate(timeout=55)
    before = {key: last_commit(Store(root), key) for key in keys}
    assert any(c and c["status"] == "running" for c in before.values()), "the head was killed when all was done"
    assert run.returncode == RESUMABLE, printed
    assert "error: the Ray cluster is gone (its head does not answer); what was committed is kept in" in printed
    assert "Traceback" not in printed
    with running(root, SETS) as run:
        printed, _ = run.communicate(timeout=300)
    assert run.returncode == 0, printed
    assert {last_commit(Store(root), key)["status"] for key in keys} <= schema.FINAL_STATUSES
    tables, states = test_kills.held(tmp_path / "undisturbed")
    found, ended = test_kills.held(root)
    assert found == tables
    assert all(torch.equal(ended[key][name], states[key][name]) for key in keys for name in states[key])


@pytest.mark.slow
@pytest.mark.ray
def test_sigterm_while_it_waits_for_another_driver_is_an_interruption_with_the_command_that_goes_on(tmp_path):
    study = prepare(load_study("quadratic", small_study.SETS))
    store = open_study(study, tmp_path)
    store.write_json("lease/0001.json", {"host": "elsewhere", "pid": 1, "space": "another machine", "ttl_s": 300.0})
    options = [word for override in small_study.SETS for word in ("--set", override)]
    command = [sys.executable, "-m", "scaleexp", "run", "quadratic", "--storage", str(tmp_path), "--yes", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        lines = []
        for line in run.stdout:
            lines.append(line)
            if "waiting 300 s for a sign of life" in line:
                time.sleep(1.0)
                run.terminate()
        assert run.wait(60) == RESUMABLE, lines
    assert "and this goes on from there: scaleexp run quadratic --storage" in lines[-1]
