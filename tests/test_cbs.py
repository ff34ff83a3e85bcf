"""The critical batch size: exact on a true curve, honest about every other."""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from analysis.bootstrap import resample_seeds
from analysis.cbs import CurveFit, fit_curve, fit_points
from analysis.curve import fit_curves
from analysis.targets import Run, batch_points
from analysis.wording import percent
from scaleexp.errors import ConfigError, NotEnoughDataError

B_CRIT, S_MIN = 256.0, 500.0
BATCHES = tuple(2**k for k in range(4, 13))


def sweep(
    rng: np.random.Generator,
    *,
    batches: Sequence[int] = BATCHES,
    seeds: int = 3,
    noise: float = 0.1,
    lrs: int = 5,
    curvature: float = 0.4,
    scatter: float = 0.0,
) -> list[Run]:
    """Runs of a true curve on a factor-2 LR grid; half of the noise variance is a seed's own at every LR."""
    runs = []
    for B in batches:
        shared, batch_effect = rng.standard_normal(seeds), scatter * rng.standard_normal()
        for j in range(lrs):
            z = math.sqrt(0.5) * (shared + rng.standard_normal(seeds))
            penalty = curvature * (math.log(2.0) * (j - lrs // 2)) ** 2
            steps = S_MIN * (1.0 + B_CRIT / B) * np.exp(penalty + batch_effect + noise * z)
            runs += [run(B, float(2.0**j), seed, float(s)) for seed, s in enumerate(steps)]
    return runs


def run(batch_size: int, lr: float, seed: int, steps: float | None) -> Run:
    samples = (steps or 1000.0) * batch_size
    return Run(
        key=f"{batch_size}-{lr:g}-{seed}",
        seed=seed,
        batch_size=batch_size,
        workers=1,
        lr=lr,
        reached=steps is not None,
        samples=samples,
        bracket=(samples, math.inf if steps is None else samples),
        status="limit" if steps is None else "reached",
    )


def fit(runs: list[Run], seed: int = 0, resamples: int = 400) -> CurveFit:
    return fit_curve(batch_points(runs)[0], runs, confidence=0.9, seed=seed, resamples=resamples)


def curve_table(
    shape, batches: Sequence[int], seeds: int, noise: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(batch size, samples) rows of any law of steps against batch."""
    b = np.repeat(np.array(batches, dtype=float), seeds)
    z = np.random.default_rng(seed).standard_normal(b.size)
    return b, b * shape(b) * np.exp(noise * z)


# --- the fit itself ---------------------------------------------------------------------------------------------


def test_an_exact_curve_is_returned_exactly() -> None:
    result = fit(sweep(np.random.default_rng(0), noise=0.0))
    assert result.b_crit == pytest.approx(B_CRIT, rel=1e-9)
    assert result.s_min == pytest.approx(S_MIN, rel=1e-9)
    assert result.e_min == pytest.approx(S_MIN * B_CRIT, rel=1e-9)
    assert result.status == "ok"
    assert result.rms_log_residual < 1e-9


def test_the_profile_search_finds_what_a_general_least_squares_solver_finds() -> None:
    rng = np.random.default_rng(1)
    b = np.array(BATCHES, dtype=float)
    rows = np.log(S_MIN * (1 + B_CRIT / b)) + 0.15 * rng.standard_normal((20, b.size))
    log_b_crit, log_s_min = fit_curves(b, rows)
    for row, beta, alpha in zip(rows, log_b_crit, log_s_min, strict=True):
        other = least_squares(lambda p, row=row: row - p[0] - np.logaddexp(0, p[1] - np.log(b)), [6.0, 5.0], xtol=1e-14)
        assert (alpha, beta) == pytest.approx(tuple(other.x), rel=1e-6)


def test_the_band_holds_the_fitted_curve_and_the_measured_range() -> None:
    result = fit(sweep(np.random.default_rng(2)))
    assert (result.band[0][0], result.band[-1][0]) == pytest.approx((16, 4096))
    for b, low, high in result.band:
        assert low < result.s_min * (1 + result.b_crit / b) < high


def test_the_same_seed_gives_the_same_interval_and_another_nearly_so() -> None:
    runs = sweep(np.random.default_rng(3))
    first, again, other = fit(runs, 0, 2000), fit(runs, 0, 2000), fit(runs, 1, 2000)
    assert first == again
    assert other.b_crit_interval != first.b_crit_interval
    assert other.b_crit_interval == pytest.approx(first.b_crit_interval, rel=0.03)


# --- the interval -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("noise", "batches"), [(0.05, BATCHES[:-1]), (0.15, BATCHES)])
def test_interval_covers_the_truth_as_often_as_it_claims(seeds: int, noise: float, batches: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seeds)
    fits = [fit(sweep(rng, seeds=seeds, noise=noise, batches=batches), i) for i in range(300)]
    covered = np.mean([f.b_crit_interval[0] <= B_CRIT <= f.b_crit_interval[1] for f in fits])
    assert 0.85 <= covered <= 0.95 + 0.02  # 300 sweeps know a coverage of 0.9 to +-0.017
    logs = np.log([f.b_crit / B_CRIT for f in fits])
    assert abs(logs.mean()) < 3 * logs.std() / math.sqrt(len(fits)) + 0.005
    assert Counter(f.status for f in fits)["misfit"] <= 3


def test_interval_covers_scatter_that_seeds_do_not_explain() -> None:
    rng = np.random.default_rng(5)
    fits = [fit(sweep(rng, noise=0.03, scatter=0.05, lrs=1), i, 200) for i in range(300)]
    covered = np.mean([f.b_crit_interval[0] <= B_CRIT <= f.b_crit_interval[1] for f in fits])
    assert 0.83 <= covered <= 0.96


def test_one_run_per_batch_draws_from_the_residuals_and_says_so() -> None:
    rng = np.random.default_rng(6)
    fits = [fit(sweep(rng, seeds=1, lrs=1, noise=0.1), i, 200) for i in range(200)]
    covered = np.mean([f.b_crit_interval[0] <= B_CRIT <= f.b_crit_interval[1] for f in fits])
    assert 0.83 <= covered <= 0.96
    assert fits[0].seed_noise is None
    assert "one run per batch" in " ".join(fits[0].warnings)


def test_choosing_the_lr_on_its_own_seeds_does_not_make_steps_look_few() -> None:
    rng = np.random.default_rng(7)
    raw, corrected = [], []
    for i in range(200):
        runs = sweep(rng, noise=0.1, curvature=0.0, seeds=3)  # every LR is as good: choosing can only flatter
        points, _ = batch_points(runs)
        raw.append(np.mean([math.log(p.steps / (S_MIN * (1 + B_CRIT / p.batch_size))) for p in points]))
        corrected.append(math.log(fit_curve(points, runs, seed=i, resamples=200).s_min / S_MIN))
    assert np.mean(raw) < -0.03
    assert abs(np.mean(corrected)) < 0.02


def test_optimism_is_nothing_where_there_is_no_choice() -> None:
    runs = sweep(np.random.default_rng(8), lrs=1)
    drawn = resample_seeds(batch_points(runs)[0], runs, 4000, np.random.default_rng(0))
    assert np.abs(drawn.optimism).max() == 0.0


def test_resamples_have_the_variance_of_the_mean() -> None:
    runs = sweep(np.random.default_rng(9), batches=(64, 128, 256), lrs=1, seeds=4)
    drawn = resample_seeds(batch_points(runs)[0], runs, 20_000, np.random.default_rng(0)).log_steps
    for j, B in enumerate((64, 128, 256)):
        logs = np.log([r.steps for r in runs if r.batch_size == B])
        assert drawn[:, j].var() == pytest.approx(logs.var(ddof=1) / logs.size, rel=0.05)


def test_a_batch_with_one_seed_borrows_the_spread_of_the_others() -> None:
    runs = [r for r in sweep(np.random.default_rng(10), lrs=1) if r.batch_size != 16 or r.seed == 0]
    drawn = resample_seeds(batch_points(runs)[0], runs, 1000, np.random.default_rng(0)).log_steps
    assert 0.05 < drawn[:, 0].std() < 0.2
    spoilt = next(i for i, r in enumerate(runs) if r.batch_size == 64)
    runs[spoilt] = replace(runs[spoilt], samples=100 * runs[spoilt].samples)  # an outlier lends nothing
    drawn = resample_seeds(batch_points(runs)[0], runs, 1000, np.random.default_rng(0)).log_steps
    assert 0.05 < drawn[:, 0].std() < 0.2


# --- status -----------------------------------------------------------------------------------------------------


def noisy_quadratic_steps(b: np.ndarray) -> np.ndarray:
    """Steps to expected loss 0.01 of the noisy quadratic model, LR tuned (h_i = 1/i, i <= 10^4, c = h, x_0 = 1)."""
    golden = {4: 1507537, 64: 96071, 256: 25779, 1024: 10385, 4096: 7857, 65536: 7095}
    return np.array([golden[int(x)] for x in b], dtype=float)


NQM = (4, 64, 256, 1024, 4096, 65536)


def test_the_noisy_quadratic_is_a_misfit_at_one_percent_noise() -> None:
    for seed in range(20):
        result = fit_points(*curve_table(noisy_quadratic_steps, NQM, 3, 0.01, seed))
        assert result.status == "misfit"
        assert result.rms_log_residual == pytest.approx(0.081, abs=0.01)
        assert percent(result.rms_log_residual) in result.reason
        assert "lack of fit" in result.reason


def test_the_noisy_quadratic_gives_what_a_general_solver_gives_and_is_near_the_denser_sweep() -> None:
    b = np.array(NQM, dtype=float)
    y = np.log(noisy_quadratic_steps(b))
    other = least_squares(lambda p: y - p[0] - np.logaddexp(0, p[1] - np.log(b)), [8.0, 6.0], xtol=1e-14)
    result = fit_points(*curve_table(noisy_quadratic_steps, NQM, 1, 0.0))
    assert (math.log(result.s_min), math.log(result.b_crit)) == pytest.approx(tuple(other.x), rel=1e-6)
    assert result.rms_log_residual == pytest.approx(math.sqrt(2 * other.cost / b.size), rel=1e-6)
    # A least-squares fit made elsewhere, over more batch sizes between the same ends: 825, 6726.
    assert result.b_crit == pytest.approx(825, rel=0.05)
    assert result.s_min == pytest.approx(6726, rel=0.05)


def test_steps_in_proportion_to_one_over_the_batch_have_no_critical_batch_size() -> None:
    result = fit_points(*curve_table(lambda b: 1e6 / b, BATCHES, 3, 0.05))
    assert result.status == "not_identified"
    assert math.isinf(result.b_crit_interval[1])
    assert result.e_min == pytest.approx(1e6, rel=0.15)
    assert "fall in proportion" in result.reason


def test_an_exactly_linear_curve_is_said_to_be_linear() -> None:
    result = fit_points(BATCHES, [1e6] * len(BATCHES))
    assert (result.b_crit, result.s_min) == (math.inf, 0.0)
    assert result.e_min == pytest.approx(1e6)
    assert result.status == "not_identified"


def test_a_flat_curve_has_no_critical_batch_size() -> None:
    result = fit_points(*curve_table(lambda b: 1000.0 + 0.0 * b, BATCHES, 3, 0.05))
    assert result.status == "not_identified"
    assert result.b_crit_interval[0] == 0.0
    assert "hardly fall" in result.reason


def test_two_batches_are_not_a_curve() -> None:
    result = fit_points([16, 16, 64, 64], [1e5, 1.1e5, 2e5, 2.1e5])
    assert result.status == "not_identified"
    assert result.b_crit_interval == (0.0, math.inf)
    assert math.isnan(result.b_crit)


def test_batches_within_a_factor_two_are_too_close() -> None:
    result = fit_points(*curve_table(lambda b: 100 * (1 + 80 / b), (64, 90, 128), 5, 0.001))
    assert result.status == "not_identified"
    assert "factor 2" in result.reason


def test_a_critical_batch_beyond_the_measured_ones_is_extrapolated() -> None:
    result = fit_points(*curve_table(lambda b: 100 * (1 + 300 / b), (16, 32, 64, 128), 3, 0.01))
    assert result.status == "extrapolated"
    assert "above the largest measured batch, 128" in result.reason


def test_a_true_curve_with_ordinary_noise_is_practically_never_a_misfit() -> None:
    rng = np.random.default_rng(11)
    statuses = Counter(fit(sweep(rng, noise=0.1), i, 100).status for i in range(300))
    assert statuses["misfit"] <= 2


def at_grid(runs: list[Run], batches: Sequence[int], keep) -> list[Run]:
    return [r for r in runs if r.batch_size not in batches or keep(r.lr)]


@pytest.mark.parametrize(("batches", "status"), [((16, 64, 256), "ok"), ((16, 32, 64, 256), "not_identified")])
def test_a_best_lr_at_the_edge_of_more_than_a_third_of_the_grids_is_not_ok(batches, status) -> None:
    runs = sweep(np.random.default_rng(20), noise=0.02)  # nine batches, the best of five LRs is 4
    result = fit(at_grid(runs, batches, lambda lr: lr >= 4.0))
    assert result.status == status
    if status != "ok":
        assert "4 of 9 batch sizes (16, 32, 64, 256)" in result.reason
        assert "widen the learning-rate grid" in result.reason


@pytest.mark.parametrize(("batches", "status"), [((16, 64, 256), "ok"), ((16, 32, 64, 256), "not_identified")])
def test_evaluations_too_far_apart_at_more_than_a_third_of_the_batches_are_not_ok(batches, status) -> None:
    runs = [
        replace(r, bracket=(0.8 * r.samples, 1.1 * r.samples)) if r.batch_size in batches else r
        for r in sweep(np.random.default_rng(21), noise=0.02)
    ]
    result = fit(runs)
    assert result.status == status
    if status != "ok":
        assert "4 of 9 batch sizes (16, 32, 64, 256); evaluate more often" in result.reason


def test_doubtful_batches_come_before_an_extrapolation() -> None:
    runs = sweep(np.random.default_rng(22), batches=(16, 32, 64, 128), noise=0.005)
    assert fit(runs).status == "extrapolated"
    assert fit(at_grid(runs, (16, 32), lambda lr: lr <= 4.0)).status == "not_identified"


def test_one_lr_per_batch_has_no_edge_but_was_not_tuned() -> None:
    single = fit(sweep(np.random.default_rng(23), lrs=1, noise=0.02))
    table = fit_points(*curve_table(lambda b: S_MIN * (1 + B_CRIT / b), BATCHES, 3, 0.02))
    for result in (single, table):
        assert result.status == "ok"
        assert any("was not tuned per batch" in warning for warning in result.warnings)
    assert not any("tuned" in warning for warning in fit(sweep(np.random.default_rng(24), noise=0.02)).warnings)


# --- warnings ---------------------------------------------------------------------------------------------------


def test_edges_censored_runs_few_seeds_and_outliers_are_named() -> None:
    runs = sweep(np.random.default_rng(12), batches=(16, 64, 256, 1024), noise=0.02, seeds=4, lrs=3)
    runs = [r for r in runs if not (r.batch_size == 16 and r.lr == 1.0)]  # the best LR, 2, becomes the smallest
    runs = [run(64, 2.0, 0, None) if (r.batch_size, r.lr, r.seed) == (64, 2.0, 0) else r for r in runs]
    runs = [run(256, 2.0, 1, 9 * r.steps) if (r.batch_size, r.lr, r.seed) == (256, 2.0, 1) else r for r in runs]
    runs = [r for r in runs if r.batch_size != 1024 or r.seed < 2]
    result = fit(runs)
    said = " ".join(result.warnings)
    assert "lowest of the grid at batch 16" in said
    assert "batch 64: 1 of 4 runs at the best LR never reached" in said
    assert "256-2-1 (seed 1)" in said
    assert "fewer than 3 seeds at batch 1,024" in said
    assert result.n_censored == 1
    assert result.b_crit == pytest.approx(B_CRIT, rel=0.1)


def test_evaluations_far_apart_are_said_to_blur_the_crossing() -> None:
    runs = sweep(np.random.default_rng(13), batches=(16, 64, 256), lrs=1)
    coarse = [replace(r, bracket=(0.8 * r.samples, 1.05 * r.samples)) if r.batch_size == 256 else r for r in runs]
    assert not any("evaluations lie" in warning for warning in fit(runs).warnings)
    assert any("25 % of the samples to target apart at batch 256" in warning for warning in fit(coarse).warnings)


@pytest.mark.parametrize("samples", [[1.0, 2.0, math.inf], [1.0, 2.0, -3.0], [1.0, 2.0]])
def test_a_table_that_is_not_measurements_is_refused(samples: list[float]) -> None:
    with pytest.raises(ConfigError):
        fit_points([16, 32, 64], samples)


@pytest.mark.parametrize("batch_sizes", [[0.25, 0.5, 1.0], [16.5, 32, 64]])
def test_a_batch_of_half_a_sample_is_refused(batch_sizes: list[float]) -> None:
    with pytest.raises(ConfigError, match="must be whole numbers of samples, got"):
        fit_points(batch_sizes, [1.0, 2.0, 3.0])


def test_arguments_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="confidence"):
        fit_points([16, 32, 64], [1.0, 2.0, 3.0], confidence=90)
    with pytest.raises(NotEnoughDataError):
        fit_curve(())


# --- measurements by others -------------------------------------------------------------------------------------

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published reference-convergence runs are not here")


def published(benchmark: str) -> CurveFit:
    with (DATA / "mlperf_rcp_fixture.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    return fit_points([int(r["global_batch_size"]) for r in rows], [float(r["to_converge"]) for r in rows])


@needs_data
@pytest.mark.parametrize("benchmark", ["rgat", "resnet", "rnnt", "flux1", "llama31_8b"])
def test_published_benchmarks_give_the_critical_batch_that_others_fitted(benchmark: str) -> None:
    expected = json.loads((DATA / "expected_fits.json").read_text())[benchmark]["mean_fit"]["Bcrit"]
    result = published(benchmark)
    assert result.b_crit == pytest.approx(expected, rel=0.05)
    assert result.b_crit_interval[0] < expected < result.b_crit_interval[1]
    assert result.status == "ok"


@needs_data
def test_three_batches_within_twenty_percent_identify_nothing() -> None:
    assert published("deepseekv3_671b").status == "not_identified"


@needs_data
def test_one_run_at_eleven_times_the_rest_does_not_move_the_fit() -> None:
    result = published("gpt3")
    assert result.b_crit == pytest.approx(16191, rel=0.1)
    assert any("11.4 times the median" in warning for warning in result.warnings)
