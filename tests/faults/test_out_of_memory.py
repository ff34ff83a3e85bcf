"""Where memory runs out fewer samples pass at once, on all processes alike: the same training, up to rounding."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from analysis.read import load, read_evals, read_steps
from scaleexp import memory
from scaleexp.config import load_study
from scaleexp.engines.packed import EVALUATED_AT_ONCE, PackedEngine
from scaleexp.errors import TrialsFailedError
from scaleexp.execute import run_packed
from scaleexp.held import evaluated_at_once, split
from scaleexp.launch.runner import open_study, prepare, run_study
from scaleexp.loop import Signal
from scaleexp.resume import Standing
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.without_ray import assigned

SETS = [
    "dtype=float64",
    "workload={name: 'tests.plugin_workloads:Hungry', hidden: [8]}",
    "workers=[4]",
    "worker_batch=8",
    "base={batch_size: 32, lr: 0.05}",
    "seeds=[0]",
    "lr_rules=[none]",
    "lr_multipliers=[1, 2]",
    "limits.samples=960",
    "evaluation.every_samples=320",
    "targets=[{metric: val_loss, values: [0.001]}]",
    "noise={shards: 4, every_samples: 320}",
    "realisations=[]",
    "deterministic=true",
]


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


def run(root, fits, monkeypatch, *more):
    monkeypatch.setenv("SCALEEXP_TEST_FITS", str(fits))
    study = prepare(load_study("quickstart", [*SETS, *more]))
    open_study(study, root)
    run_packed(assigned(study, root), study.plan.trials, threads=1)
    return [t.key for t in study.plan.trials]


def columns(root, names=("samples", "loss", "grad_sq_small", "grad_sq_big")):
    log = load(root)
    assert not log.problems
    order = [("lr", "ascending"), ("step", "ascending")]
    steps = read_steps(log, ["lr", "step", *names]).sort_by(order)
    values = {n: steps[n].to_numpy() for n in ("step", *names)}
    return values | {"values": read_evals(log).sort_by([*order, ("metric", "ascending")])["value"]}


def assert_same_training(root, other):
    a, b = columns(root), columns(other)
    for name in a:
        np.testing.assert_allclose(np.asarray(a[name]), np.asarray(b[name]), rtol=1e-10, err_msg=name)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    root = tmp_path_factory.mktemp("roomy")
    with pytest.MonkeyPatch.context() as patch:
        run(root, 10**6, patch)
    return root


@pytest.mark.parametrize(("fits", "micro_batch"), [(31, 8), (8, 8), (7, 4), (3, 2)])
def test_what_does_not_fit_is_accumulated_and_the_global_batch_stays(tmp_path, monkeypatch, roomy, fits, micro_batch):
    keys = run(tmp_path, fits, monkeypatch)
    assert_same_training(tmp_path, roomy)
    steps = read_steps(load(tmp_path), ["batch_size", "workers", "micro_batch", "accumulation_steps"]).to_pylist()
    assert {(s["batch_size"], s["workers"], s["micro_batch"]) for s in steps} == {(32, 4, micro_batch)}
    assert all(s["micro_batch"] * s["accumulation_steps"] * s["workers"] == s["batch_size"] for s in steps)
    commits = [last_commit(Store(tmp_path), key) for key in keys]
    assert {c["status"] for c in commits} == {"limit"}
    assert all(c["realisation"]["samples_at_once"] <= fits for c in commits)
    assert memory.least_refused(Store(tmp_path), "packed", 1) > fits


def test_it_goes_on_from_the_last_commit_and_no_step_below_it_runs_again(tmp_path, monkeypatch, roomy):
    ran, real, calls = [], PackedEngine.step, []

    def step(self, start, *args, **options):
        ran.append(start // 32)
        return real(self, start, *args, **options)

    monkeypatch.setattr(PackedEngine, "step", step)
    monkeypatch.setattr(
        "scaleexp.execute._Clock.__call__", lambda self: Signal("", not calls.append(1) and len(calls) == 9)
    )
    run(tmp_path, 16, monkeypatch, "workload={name: 'tests.plugin_workloads:Hungry', hidden: [8], after: 512}")
    again = ran.index(9, ran.index(9) + 1)
    assert ran == [*ran[:again], *range(9, 30)], "from step 9, the last one committed"
    assert_same_training(tmp_path, roomy)


def test_where_nothing_smaller_is_the_same_the_trials_fail_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(
        TrialsFailedError, match=r"out of memory: 1 trial of batch size 32 do.* not fit.*give more memory"
    ):
        run(tmp_path, 16, monkeypatch, "workload={name: 'tests.plugin_workloads:HungryContrastive', hidden: [8]}")


def test_a_study_that_goes_on_does_not_try_again_what_did_not_fit(tmp_path, monkeypatch):
    run(tmp_path, 16, monkeypatch, "limits.samples=640")
    before = Store(tmp_path).names("memory")
    run(tmp_path, 16, monkeypatch)
    assert Store(tmp_path).names("memory") == before


def test_a_pack_that_cannot_hold_fewer_samples_is_trained_in_two(tmp_path, monkeypatch):
    study = prepare(load_study("quickstart", [*SETS, "lr_multipliers=[1, 2, 4]"]))
    group = [Standing(trial=trial, values={}) for trial in study.plan.trials]
    assert [(len(own), at_once) for own, at_once in split(study.workload, group, None, None)] == [(3, 32)]
    assert [(len(own), at_once) for own, at_once in split(study.workload, group, 20, None)] == [(3, 4)]
    assert [(len(own), at_once) for own, at_once in split(study.workload, group, 3, None)] == [(1, 2), (2, 1)]
    monkeypatch.setattr(study.workload, "couples_examples", True, raising=False)
    assert [(len(own), at_once) for own, at_once in split(study.workload, group, 65, None)] == [(1, 32), (2, 32)]


def stopping_at(call):
    calls = itertools.count(1)
    return lambda clock: Signal("that is enough" if next(calls) == call else "")


@pytest.mark.parametrize(("samples", "bytes_at_once"), [(32, 2**30), (5, 5 * 2 * 6280)])
def test_a_trial_that_goes_on_in_as_much_memory_holds_what_it_held(tmp_path, monkeypatch, samples, bytes_at_once):
    """A sample has 6280 bytes: the second passes fewer at once than a batch has, though no memory ran out."""
    monkeypatch.setattr("scaleexp.engines.packed.INPUT_BYTES_AT_ONCE", bytes_at_once)
    held = []
    for stop in (3, 3, 10**9):
        monkeypatch.setattr("scaleexp.execute._Clock.__call__", stopping_at(stop))
        (key, _) = run(tmp_path, 10**6, monkeypatch)
        commit = last_commit(Store(tmp_path), key)
        held.append([commit["realisation"][name] for name in ("samples_at_once", "evaluated_at_once")])
    assert commit["status"] == "limit"
    assert held == [[samples, EVALUATED_AT_ONCE]] * 3


def test_a_trial_that_goes_on_in_less_memory_holds_less_of_both(tmp_path):
    trial = prepare(load_study("quickstart", SETS)).plan.trials[0]
    record = {"samples_at_once": 32, "evaluated_at_once": 1000}
    assert [evaluated_at_once(trial, n, record) for n in (32, 16, 1)] == [1000, 500, 31]
    assert evaluated_at_once(trial, 16, None) == EVALUATED_AT_ONCE // 2


REALLY = """
import resource, sys
import torch
from scaleexp.config import load_study
from scaleexp.execute import run_packed
from scaleexp.held import split
from scaleexp.launch.runner import open_study, prepare
from tests.without_ray import assigned
study = prepare(load_study("quickstart", sys.argv[2:]))
open_study(study, sys.argv[1])
torch.nn.functional.cross_entropy(torch.ones(4, 10, requires_grad=True), torch.zeros(4, dtype=torch.long)).backward()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 700 * 2**20, resource.RLIM_INFINITY))
run_packed(assigned(study, sys.argv[1]), study.plan.trials, threads=1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_a_process_that_cannot_allocate_goes_on_with_less(tmp_path):
    """3584 samples and 4,000 hidden units in float64 take 115 MB for each activation alone."""
    sets = [
        *SETS,
        "workload={name: classifier, hidden: [4000]}",
        "lr_multipliers=[1]",
        "worker_batch=896",
        "base={batch_size: 3584, lr: 0.01}",
        "limits.samples=7168",
        "evaluation.every_samples=3584",
        "noise={shards: 4, every_samples: 100000}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", REALLY, str(tmp_path), *sets],
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    log = load(tmp_path)
    assert [t.commit["status"] for t in log.trials] == ["limit"]
    refused = memory.least_refused(Store(tmp_path), "packed", 1)
    assert refused is not None
    assert log.trials[0].commit["realisation"]["samples_at_once"] < refused <= 3584


@pytest.mark.ray
@pytest.mark.long
def test_one_of_two_real_workers_runs_out_of_memory_and_both_take_less(tmp_path, monkeypatch):
    roomy, tight = tmp_path / "roomy", tmp_path / "tight"
    sets = [*SETS, "engine=ddp", "workers=[2]", "worker_batch=16", "lr_multipliers=[1]", "checkpoint.every_s=0.01"]
    after = "workload={name: 'tests.plugin_workloads:Hungry', hidden: [8], after: 512}"
    monkeypatch.setenv("SCALEEXP_TEST_FITS", "1000000")
    assert run_study(prepare(load_study("quickstart", [*sets, after])), roomy).ended == {"limit": 1}
    monkeypatch.setenv("SCALEEXP_TEST_FITS", "8")
    assert run_study(prepare(load_study("quickstart", [*sets, after])), tight).ended == {"limit": 1}
    assert memory.least_refused(Store(tight), "ddp", 2) == 16
    assert_same_training(tight, roomy)
    steps = read_steps(load(tight), ["micro_batch", "accumulation_steps"]).to_pylist()
    assert {(s["micro_batch"], s["accumulation_steps"]) for s in steps[-1:]} == {(8, 2)}


def in_use():
    """Bytes of memory in use, and in all, as Ray counts them."""
    from ray._private.utils import get_system_memory, get_used_memory

    return get_used_memory(), get_system_memory()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["packed", "ddp"])
