"""The probe's arithmetic against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from scaleexp.probe.largest_batch import growth
from scaleexp.probe.links import link
from scaleexp.probe.repeats import alignment, clear, repeated, resampled, smallest_within
from scaleexp.probe.sizes import powers, triples, with_neighbours
from scaleexp.simulate.collectives import ring_all_reduce_s


@pytest.mark.parametrize("repeats", [5, 7, 11, 20])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says_whatever_the_distribution(repeats):
    rng = np.random.default_rng(0)
    held = [
        low <= 1.0 <= high
        for low, high in (repeated(np.exp(rng.standard_normal(repeats) ** 3)).interval for _ in range(3000))
    ]
    assert np.mean(held) >= 0.89  # 0.9 within two standard errors
    assert np.mean(held) <= 0.99


def test_a_wide_interval_is_said_to_be_noisy():
    assert repeated([1.0, 1.3, 1.0, 1.3, 1.0]).noisy
    assert not repeated([1.0, 1.05, 1.0, 1.05, 1.0]).noisy


def test_a_step_time_affine_in_the_batch_shows_no_advantage_of_powers_of_two():
    sizes = with_neighbours(powers(64), 65)
    seconds = np.array([[0.5 + 0.01 * b for b in sizes]] * 5)
    for middle in triples(sizes):
        assert alignment(sizes, seconds, middle) == pytest.approx(np.ones(5))


def test_a_slow_round_hides_no_advantage_for_it_is_slow_for_all():
    sizes, rng = (7, 8, 9), np.random.default_rng(0)
    rounds = np.exp(rng.standard_normal(11))[:, None]
    ratios = alignment(sizes, rounds * [[1.1, 1.0, 1.1]], 8)
    assert ratios == pytest.approx(np.full(11, 1 / 1.1))
    assert clear(ratios, 10)


def test_noise_alone_is_rarely_called_a_clear_difference_over_all_sizes():
    rng = np.random.default_rng(1)
    called = [any(clear(np.exp(rng.standard_normal(11)), 10) for _ in range(10)) for _ in range(400)]
    assert np.mean(called) <= 0.1


def test_the_smallest_batch_within_a_share_of_the_best_is_the_formulas():
    """Throughput b / (a + b) of its limit: within 5 % of that of the largest batch from a known b on."""
    sizes = list(range(1, 201))
    rates = np.array([[b / (10 + b) for b in sizes]] * 5)
    wanted = next(b for b in sizes if b / (10 + b) >= 0.95 * 200 / 210)
    assert smallest_within(sizes, rates, 0.05) == (wanted, (wanted, wanted))


def test_how_far_the_smallest_batch_moves_with_the_noise_is_told():
    rng = np.random.default_rng(0)
    sizes = [8, 16, 32, 64]
    rates = np.array([80.0, 94.5, 99.0, 100.0]) * np.exp(0.05 * rng.standard_normal((11, 4)))
    found, (low, high) = smallest_within(sizes, rates, 0.05)
    assert low <= found <= high
    assert low < high
    assert 16 in (low, found, high)


def test_memory_that_grows_by_so_much_a_sample_is_extrapolated_to_the_limit_within_its_interval():
    rng, held = np.random.default_rng(0), []
    for _ in range(200):
        sizes = np.repeat(2 ** np.arange(8), 3)
        peaks = np.maximum(5e8 + 1e5 * sizes + 2e5 * rng.standard_normal(len(sizes)), 5.03e8)  # small ones are hidden
        found = growth(sizes.tolist(), peaks.tolist())
        assert found.identified
        low, high = found.largest(1e9)[1]
        held.append(low <= 5000 <= high)
        assert found.peak_bytes(5000)[0] == pytest.approx(1e9, rel=0.05)
    assert np.mean(held) >= 0.85


def test_memory_that_does_not_grow_has_no_largest_batch():
    rng, sizes = np.random.default_rng(0), np.repeat(2 ** np.arange(8), 3)
    called = [growth(sizes.tolist(), (5e8 + 1e5 * rng.standard_normal(24)).tolist()).identified for _ in range(100)]
    assert np.mean(called) <= 0.05
    assert not growth(sizes.tolist(), [5e8] * 24).identified


def test_the_link_of_a_known_ring_is_found_within_its_interval():
    rng = np.random.default_rng(0)
    workers, size = np.repeat([2, 4], 7), np.tile(4096.0 * 4 ** np.arange(7), 2)
    inside = []
    for _ in range(40):
        exact = ring_all_reduce_s(size, workers, 2e9, 1e-4)
        found = link(workers, size, exact * np.exp(0.1 * rng.standard_normal((11, 14))))
        assert found.bytes_per_s == pytest.approx(2e9, rel=0.15)
        low, high = found.latency_s_interval
        inside.append(low <= 1e-4 <= high)
    assert np.mean(inside) >= 0.75


def test_the_interval_of_a_mean_over_rounds_is_that_of_the_textbook():
    values = np.random.default_rng(0).standard_normal(100)
    low, high = resampled(100, lambda rounds: float(values[rounds].mean()))
    assert (high - low) / 2 == pytest.approx(1.645 * values.std() / 10, rel=0.15)


def test_sizes_are_powers_of_two_with_both_neighbours_of_the_larger_ones():
    sizes = with_neighbours(powers(40), 40)
    assert sizes == (1, 2, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33)
    assert triples(sizes) == (8, 16, 32)
    grouped = with_neighbours(powers(64, group=4), 64, group=4)
    assert all(size % 4 == 0 for size in grouped)
    assert triples(grouped, group=4) == (32,)
