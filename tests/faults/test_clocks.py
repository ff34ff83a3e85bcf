"""A node whose clock runs ahead of the driver's: no limit is met early, and what stops early all the same is told."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from scaleexp import asked, lease
from scaleexp.config import load_study
from scaleexp.errors import InterruptedStudyError
from scaleexp.launch.runner import prepare, run_study
from scaleexp.storage import Store
from tests.faults import small_study
from tests.test_spending import SETS, without_ray  # noqa: F401  # a fixture
from tests.without_ray import assigned

HOUR_S = 3600.0


@pytest.fixture
def an_hour_ahead(monkeypatch):
    clock = SimpleNamespace(time=lambda: time.time() + HOUR_S, monotonic=time.monotonic)
    monkeypatch.setattr(asked, "time", clock)


def assignment(root, fence, held_s):
    study = small_study.prepared()
    return assigned(
        study, root, fence=fence, deadline=time.time() + held_s, deadline_cause="limits.wall_s = 60", held_s=held_s
    )


def test_a_process_whose_clock_runs_ahead_trains_on_until_the_driver_has_held_its_lease_for_as_long(
    tmp_path, an_hour_ahead
):
    store = Store(tmp_path)
    with lease.held(store) as number:
        assert assignment(tmp_path, number, held_s=60.0).stop() == ""
        store.write_json(f"lease/{number:04d}.beat-000009", {"held_s": 59.0})
        time.sleep(0.6)
        assert assignment(tmp_path, number, held_s=60.0).stop() == "limits.wall_s = 60"


def test_where_the_storage_does_not_answer_its_own_clock_counts(tmp_path, an_hour_ahead, monkeypatch):
    def away(*arguments):
        raise lease.StorageError("not there")

    monkeypatch.setattr(lease, "held_s", away)
    monkeypatch.setattr(lease, "stop_requested", away)
    assert assignment(tmp_path, 1, held_s=60.0).stop() == "limits.wall_s = 60"


def test_trials_that_stop_while_the_driver_knows_of_no_reason_are_no_success(
    tmp_path,
    without_ray,  # noqa: F811
    an_hour_ahead,
):
    """The process does not ask the driver here."""
    study = prepare(load_study("quadratic", [*SETS, "limits.wall_s=600"]))
    with pytest.raises(InterruptedStudyError, match="2 of 2 trials stopped before their ends though no limit is met"):
        run_study(study, tmp_path)
