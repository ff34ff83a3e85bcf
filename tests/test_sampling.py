from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scaleexp.sampling import SampleOrder, counter_normals, permute, sample_order


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**62), epoch=st.integers(0, 10**9))
@settings(deadline=None, max_examples=60)
def test_every_epoch_visits_every_sample_once(size, seed, epoch):
    order = sample_order(epoch * size, (epoch + 1) * size, seed=seed, size=size)
    assert np.array_equal(np.sort(order), np.arange(size))


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_batch_is_the_same_however_it_is_split(data):
    size = data.draw(st.integers(1, 300))
    start = data.draw(st.integers(0, 1000))
    batch = data.draw(st.integers(1, 400))
    whole = sample_order(start, start + batch, seed=3, size=size)
    cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=5)))
    edges = [0, *cuts, batch]
    parts = [sample_order(start + a, start + b, seed=3, size=size) for a, b in pairwise(edges)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_the_order_never_changes_between_versions():
    assert sample_order(0, 12, seed=0, size=12).tolist() == GOLDEN_12
    assert sample_order(4000 * 7 - 3, 4000 * 7 + 3, seed=123456789, size=4000).tolist() == GOLDEN_4000
    np.testing.assert_allclose(counter_normals(5, 7, 3, seed=9), GOLDEN_NORMALS, rtol=1e-14)


GOLDEN_12 = [6, 8, 7, 10, 0, 11, 2, 4, 5, 1, 9, 3]
GOLDEN_4000 = [2993, 3264, 71, 1159, 404, 2173]
GOLDEN_NORMALS = [
    [-0.7300202336209434, -0.11697686122092116, 0.11295616271133872],
    [0.5081929332371974, -0.16600476526865707, -1.3938016942126983],
]


def test_epochs_and_seeds_are_ordered_independently():
    n = 4000
    a = sample_order(0, n, seed=1, size=n)
    for b in (sample_order(n, 2 * n, seed=1, size=n), sample_order(0, n, seed=2, size=n)):
        # If independent, their rank correlation has deviation 1 / sqrt(n - 1), and they agree at one place on average.
        assert abs(stats.spearmanr(a, b).statistic) < 4 / np.sqrt(n - 1)
        assert (a == b).sum() < 8


def test_a_position_is_uniform_over_seeds():
    first = np.array([permute(np.array([0]), np.array([0]), seed=s, size=10)[0] for s in range(5000)])
    assert stats.chisquare(np.bincount(first, minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize("start", [0, 17, 16384 - 5])
def test_the_cached_order_is_the_order(start):
    order = SampleOrder(seed=5, size=1000)
    for a in range(start, start + 20_000, 4999):
        assert np.array_equal(order(a, a + 4999), sample_order(a, a + 4999, seed=5, size=1000))
    assert np.array_equal(order(0, 3), sample_order(0, 3, seed=5, size=1000))


def test_counter_normals_are_standard_and_independent():
    z = counter_normals(0, 20_000, 7, seed=11)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    correlations = np.corrcoef(z.T)[~np.eye(7, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(z))
    lagged = np.corrcoef(z[:-1, 0], z[1:, 0])[0, 1]
    assert abs(lagged) < 5 / np.sqrt(len(z))


def test_counter_normals_of_one_sample_do_not_depend_on_the_others():
    assert np.array_equal(counter_normals(0, 50, 4, seed=2)[31:33], counter_normals(31, 33, 4, seed=2))
