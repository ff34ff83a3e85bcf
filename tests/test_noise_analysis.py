"""The noise scale against gradients drawn with a known G and Sigma."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.noise import Measurements, estimates, measurements, noise_at_target, noise_scale, noise_series
from analysis.read import load
from analysis.targets import batch_points, runs_to_target
from tests.study_factory import TR_SIGMA, write_study

G_SQ = 0.02
TRACE = 8.0
B_SIMPLE = TRACE / G_SQ


def drawn(rng: np.random.Generator, steps: int, batch: int = 64, shards: int = 4, dim: int = 30) -> Measurements:
    """Gradients of Gaussian examples with unequal variances, and their norms."""
    sigma = np.linspace(1.0, 3.0, dim)
    sigma *= TRACE / sigma.sum()
    truth = np.full(dim, math.sqrt(G_SQ / dim))
    b = batch // shards
    g = truth + rng.standard_normal((steps, shards, dim)) * np.sqrt(sigma / b)
    small, big = (g**2).sum(2).mean(1), (g.mean(1) ** 2).sum(1)
    full = np.full(steps, float(batch))
    g_sq, tr_sigma = estimates(small, big, np.full(steps, float(b)), full)
    return Measurements(np.arange(1, steps + 1) * full, g_sq, tr_sigma, full)


def test_both_averages_are_unbiased() -> None:
    m = drawn(np.random.default_rng(0), 20_000)
    for values, truth in ((m.g_sq, G_SQ), (m.tr_sigma, TRACE)):
        assert abs(values.mean() - truth) < 3 * values.std() / math.sqrt(values.size)


def test_the_noise_scale_is_the_ratio_of_averages_and_no_easier_recipe() -> None:
    m = drawn(np.random.default_rng(1), 20_000)
    result = noise_scale([m], confidence=0.99)
    assert result.interval[0] < B_SIMPLE < result.interval[1]
    assert result.interval[1] / result.interval[0] < 1.3
    clamped = m.tr_sigma.mean() / np.maximum(m.g_sq, 0.0).mean()
    mean_of_ratios = (m.tr_sigma / m.g_sq).mean()
    for wrong in (clamped, mean_of_ratios):
        assert not result.interval[0] < wrong < result.interval[1]


@pytest.mark.parametrize(("runs", "steps"), [(3, 400), (12, 100), (30, 40)])
def test_interval_covers_the_noise_scale_as_often_as_it_claims(runs: int, steps: int) -> None:
    rng = np.random.default_rng(runs)
    results = [noise_scale([drawn(rng, steps, batch=256) for _ in range(runs)]) for _ in range(200)]
    covered = np.mean([r.interval[0] <= B_SIMPLE <= r.interval[1] for r in results])
    assert 0.84 <= covered <= 0.96


def test_runs_of_different_batches_share_one_noise_scale() -> None:
    rng = np.random.default_rng(2)
    result = noise_scale([drawn(rng, 4000, batch) for batch in (16, 64, 256)])
    assert result.interval[0] < B_SIMPLE < result.interval[1]


def test_a_gradient_lost_in_noise_is_unresolved_with_a_lower_bound() -> None:
    rng = np.random.default_rng(3)
    results = [noise_scale([drawn(rng, 30, batch=8)]) for _ in range(20)]
    lost = [r for r in results if r.status == "unresolved"]
    assert len(lost) > 10
    for r in lost:
        assert math.isnan(r.b_simple)
        assert math.isinf(r.interval[1])
        assert "may be 0" in r.reason
    assert any(r.interval[0] > 0 for r in lost)


def test_too_few_measurements_are_no_interval() -> None:
    result = noise_scale([drawn(np.random.default_rng(4), 2)])
    assert result.status == "unresolved"
    assert "too few" in result.reason
    assert noise_scale([]).status == "unresolved"


def test_the_window_before_the_target_gives_the_noise_scale_there(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", s_min=200.0, noise_cadence=1, b_simple=100.0, lrs_per_batch=1))
    points, _ = batch_points(runs_to_target(log, "loss", 1.0, "min"))
    result = noise_at_target(log, points)
    assert result is not None
    # |G|^2 falls linearly, to (4 - 3 x) TR_SIGMA / 100 at the share x of the way: 1.5 on average over the last third.
    truth = 100.0 / 1.5
    assert result.interval[0] < truth < result.interval[1]
    assert result.tr_sigma == pytest.approx(TR_SIGMA, rel=0.05)


def test_norms_read_from_a_log_are_never_clamped(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", batches=(16, 64), s_min=200.0, noise=0.0, noise_cadence=1, b_simple=1000.0)
    measured = measurements(load(path), {trial.key for trial in load(path).trials if trial.facts["batch_size"] == 16})
    g_sq, share = [
        np.concatenate(column) for column in zip(*((m.g_sq, m.samples) for m in measured.values()), strict=True)
    ]
    assert (g_sq < 0).mean() > 0.2
    crossing = 200.0 * (16 + 256)  # of the tuned runs; the others fall more slowly, so only the early part is compared
    early = share < 0.1 * crossing
    truth = TR_SIGMA / 1000.0 * (4.0 - 3.0 * share[early] / crossing)
    assert abs((g_sq[early] - truth).mean()) < 3 * g_sq[early].std() / math.sqrt(early.sum())


def test_the_noise_scale_rises_over_training_where_the_gradient_shrinks(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", s_min=200.0, noise_cadence=1, lrs_per_batch=1))
    points, _ = batch_points(runs_to_target(log, "loss", 1.0, "min"))
    series = noise_series(log, points)
    assert [s.batch_size for s in series] == [16, 64, 256, 1024]
    largest = [w for w in series[-1].windows if w.status == "ok"]
    assert largest[-1].b_simple > 1.5 * largest[0].b_simple
    ends = [w.samples_range for w in series[-1].windows]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))


def test_a_study_without_gradient_norms_has_no_noise_scale(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", batches=(1, 2), b_crit=4.0, s_min=30.0, lrs_per_batch=1, seeds=1))
    points, _ = batch_points(runs_to_target(log, "loss", 1.0, "min"))
    assert noise_at_target(log, [p for p in points if p.batch_size == 1]) is None
