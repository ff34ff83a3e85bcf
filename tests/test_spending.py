"""What a study uses of its limits: never more than they say, over all runs of the command, however these end."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from math import inf
from types import SimpleNamespace

import jsonschema
import pytest
from click.testing import CliRunner

from scaleexp import asked, lease
from scaleexp.cli import cli
from scaleexp.config import load_study
from scaleexp.engines.packed import PackedEngine
from scaleexp.errors import ConfigError, InterruptedStudyError
from scaleexp.execute import run_packed
from scaleexp.launch import cluster, runner, tune
from scaleexp.launch.cluster import Resources
from scaleexp.launch.runner import prepare, run_study
from scaleexp.loop import Signal
from scaleexp.runlog import last_commit
from scaleexp.spending import LEAST_S, Holding, Left, Used, check_countable, left, used
from scaleexp.status import status_of
from scaleexp.status_text import rendered
from scaleexp.storage import Store

STEPS = 40
SETS = [
    "workload={name: quadratic, dimensions: 4}",
    "workers=[4]",
    "worker_batch=4",
    "seeds=[0]",
    "lr_multipliers=[1, 2]",
    "lr_rules=[none]",
    f"limits.samples={16 * STEPS}",
    "targets=[]",
    "noise.every_samples=64",
    "price_usd_per_worker_hour=3600",  # one dollar is one second of one worker
]
WORKERS = 2


class Clock:
    """Time that passes in training steps alone."""

    def __init__(self, patch) -> None:
        self.now, self.steps = 1e9, 0
        kinds = SimpleNamespace(
            monotonic=lambda: self.now, time=lambda: self.now, perf_counter=time.perf_counter, sleep=time.sleep
        )
        for module in (lease, runner, asked):
            patch.setattr(module, "time", kinds)
        real = PackedEngine.step

        def step(engine, *arguments, **options):
            self.now, self.steps = self.now + 1.0, self.steps + 1
            return real(engine, *arguments, **options)

        patch.setattr(PackedEngine, "step", step)


@pytest.fixture
def without_ray(monkeypatch):
    """Every study is run by this process, on a cluster of two CPU cores."""

    @contextmanager
    def here(trials, cpus_per_worker):
        yield Resources(cpus=WORKERS, gpus=0)

    def phases(assignment, trials, resources):
        run_packed(replace(assignment, held_s=None), trials, threads=1)  # the lease's beats come by the wall's clock
        return []

    monkeypatch.setattr(cluster, "ray_cluster", here)
    monkeypatch.setattr(tune, "run_phases", phases)
    return monkeypatch


def study(*more):
    return prepare(load_study("quadratic", [*SETS, *more]))


def commits(root):
    return [last_commit(Store(root), t.key) for t in study().plan.trials]


def dollars_used(root):
    return used(Store(root), Holding(workers=WORKERS, gpus=0, usd_per_worker_hour=3600.0)).usd


def test_runs_in_a_row_cannot_use_more_than_the_limit_together(tmp_path, without_ray):
    clock = Clock(without_ray)
    first = run_study(study("limits.usd=30"), tmp_path)
    assert first.ended == {"stopped": 2}
    assert first.met.cause == "limits.usd = 30"
    assert {c["cause"] for c in commits(tmp_path)} == {"limits.usd = 30"}
    assert {c["step"] for c in commits(tmp_path)} == {clock.steps}
    assert all(c["checkpoint"] for c in commits(tmp_path))
    assert 20 <= dollars_used(tmp_path) <= 30
    for _ in range(6):
        before = clock.steps
        again = run_study(study("limits.usd=30"), tmp_path)
        assert again.met.cause == "limits.usd = 30"
        assert again.used.usd == dollars_used(tmp_path) <= 30
    assert clock.steps == before, "what is left is too little to begin"
    assert again.ended == {"stopped": 2}


def test_raising_the_limit_goes_on_from_there(tmp_path, without_ray):
    clock = Clock(without_ray)
    run_study(study("limits.usd=30"), tmp_path)
    stopped_at = clock.steps
    done = run_study(study("limits.usd=300"), tmp_path)
    assert (done.ended, done.met) == ({"limit": 2}, None)
    assert clock.steps == STEPS > stopped_at, "no step was taken again"
    assert done.used.usd == pytest.approx(WORKERS * STEPS)
    assert done.used.runs == 2


def test_without_a_limit_nothing_is_stopped_and_what_is_used_counts_later(tmp_path, without_ray):
    clock = Clock(without_ray)
    free = [s for s in SETS if not s.startswith("price")]
    assert run_study(prepare(load_study("quadratic", free)), tmp_path).ended == {"limit": 2}
    assert dollars_used(tmp_path) == WORKERS * STEPS
    more = run_study(study("limits.usd=50", "limits.samples=3200"), tmp_path)
    assert more.met.cause == "limits.usd = 50"
    assert clock.steps == STEPS


def test_the_wall_time_is_that_of_one_run(tmp_path, without_ray):
    clock = Clock(without_ray)
    for expected in ({"stopped": 2}, {"stopped": 2}, {"limit": 2}):
        done = run_study(study("limits.wall_s=20"), tmp_path)
        assert done.ended == expected
    assert clock.steps == STEPS
    assert {c["status"] for c in commits(tmp_path)} == {"limit"}


def test_what_a_killed_run_used_counts(tmp_path, without_ray):
    """A process that holds a lease is killed, and leaves nothing but what it had written."""
    run_study(study("limits.wall_s=0.1"), tmp_path)
    store = Store(tmp_path)
    number = lease.newest(store) + 1
    child = os.fork()
    if child == 0:
        holding = Holding(workers=WORKERS, gpus=0, usd_per_worker_hour=3600.0)
        with lease.held(store, ttl_s=5.0, holding=holding.on_record(study("limits.usd=30").study.limits)):
            time.sleep(600)
    begin = time.monotonic()
    while f"{number:04d}.beat-000001" not in store.names("lease"):
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    lived_s = time.monotonic() - begin
    os.waitpid(child, 0)
    assert lived_s <= lease.held_s(store, number) <= lived_s + 2.5
    assert WORKERS * lived_s <= dollars_used(tmp_path)
    steps = Clock(without_ray)
    outcome = run_study(study(f"limits.usd={WORKERS * lived_s}"), tmp_path)
    assert outcome.met.limit == "limits.usd"
    assert (steps.steps, outcome.ended) == (0, {"waiting": 2})


def test_trials_that_a_killed_run_left_under_way_are_stopped_by_the_limit(tmp_path, without_ray):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        patch.setattr("scaleexp.execute._Clock.__call__", lambda self: Signal("", clock.steps == 5))
        real = PackedEngine.step

        def dies(engine, *arguments, **options):
            if clock.steps == 9:
                raise SystemExit
            return real(engine, *arguments, **options)

        patch.setattr(PackedEngine, "step", dies)
        with pytest.raises(SystemExit):
            run_study(study(), tmp_path)
    assert {(c["status"], c["step"]) for c in commits(tmp_path)} == {("running", 5)}
    outcome = run_study(study("limits.usd=10"), tmp_path)
    assert outcome.ended == {"stopped": 2}
    assert {(c["step"], c["cause"]) for c in commits(tmp_path)} == {(5, "limits.usd = 10")}
    clock = Clock(without_ray)
    assert run_study(study("limits.usd=1000"), tmp_path).ended == {"limit": 2}
    assert clock.steps == STEPS - 5


def test_what_does_not_stop_by_itself_is_ended_when_the_limit_is_met(tmp_path, without_ray):
    """One step takes a minute: nobody looks at the clock before it is over."""
    real, taken = PackedEngine.step, []

    def slow(engine, *arguments, **options):
        taken.append(1)
        if len(taken) > 3:
            time.sleep(60)
        return real(engine, *arguments, **options)

    without_ray.setattr(PackedEngine, "step", slow)
    without_ray.setattr("scaleexp.execute._Clock.__call__", lambda self: Signal("", len(taken) == 2))
    outcome = run_study(study(f"limits.usd={WORKERS * 12}"), tmp_path)
    assert outcome.seconds < 50
    assert outcome.met.cause == "limits.usd = 24"
    assert outcome.ended == {"stopped": 2}
    assert {(c["step"], c["cause"]) for c in commits(tmp_path)} == {(2, "limits.usd = 24")}
    assert outcome.used.usd <= 24 + WORKERS * 3, "and the seconds that a busy machine takes to end it"


def test_a_lease_that_does_not_say_what_it_held_is_taken_to_have_held_what_is_held_now(tmp_path):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", {"ttl_s": 30.0, "since": 0.0, **lease.holder()})
    store.write_json("lease/0001.beat-000010", {})
    store.write_json("lease/0002.json", {"ttl_s": 30.0, "since": 0.0, **lease.holder()})
    store.write_json("lease/0002.released", {"held_s": 36.0})
    now = Holding(workers=8, gpus=4, usd_per_worker_hour=10.0)
    found = used(store, now)
    assert found.runs == 2
    assert found.gpu_hours == pytest.approx(4 * (72 + 36) / 3600)
    assert found.usd == pytest.approx(8 * 10 * (72 + 36) / 3600)
    assert used(store, now, before=2).runs == 1


def test_the_first_limit_to_be_met_counts():
    limits = study("limits.usd=2", "limits.wall_s=100").study.limits
    two = Holding(workers=2, gpus=0, usd_per_worker_hour=60.0)
    assert left(limits, two, Used(), 0.0).seconds == 60.0
    assert left(limits, two, Used(), 50.0).cause == "limits.wall_s = 100"
    assert left(limits, two, Used(usd=1.0), 0.0).seconds == 30.0
    assert left(limits, two, Used(usd=3.0), 0.0).seconds == 0.0
    four = Holding(workers=4, gpus=4)
    assert left(study("limits.gpu_hours=1").study.limits, four, Used(gpu_hours=0.5), 0.0).seconds == 450.0
    assert left(study().study.limits, two, Used(usd=5.0), 9.0) == Left()
    assert Left().tidy_s == Left().cut_s == inf


def test_trials_stop_before_the_limit_and_are_ended_between():
    for seconds in (LEAST_S, 100.0, 1e3, 1e6):
        rest = Left(seconds=seconds, limit="limits.usd", value=1.0)
        assert 0.5 * seconds <= rest.tidy_s < rest.cut_s < seconds


def test_gpu_hours_without_a_gpu_are_refused():
    with pytest.raises(ConfigError, match=r"Ray has no GPU: set limits\.wall_s"):
        check_countable(study("limits.gpu_hours=1").study, Holding(workers=2, gpus=0))
    check_countable(study("limits.gpu_hours=1").study, Holding(workers=2, gpus=2))


def test_who_meets_a_limit_is_told_what_was_used_and_how_to_go_on(tmp_path, without_ray):
    Clock(without_ray)
    sets = [word for s in [*SETS, "limits.usd=30"] for word in ("--set", s)]
    command = ["run", "quadratic", "--yes", "--storage", str(tmp_path), *sets]
    without_ray.setattr("sys.argv", ["scaleexp", *command])
    result = CliRunner().invoke(cli, command)
    assert isinstance(result.exception, InterruptedStudyError)
    assert result.exception.exit_code == 130
    said = str(result.exception)
    assert re.match(r"stopped by limits\.usd = 30: \$2\d\.00 are used, in one run; what was committed is", said)
    assert said.endswith("--set limits.usd=60")
    assert "limits.usd=30" not in said
    assert "2 stopped where they were" in result.output
    document = status_of(Store(tmp_path))
    jsonschema.validate(document, json.loads(files("scaleexp").joinpath("schemas/status.json").read_text()))
    (row,) = document["limits"]
    assert (row["limit"], row["value"]) == ("limits.usd", 30.0)
    assert row["used"] == pytest.approx(dollars_used(tmp_path))
    assert re.search(
        r"^limits\.usd: \$2\d\.00 of \$30\.00 used by all runs$", rendered(document, width=80), re.MULTILINE
    )
