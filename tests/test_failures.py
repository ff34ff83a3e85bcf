"""Failures, checkpoints and restarts against a simulation that knows nothing of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from scaleexp.simulate.failures import completion, daly_interval, run_mtbf, young_interval

MTBF, CHECKPOINT, RESTART = 2_000.0, 30.0, 250.0


def simulated(work_s, every_s, runs, rng, *, mtbf=MTBF, checkpoint_s=CHECKPOINT, restart_s=RESTART):
    """Seconds and failures of `runs` runs, event by event: all of them in step, until the last has ended."""
    segments = int(np.ceil(work_s / every_s))
    lengths = np.full(segments, work_s / segments) + np.r_[np.full(segments - 1, checkpoint_s), 0.0]
    clock, failures, at = np.zeros(runs), np.zeros(runs), np.zeros(runs, dtype=int)
    restarting = np.zeros(runs, dtype=bool)
    while (at < segments).any():
        going = at < segments
        wanted = np.where(restarting, restart_s, lengths[np.minimum(at, segments - 1)])
        until = rng.exponential(mtbf, runs)
        failed = going & (until < wanted)
        clock += np.where(going, np.minimum(until, wanted), 0.0)
        at += going & ~failed & ~restarting
        failures += failed
        restarting = np.where(going, failed, restarting)
    return clock, failures


@pytest.mark.parametrize(("work_s", "every_s"), [(20_000.0, 350.0), (20_000.0, 3_000.0), (900.0, 1_000.0)])
def test_expected_time_spread_and_failures_are_those_of_a_simulation(work_s, every_s):
    runs = 20_000
    clock, failures = simulated(work_s, every_s, runs, np.random.default_rng(7))
    found = completion(work_s, MTBF, checkpoint_s=CHECKPOINT, restart_s=RESTART, every_s=every_s)
    error = clock.std() / np.sqrt(runs)
    assert float(found.mean_s) == pytest.approx(clock.mean(), abs=4 * error)
    assert float(found.failures) == pytest.approx(failures.mean(), abs=4 * failures.std() / np.sqrt(runs))
    assert float(found.sd_s) == pytest.approx(clock.std(), rel=0.04)  # of a skewed sum, from 20,000 runs


def test_ten_thousand_workers_step_by_step_take_what_the_parts_say():
    """Jitter of every worker in every step, failures of every node, restarts: within 1 %, the error of the largest."""
    rng, workers, nodes, steps, node_mtbf = np.random.default_rng(3), 10_000, 1_250, 400, 1_250 * 900.0
    jitter, compute_s = 0.04, 2.0
    slowest = compute_s * (1 + jitter * rng.standard_normal((steps, workers)).max(axis=1))
    first = rng.exponential(node_mtbf, (4_000, nodes)).min(axis=1)  # of any node
    mtbf = float(run_mtbf(node_mtbf, nodes))
    assert first.mean() == pytest.approx(mtbf, abs=4 * mtbf / np.sqrt(4_000))
    clock, _ = simulated(slowest.sum(), 120.0, 20_000, rng, mtbf=mtbf)
    largest = ndtri((workers - 0.375) / (workers + 0.25))
    found = completion(
        steps * compute_s * (1 + jitter * largest), mtbf, checkpoint_s=CHECKPOINT, restart_s=RESTART, every_s=120.0
    )
    assert float(found.mean_s) == pytest.approx(clock.mean(), rel=0.01)


def test_daly_s_interval_loses_no_more_than_any_other():
    every = np.geomspace(20.0, 5_000.0, 400)
    taken = completion(200_000.0, MTBF, checkpoint_s=CHECKPOINT, restart_s=RESTART, every_s=every).mean_s
    daly = completion(200_000.0, MTBF, checkpoint_s=CHECKPOINT, restart_s=RESTART).mean_s
    assert float(daly) == pytest.approx(taken.min(), rel=1e-3)
    young = completion(
        200_000.0, MTBF, checkpoint_s=CHECKPOINT, restart_s=RESTART, every_s=young_interval(CHECKPOINT, MTBF)
    ).mean_s
    assert float(daly) <= float(young)


def test_without_failures_nothing_is_lost_and_nothing_saved():
    found = completion(1_000.0, np.inf, checkpoint_s=60.0, restart_s=300.0)
    assert [float(x) for x in (found.mean_s, found.sd_s, found.failures)] == [1_000.0, 0.0, 0.0]
    assert float(found.checkpoint_every_s) == np.inf


def test_a_run_that_can_hardly_live_for_one_restart_never_ends():
    found = completion(1e6, 1.0, checkpoint_s=600.0, restart_s=600.0)
    assert float(found.mean_s) == np.inf


def test_a_short_run_saves_no_checkpoint():
    found = completion(100.0, 1e6, checkpoint_s=60.0, restart_s=60.0)
    assert float(found.checkpoint_every_s) == np.inf
    assert 100.0 < float(found.mean_s) < 100.1


positive = st.floats(1.0, 1e6)


@given(work=positive, mtbf=st.floats(1e3, 1e9), checkpoint=st.floats(0.0, 300.0), restart=st.floats(0.0, 900.0))
def test_failures_never_make_a_run_shorter_and_more_of_them_make_it_longer(work, mtbf, checkpoint, restart):
    often, seldom = (
        completion(work, m, checkpoint_s=checkpoint, restart_s=restart, every_s=500.0) for m in (mtbf, 2 * mtbf)
    )
    assert work * (1 - 1e-9) <= float(seldom.mean_s) <= float(often.mean_s) * (1 + 1e-9)
    assert 0 <= float(seldom.sd_s) <= float(often.sd_s) * (1 + 1e-6) + 1e-9


@given(checkpoint=st.floats(0.1, 1e4), mtbf=st.floats(1.0, 1e9))
def test_the_interval_is_never_longer_than_the_time_between_failures_when_saving_takes_as_long(checkpoint, mtbf):
    found = float(daly_interval(checkpoint, mtbf))
    assert found > 0
    assert found == mtbf if checkpoint >= 2 * mtbf else found <= float(young_interval(checkpoint, mtbf)) * 1.5
