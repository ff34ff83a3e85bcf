"""What a plan says before a study runs, against what the study then does and leaves on the disk."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from scaleexp import checkpoint, schema
from scaleexp.calibrate import REPEATS, calibrate
from scaleexp.config import load_study
from scaleexp.engines.base import NoiseMeasurement
from scaleexp.execute import run_packed
from scaleexp.launch.opening import bytes_of, open_study, prepare
from scaleexp.log_bytes import evaluations, measured
from scaleexp.loop import Signal
from scaleexp.plan import plan_document
from scaleexp.resume import steps_left
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.without_ray import assigned

SMALL = [
    "workload.hidden=[16]",
    "workers=[4, 16]",
    "base={batch_size: 32, lr: 0.1}",
    "seeds=[0, 1]",
    "lr_multipliers=[1]",
    "lr_rules=[none]",
    "limits.samples=6400",
    "targets=[]",
    "realisations=[]",
    "noise.every_samples=256",  # by the clock it would be one cadence now and another then
]
WAYS = {
    "sgd": (),
    "adamw in float64": ("optimizer={name: adamw}", "dtype=float64"),
    "norms of every layer": ("noise.per_layer=true",),
    "no state kept": ("checkpoint.keep_finished=false",),
}


def study(*more):
    return prepare(load_study("quickstart", [*SMALL, *more]))


def planned(prepared, root=None):
    """The document of a study that has not begun, or of what is left there."""
    trials = prepared.plan.trials
    new = {t.key: t.limit_steps for t in trials}
    left = steps_left(Store(root), trials, prepared.targets) if root else new
    size = 0 if root else bytes_of(prepared)
    found = calibrate(prepared.study, prepared.workload, trials, left, study_bytes=size)
    return plan_document(prepared.plan, prepared.study, found, left)


def run(prepared, root, *, commit_after=(), stop_after=None):
    """All of it without Ray; commit after these steps of every pack, and stop every pack after this one."""
    open_study(prepared, root)
    sizes = sorted({t.batch_size for t in prepared.plan.trials})
    for batch_size in sizes:
        calls = itertools.count(1)

        def clock(self, calls=calls):
            call = next(calls)
            return Signal("asked" if call == stop_after else "", call in commit_after)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scaleexp.execute._Clock.__call__", clock)
            own = [t for t in prepared.plan.trials if t.batch_size == batch_size]
            run_packed(assigned(prepared, root), own, threads=1)


def bytes_in(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def samples_in(root, prepared) -> int:
    return sum(last_commit(Store(root), t.key)["samples"] for t in prepared.plan.trials)


@pytest.mark.parametrize("way", WAYS)
def test_a_study_takes_the_samples_and_the_disk_that_its_plan_says(tmp_path, way):
    prepared = study(*WAYS[way])
    said = planned(prepared)
    run(prepared, tmp_path)
    assert said["samples_at_most"] == samples_in(tmp_path, prepared) == len(prepared.plan.trials) * 6400
    assert said["disk_bytes_at_most"] == pytest.approx(bytes_in(tmp_path), rel=0.1)
    least, most = said["seconds_interval"]
    assert 0 < least <= said["seconds_at_most"] <= most
    assert f"{REPEATS} timings" in said["rests_on"]["seconds"]
    assert "launching" not in said["rests_on"]["seconds"]
    again = planned(prepared, tmp_path)
    assert (again["trials"], again["samples_at_most"], again["disk_bytes_at_most"]) == (0, 0, 0.0)


def test_of_a_study_that_goes_on_only_what_is_left_is_counted(tmp_path):
    prepared = study()
    run(prepared, tmp_path, stop_after=60)
    before, bytes_before = samples_in(tmp_path, prepared), bytes_in(tmp_path)
    said = planned(prepared, tmp_path)
    assert said["trials"] == len(prepared.plan.trials)
    run(prepared, tmp_path)
    assert said["samples_at_most"] == samples_in(tmp_path, prepared) - before > 0
    states = sum(last_commit(Store(tmp_path), t.key)["checkpoint"]["bytes"] for t in prepared.plan.trials)
    rows = said["disk_bytes_at_most"] - states  # states take the place of those that were there
    assert rows == pytest.approx(bytes_in(tmp_path) - bytes_before, rel=0.15)


@pytest.mark.parametrize("commits", [1, 7, 25])
def test_every_commit_binds_all_segments_before_it_and_that_is_counted(tmp_path, commits):
    prepared = study("workers=[4]", "seeds=[0]", "lr_multipliers=[1]", "base={batch_size: 16, lr: 0.1}")
    (trial,) = prepared.plan.trials
    every = 400 // commits
    run(prepared, tmp_path, commit_after=range(every, 400 - every // 2, every))
    directory = tmp_path / "trials" / trial.key
    last = last_commit(Store(tmp_path), trial.key)
    rows = {table: sum(s["rows"] for s in last["segments"] if s["table"] == table) for table in ("steps", "evals")}
    written = len(list((directory / "commits").iterdir())) - 2  # the first, and the last a second time
    assert rows["steps"] == 400
    metrics = [*prepared.workload.metrics, schema.DISTANCE]
    assert rows["evals"] == len(metrics) * evaluations(0, 400, 16, 128)
    noise = NoiseMeasurement(small=[0.0], big=[0.0], shards=16)  # type: ignore[arg-type]
    found = measured(
        Store(tmp_path).read_json(f"trials/{trial.key}/trial.json"),
        last["realisation"],
        last["timings"],
        last["goal"]["targets"],
        checkpoint.decode((directory / last["checkpoint"]["file"]).read_bytes()),
        metrics=metrics,
        rows=400,
        evaluated=rows["evals"] // len(metrics),
        noise=noise,
        noise_every=16,
    )
    states = sum(file.stat().st_size for file in (directory / "checkpoints").iterdir())
    assert found.state == states
    assert found.of_log(rows, written) == pytest.approx(bytes_in(directory) - states, rel=0.05)


def test_while_trials_run_more_states_are_there_than_in_the_end(tmp_path):
    prepared = study("checkpoint.every_s=0.0001")
    said = planned(prepared)
    most, real = [], Store.write

    def counted(store, name, content):
        real(store, name, content)
        most.append(bytes_in(tmp_path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", counted)
        patch.setattr("scaleexp.writer.LANES", 1)  # nothing is removed while it is counted
        run(prepared, tmp_path, commit_after=range(1, 400, 40))
    assert most[-1] < max(most) <= said["peak_disk_bytes_at_most"]


def test_real_workers_have_no_time_and_their_disk_is_counted(tmp_path):
    prepared = study("engine=ddp", "workers=[2]", "worker_batch=16", "price_usd_per_worker_hour=1")
    said = planned(prepared)
    assert (said["seconds_at_most"], said["usd_at_most"], said["timings"]) == (None, None, 0)
    assert said["not_timed_trials"] == len(prepared.plan.trials) == 2
    assert "measuring it takes launching them" in said["rests_on"]["seconds"]
    assert "Ray" in said["rests_on"]["disk_bytes"]
    virtual = study("workers=[2]", "worker_batch=16", "noise.every_samples=1")
    run(virtual, tmp_path)
    assert said["disk_bytes_at_most"] == pytest.approx(bytes_in(tmp_path), rel=0.1)