def test_a_process_that_ray_kills_for_its_memory_is_followed_by_one_that_holds_less(tmp_path, engine):
    used, total = in_use()
    room = 5 * 2**30
    if total - used < 3 * room:
        pytest.skip("needs 15 GiB of free memory")
    hungry = "workload={name: 'tests.plugin_workloads:Hungry', hidden: [8], after: 512}"
    real = ["workers=[2]", "worker_batch=16"] if engine == "ddp" else []
    sets = [*SETS, *real, hungry, f"engine={engine}", "lr_multipliers=[1]", "checkpoint.every_s=0.01"]
    command = [sys.executable, "-m", "scaleexp", "run", "quickstart", "--storage", str(tmp_path), "--yes"]
    tight = {"SCALEEXP_TEST_FITS": "8", "SCALEEXP_TEST_HOLDS": str(2 * room), "RAY_memory_monitor_refresh_ms": "100"}
    threshold = {"RAY_memory_usage_threshold": str((used + room) / total)}
    for _ in range(3 if engine == "ddp" else 1):  # Ray may kill what drives the workers, too, and then the run ends
        done = subprocess.run(
            [*command, *(word for override in sets for word in ("--set", override))],
            capture_output=True,
            text=True,
            env=os.environ | tight | threshold,
        )
        if done.returncode == 0:
            break
        assert "killed because its node ran out of memory" in done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = load(tmp_path).trials
    assert trial.commit["status"] == "limit"
    notes = [Store(tmp_path).read_json(f"memory/{name}") for name in Store(tmp_path).names("memory")]
    assert notes
    assert all("killed because its node ran out of memory" in note["cause"] for note in notes)
    steps = read_steps(load(tmp_path), ["step", "batch_size", "micro_batch", "accumulation_steps"]).to_pylist()
    assert [s["step"] for s in steps] == list(range(1, 31))
    assert {s["batch_size"] for s in steps} == {32}
    assert steps[-1]["micro_batch"] <= 8


