from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from scaleexp.schedules import warmup_constant


def lr_spent(edges, warmup):
    """Sum of B x multiplier over the steps between `edges`."""
    return sum((b - a) * warmup_constant(a, b, warmup_samples=warmup) for a, b in pairwise(edges))


@given(warmup=st.integers(0, 10_000), small=st.integers(1, 64), ratio=st.integers(1, 64), steps=st.integers(1, 50))
def test_the_lr_spent_does_not_depend_on_the_batch_size(warmup, small, ratio, steps):
    total = small * ratio * steps
    by_small = lr_spent(range(0, total + 1, small), warmup)
    by_large = lr_spent(range(0, total + 1, small * ratio), warmup)
    assert by_small == pytest.approx(by_large, rel=1e-12)


@given(cuts=st.sets(st.integers(1, 9_999), max_size=30), warmup=st.integers(0, 12_000))
def test_a_ragged_split_spends_the_integral_of_the_schedule(cuts, warmup):
    exact = 10_000**2 / (2 * warmup) if warmup > 10_000 else 10_000 - warmup / 2
    assert lr_spent([0, *sorted(cuts), 10_000], warmup) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (3, 100), (90, 110), (100, 101), (400, 1000)])
def test_a_step_gets_the_mean_that_quadrature_finds(start, stop):
    mean = quad(lambda x: min(1.0, x / 100), start, stop, points=[100] if start < 100 < stop else None)[0]
    assert warmup_constant(start, stop, warmup_samples=100) == pytest.approx(mean / (stop - start))


@given(start=st.integers(0, 2**40), length=st.integers(1, 2**30), warmup=st.integers(0, 2**41))
def test_the_multiplier_is_positive_and_at_most_one(start, length, warmup):
    assert 0 < warmup_constant(start, start + length, warmup_samples=warmup) <= 1


def test_without_warmup_the_lr_is_the_peak_from_the_first_step():
    assert warmup_constant(0, 1, warmup_samples=0) == 1.0


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (6, 5), (-1, 5)])
def test_a_step_that_eats_nothing_is_refused(start, stop):
    with pytest.raises(ValueError, match="0 <= start < stop"):
        warmup_constant(start, stop, warmup_samples=10)
