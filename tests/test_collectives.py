"""Closed forms of communication and waiting against a simulation of every worker's step."""

from __future__ import annotations

import numpy as np
import pytest

from scaleexp.simulate.collectives import (
    expected_maximum,
    exposed_in_buckets_s,
    exposed_s,
    hierarchical_all_reduce_s,
    ring_all_reduce_s,
    volume_ratio,
)
from scaleexp.simulate.step_time import StepTimeModel

STEPS = 10_000


def test_the_slowest_of_p_workers_is_as_late_as_the_closed_form_says():
    """10^4 steps of p workers whose times are normal: their slowest, on average, within four standard errors."""
    rng = np.random.default_rng(0)
    for p in (2, 8, 64):
        slowest = (1.0 + 0.05 * rng.standard_normal((STEPS, p))).max(axis=1)
        model = StepTimeModel.by_hand(compute_fixed_s=1.0, compute_per_sample_s=0.0, jitter=0.05)
        error = slowest.std() / np.sqrt(STEPS)
        assert abs(slowest.mean() - model.predict(p, 1, 8).step_time_s) < 4 * error
        assert error < 1e-3


def test_ten_thousand_workers_wait_for_their_slowest_within_a_tenth_of_a_per_cent():
    rng = np.random.default_rng(1)
    slowest = [1.0 + 0.05 * rng.standard_normal(10_000).max() for _ in range(300)]
    assert np.mean(slowest) == pytest.approx(1 + 0.05 * expected_maximum(10_000), rel=1e-3)


def test_buckets_reduced_as_they_get_ready_leave_exposed_what_the_closed_form_says():
    """Every bucket of 10^4 steps simulated: it starts when it is ready and the one before is done."""
    rng = np.random.default_rng(2)
    window, moved = rng.uniform(0.1, 2.0, STEPS), rng.uniform(0.1, 4.0, STEPS)
    for n in (1, 4, 25):
        done = np.zeros(STEPS)
        for bucket in range(1, n + 1):
            done = np.maximum(done, window * bucket / n) + moved / n
        np.testing.assert_allclose(exposed_in_buckets_s(window, moved, n), done - window, atol=1e-12)


def test_the_smooth_overlap_lies_between_none_and_all_that_fits():
    window, moved = np.meshgrid(np.linspace(0.1, 2, 20), np.linspace(0.0, 4, 20))
    sharp = exposed_s(window, moved, 200.0)
    np.testing.assert_allclose(exposed_s(window, moved, 1.0), moved, atol=1e-12)
    np.testing.assert_allclose(sharp, exposed_in_buckets_s(window, moved, 1e9), atol=0.02)
    for sharpness in (1.5, 3.0, 8.0):
        between = exposed_s(window, moved, sharpness)
        assert (between <= moved + 1e-12).all()
        assert (between >= sharp - 1e-12).all()


def test_a_ring_simulated_message_by_message_takes_what_its_formula_says():
    """2 (p - 1) rounds; in each, every rank sends one of p pieces to the next and waits for its own."""
    for p in (2, 5, 16):
        clock = np.zeros(p)
        for _ in range(2 * (p - 1)):
            clock = np.maximum(clock, np.roll(clock, 1)) + 1e8 / p / 1e9 + 1e-3
        assert ring_all_reduce_s(1e8, p, 1e9, 1e-3) == pytest.approx(clock.max())


def test_one_worker_moves_nothing_and_one_node_uses_no_network():
    assert ring_all_reduce_s(1e9, 1, 1.0, 1.0) == 0
    slow_network = hierarchical_all_reduce_s(1e9, 8, 1, 1e10, 1.0, 1.0)
    assert slow_network == pytest.approx(ring_all_reduce_s(1e9, 8, 1e10))
    assert hierarchical_all_reduce_s(1e9, 8, 8, 1.0, 1e9) == pytest.approx(ring_all_reduce_s(1e9, 8, 1e9))


def test_gathering_and_scattering_in_every_micro_batch_moves_half_as_much_again_each_time():
    assert volume_ratio("ddp", [1, 2, 8]).tolist() == [1, 1, 1]
    assert volume_ratio("fsdp", [1, 2, 8]).tolist() == [1.5, 3, 12]