SAYS = "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: ...) was ..."


def test_a_kill_is_noted_as_what_the_process_held_and_no_other_cause_is(tmp_path, monkeypatch):
    """Three trials of 32 samples at once, one of which was about to commit."""
    from scaleexp.launch.killed import note_killed

    study = prepare(load_study("quickstart", [*SETS, "lr_multipliers=[1, 2, 4]"]))
    trials, store = study.plan.trials, Store(tmp_path)
    held = {"status": "running", "fence": 2, "realisation": {"samples_at_once": 32}}
    commits = {t.key: {**held, "step": 3 + (i == 2)} for i, t in enumerate(trials)}
    monkeypatch.setattr("scaleexp.launch.killed.last_commits", lambda *_: commits)
    note_killed(store, trials, "ActorDiedError: segmentation fault", None)
    assert memory.least_refused(store, "packed", 1) is None
    note_killed(store, trials, SAYS, None)
    assert memory.least_refused(store, "packed", 1) == 64
    note_killed(store, trials, SAYS, None)  # another pack that began when nothing was refused
    assert memory.least_refused(store, "packed", 1) == 64
    note_killed(store, trials, SAYS, 64)
    assert memory.least_refused(store, "packed", 1) == 32
    commits[trials[0].key]["fence"] = commits[trials[1].key]["fence"] = 1  # of an earlier driver
    note_killed(store, trials, SAYS, None)
    assert memory.least_refused(store, "packed", 1) == 32
