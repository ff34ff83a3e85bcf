"""The free shape: exact where the data have it, unbounded where they do not."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.shape import FLATTEST, ShapeFit, fit_shape, fit_shapes
from analysis.targets import Run, batch_points
from scaleexp.errors import ConfigError

B = 2.0 ** np.arange(4, 13)


def run(batch_size: int, seed: int, samples: float) -> Run:
    return Run(
        key=f"{batch_size}-{seed}",
        seed=seed,
        batch_size=batch_size,
        workers=1,
        lr=0.1,
        reached=True,
        samples=samples,
        bracket=(samples, samples),
        status="reached",
    )


@pytest.mark.parametrize("p", [0.5, 0.9, 1.0, 1.4, 3.0])
@pytest.mark.parametrize("b_c", [40.0, 256.0, 2000.0])
def test_a_true_shape_is_recovered(p: float, b_c: float) -> None:
    fit = fit_shape(B, 5000.0 * (1.0 + (B / b_c) ** p), confidence=0.9)
    assert fit.exponent == pytest.approx(p, rel=1e-6)
    assert fit.b_c == pytest.approx(b_c, rel=1e-5)
    assert fit.e_min == pytest.approx(5000.0, rel=1e-5)
    assert fit.rms_log_residual < 1e-7


def test_costs_in_another_unit_move_e_min_alone() -> None:
    costs = 5000.0 * (1.0 + (B / 256.0) ** 1.2) * np.exp(0.02 * np.sin(7.0 * np.arange(9)))
    samples, epochs = fit_shape(B, costs, confidence=0.9), fit_shape(B, costs / 1e6, confidence=0.9)
    assert epochs.exponent == pytest.approx(samples.exponent, rel=1e-9)
    assert epochs.interval == pytest.approx(samples.interval, rel=1e-6)
    assert epochs.e_min == pytest.approx(samples.e_min / 1e6, rel=1e-9)


def test_no_other_exponent_fits_a_noisy_table_better() -> None:
    y = np.log(1.0 + (B / 256.0) ** 1.1) + 0.05 * np.random.default_rng(0).standard_normal(9)
    fit = fit_shape(B, np.exp(y), confidence=0.9)

    def error(p: float, b_c: float) -> float:
        shape = np.log1p((B / b_c) ** p)
        return float(((y - shape) - (y - shape).mean()).std())

    best = min(error(p, b_c) for p in np.geomspace(0.2, 8.0, 200) for b_c in np.geomspace(0.1, 1e6, 400))
    assert fit.rms_log_residual <= best + 1e-12
    assert fit.exponent is not None
    assert error(fit.exponent, fit.b_c) == pytest.approx(fit.rms_log_residual)


def test_many_rows_fit_as_each_alone() -> None:
    rows = np.log(1.0 + (B / 256.0) ** 1.1) + 0.1 * np.random.default_rng(1).standard_normal((50, 9))
    together = np.stack(fit_shapes(B, rows))
    alone = np.stack([np.concatenate(fit_shapes(B, row[None])) for row in rows], 1)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_three_batches_have_no_shape_and_say_so() -> None:
    fit = fit_shape([16, 64, 256], [1.0, 2.0, 5.0], confidence=0.9)
    assert fit.exponent is None
    assert fit.interval == (0.0, math.inf)
    assert "needs 4 batch sizes, got 3" in fit.reason


def test_four_published_batches_do_not_bound_the_exponent(measurements: Path) -> None:
    assert published(measurements, "flux1").interval == (0.0, math.inf)


def test_costs_that_never_bend_leave_the_exponent_unbounded() -> None:
    flat = 1000.0 * np.exp(0.02 * np.random.default_rng(3).standard_normal(9))
    fit = fit_shape(B, flat, confidence=0.95)
    assert fit.interval[0] < FLATTEST or math.isinf(fit.interval[1])


def test_the_interval_over_seeds_holds_the_truth_about_as_often_as_it_claims() -> None:
    held = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        runs = [
            run(int(b), s, 5000.0 * (1 + b / 256.0) * math.exp(0.1 * rng.standard_normal()))
            for b in B
            for s in range(5)
        ]
        points = batch_points(runs)[0]
        fit = fit_shape(B, [p.samples for p in points], runs=runs, confidence=0.9, resamples=200, seed=trial)
        held += fit.interval[0] <= 1.0 <= fit.interval[1]
        assert "bootstrap over seeds" in fit.reason
    assert 46 <= held <= 60  # 90 % of 60 is 54, with a standard deviation of 2.3


def test_seed_noise_alone_gives_the_width_of_linear_propagation() -> None:
    noise, seeds, p = 0.02, 8, 1.3
    spread = noise * np.repeat([-1.0, 1.0], seeds // 2)
    runs = [run(int(b), s, 5000.0 * (1 + (b / 256) ** p) * math.exp(d)) for b in B for s, d in enumerate(spread)]
    fit = fit_shape(B, 5000.0 * (1 + (B / 256) ** p), runs=runs, confidence=0.9)
    x = np.log(B / 256)
    rise = 1 / (1 + np.exp(-p * x))
    slopes = np.stack([rise * x, rise, np.ones(9)], 1)  # by p, by log B_c up to a factor, by log E_min
    one = noise * math.sqrt(seeds / (seeds - 1)) / math.sqrt(seeds) * math.sqrt(np.linalg.inv(slopes.T @ slopes)[0, 0])
    assert fit.interval[1] - fit.interval[0] == pytest.approx(2 * 1.645 * one, rel=0.12)


def test_runs_of_other_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="no run reached the target at batch 32"):
        fit_shape([16, 32, 64, 128], [1, 2, 3, 4], runs=[run(16, 0, 1.0), run(64, 0, 3.0)], confidence=0.9)


def test_seeds_that_agree_leave_the_residuals() -> None:
    y = 5000.0 * (1 + B / 256.0) * np.exp(0.03 * np.sin(5.0 * np.arange(9)))
    runs = [run(int(b), s, float(e)) for b, e in zip(B, y, strict=True) for s in range(3)]
    same = fit_shape(B, y, runs=runs, confidence=0.9)
    assert same == fit_shape(B, y, confidence=0.9)
    assert "residuals" in same.reason


@pytest.mark.parametrize("costs", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, -1.0], [1.0, 2.0, 3.0, math.nan]])
def test_a_table_that_is_not_measurements_is_refused(costs: list[float]) -> None:
    with pytest.raises(ConfigError):
        fit_shape([16, 32, 64, 128], costs, confidence=0.9)


def published(measurements: Path, benchmark: str) -> ShapeFit:
    with (measurements / "mlperf_rcp_fixture.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    runs = [run(int(r["global_batch_size"]), int(r["run_index"]), float(r["to_converge"])) for r in rows]
    points = batch_points(runs)[0]
    return fit_shape([p.batch_size for p in points], [p.samples for p in points], runs=runs, confidence=0.95)


@pytest.mark.parametrize(
    ("benchmark", "exponent"),
    [("resnet", 1.02), ("rgat", 1.04), ("rnnt", 1.11), ("flux1", 1.13), ("bert", 1.23), ("llama31_8b", 1.37)],
)
def test_published_runs_bend_a_little_more_sharply_than_the_curve(
    measurements: Path, benchmark: str, exponent: float
) -> None:
    fit = published(measurements, benchmark)
    assert fit.exponent == pytest.approx(exponent, abs=0.02)
    assert fit.interval[0] < fit.exponent < fit.interval[1]


def test_published_runs_with_three_batches_have_no_shape(measurements: Path) -> None:
    assert published(measurements, "deepseekv3_671b").exponent is None
