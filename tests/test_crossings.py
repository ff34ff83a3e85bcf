"""Crossings of all runs at once are, bit for bit, those of one run after another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.crossings import first_confirmed_crossings
from scaleexp.laws import first_confirmed, interpolated_crossing


def one_run(samples, values, target, direction):
    """(reached, crossing, low, high, last miss) of one run, as plainly as can be."""
    order = np.argsort(samples, kind="stable")
    samples, values = samples[order], values[order]
    missed = np.flatnonzero(~(values <= target if direction == "min" else values >= target))
    last_miss = float(samples[missed[-1]]) if missed.size else 0.0
    hit = first_confirmed(values.tolist(), target, direction)
    if hit is None:
        return False, math.nan, math.nan, math.nan, last_miss
    if hit == 0:
        return True, float(samples[0]), 0.0, float(samples[0]), last_miss
    before, after = ((float(samples[i]), float(values[i])) for i in (hit - 1, hit))
    return True, interpolated_crossing(before, after, target), before[0], after[0], last_miss


def run_after_run(run, samples, values, target, direction):
    keys = np.unique(run)
    return keys, [one_run(samples[run == key], values[run == key], target, direction) for key in keys]


def assert_same(run, samples, values, target, direction):
    found = first_confirmed_crossings(run, samples, values, target, direction)
    keys, expected = run_after_run(run, samples, values, target, direction)
    assert found.runs.tolist() == keys.tolist()
    columns = (found.reached, found.samples, found.low, found.high, found.last_miss)
    for column, wanted in zip(columns, zip(*expected, strict=True) if expected else [()] * 5, strict=True):
        assert np.array_equal(column, np.array(wanted, dtype=column.dtype), equal_nan=True)


# Few distinct numbers, so that ties, lucky evaluations and targets met exactly are common.
VALUES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 1e-300, 1e308, -1e308, math.nan, math.inf, -math.inf, 0.1, 0.7])
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), VALUES), max_size=40)


@settings(max_examples=400, deadline=None)
@given(ROWS, st.sampled_from([1.0, 0.3, 0.0]), st.sampled_from(["min", "max"]))
def test_crossings_of_any_rows_in_any_order_are_those_of_one_run_after_another(rows, target, direction):
    run, samples, values = (
        np.array(c, dtype=d)
        for c, d in zip(
            zip(*rows, strict=True) if rows else ((), (), ()), (np.int64, np.int64, np.float64), strict=True
        )
    )
    assert_same(run, samples, values, target, direction)


@pytest.mark.parametrize("direction", ["min", "max"])
def test_crossings_of_noisy_falling_curves_are_those_of_one_run_after_another(direction):
    rng = np.random.default_rng(0)
    run = np.repeat(np.arange(300), rng.integers(1, 40, 300))
    samples = rng.permuted(np.concatenate([np.arange(n) * 64 for n in np.bincount(run)]))
    values = 3.0 * np.exp(-samples / 900.0) + 0.2 * rng.standard_normal(run.size)
    values[rng.random(run.size) < 0.02] = np.nan
    sign = 1.0 if direction == "min" else -1.0
    assert_same(run, samples, sign * values, sign * 1.0, direction)
    assert_same(run, samples.astype(np.float64), sign * values, sign * 1.0, direction)


def test_the_last_evaluation_of_a_run_is_not_confirmed_by_the_first_of_the_next():
    found = first_confirmed_crossings([0, 0, 1, 1], [0, 10, 0, 10], [3.0, 0.5, 0.5, 3.0], 1.0, "min")
    assert not found.reached.any()
    assert found.last_miss.tolist() == [0.0, 10.0]


def test_no_evaluation_gives_no_run():
    assert first_confirmed_crossings([], [], [], 1.0, "min").runs.size == 0
