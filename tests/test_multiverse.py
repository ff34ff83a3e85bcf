"""The choices of an analysis: none moves a perfect curve, and each moves what it should."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from analysis.curve import fit_curves
from analysis.multiverse import DEFINITIONS, crossed, multiverse
from analysis.robust_curve import fit_huber, fit_weighted
from analysis.targets import Run
from tests.test_shape import run

BATCHES = tuple(2**k for k in range(4, 13))


def sweep(b_crit: float = 256.0, *, seeds: int = 3, noise: float = 0.0, width: float = 0.0) -> list[Run]:
    rng = np.random.default_rng(0)
    runs = []
    for b in BATCHES:
        for s in range(seeds):
            e = 5000.0 * (b_crit + b) * math.exp(noise * rng.standard_normal())
            runs.append(replace(run(b, s, e), bracket=(e * (1 - width), e * (1 + width))))
    return runs


def rows(runs: list[Run], **choices: str) -> list[float]:
    return [r.batch for r in multiverse({1.0: runs}).rows if all(getattr(r, k) == v for k, v in choices.items())]


def test_on_a_perfect_curve_no_choice_but_the_definition_moves_the_answer() -> None:
    found = multiverse({1.0: sweep(width=0.05)})
    assert len(found.rows) == 3 * 3 * (3 + 3 + 1)
    assert found.summary["b_crit"] == pytest.approx((256.0, 256.0, 256.0), rel=1e-6)
    assert found.summary["free-shape"] == pytest.approx((256.0, 256.0, 256.0), rel=1e-4)
    assert found.summary["overhead"] == pytest.approx([1.2 * 16 + 0.2 * 256] * 3, rel=1e-6)
    assert {name: round(factor, 3) for name, factor in found.factors.items() if name != "definition"} == {
        "crossing": 1.0,
        "aggregate": 1.0,
        "loss": 1.0,
    }
    assert found.moves_most == "definition"


def test_a_harder_target_moves_it_by_its_own_factor() -> None:
    found = multiverse({0.5: sweep(1000.0), 1.0: sweep(100.0)})
    b_crit = [row for row in found.rows if row.definition == "b_crit"]
    assert {row.target: round(row.batch, 3) for row in b_crit} == {0.5: 1000.0, 1.0: 100.0}
    assert found.summary["b_crit"][0::2] == pytest.approx((100.0, 1000.0), rel=1e-6)
    assert found.factors["target"] == pytest.approx(10.0, rel=1e-6)  # of B_crit: other definitions do not dilute it
    assert found.moves_most == "target"


def test_one_run_that_took_eleven_times_as_long_moves_the_mean_and_not_the_rest() -> None:
    runs = sweep(seeds=4)
    runs[-1] = replace(runs[-1], samples=11 * runs[-1].samples, bracket=(11 * runs[-1].samples,) * 2)
    for aggregate, loss in (("robust", "linear"), ("median", "linear"), ("mean", "huber")):
        assert rows(runs, aggregate=aggregate, loss=loss, definition="b_crit") == pytest.approx([256.0], rel=0.01)
    (mean,) = rows(runs, aggregate="mean", loss="linear", definition="b_crit")
    assert abs(math.log(mean / 256.0)) > 0.2
    assert multiverse({None: runs}).factors["aggregate"] > 1.1


def test_crossing_rules_take_the_evaluations_around_the_crossing() -> None:
    runs = sweep(width=0.1)
    first, last = crossed(runs, "first"), crossed(runs, "last-missing")
    assert [r.samples / o.samples for r, o in zip(first, runs, strict=True)] == pytest.approx([1.1] * len(runs))
    assert [r.samples / o.samples for r, o in zip(last, runs, strict=True)] == pytest.approx([0.9] * len(runs))


def test_evaluations_once_per_step_of_a_large_batch_move_it_by_the_crossing_rule() -> None:
    # One evaluation every 64 steps of whatever batch: the first that met is late by more at large batches.
    runs = []
    for r in sweep():
        every = 64 * r.batch_size
        n = math.floor(r.samples / every)
        runs.append(replace(r, bracket=(n * every, (n + 1) * every)))
    found = multiverse({1.0: runs})
    (truth,) = {round(b) for b in rows(runs, crossing="interpolated", loss="linear", definition="b_crit")}
    late = rows(runs, crossing="first", loss="linear", definition="b_crit")
    assert truth == 256
    assert all(b < 256 for b in late)
    assert found.factors["crossing"] > found.factors["aggregate"]


def test_a_table_of_points_has_one_crossing_rule() -> None:
    found = multiverse({None: sweep(noise=0.05)})
    assert {row.crossing for row in found.rows} == {"interpolated"}
    assert "crossing" not in found.factors
    assert "target" not in found.factors
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_target_that_too_few_batches_reached_is_left_out_by_name() -> None:
    lost = [replace(r, reached=r.batch_size < 60) for r in sweep()]
    found = multiverse({0.1: lost, 1.0: sweep()})
    assert found.left_out == ((0.1, "interpolated", "2 batch sizes have a point, 3 are needed."),)
    assert {row.target for row in found.rows} == {1.0}


def test_overhead_over_a_batch_that_no_run_reached_from_has_no_row_unless_it_is_named() -> None:
    lost = [replace(r, reached=r.batch_size > 16) for r in sweep()]
    found = multiverse({0.1: lost, 1.0: sweep()})
    assert {row.target for row in found.rows if row.definition == "overhead"} == {1.0}
    assert {row.target for row in found.rows if row.definition == "b_crit"} == {0.1, 1.0}
    ((target, crossing, reason),) = found.left_out
    assert (target, crossing) == (0.1, "interpolated")
    assert reason == "no row of the overhead definition: its reference, the smallest measured batch, 16, has no point."
    named = multiverse({0.1: lost, 1.0: sweep()}, reference_batch=16)
    assert {row.target for row in named.rows if row.definition == "overhead"} == {0.1, 1.0}


def test_linear_and_flat_curves_are_counted_and_not_averaged() -> None:
    linear = [replace(r, samples=1e6, bracket=(1e6, 1e6)) for r in sweep()]
    found = multiverse({None: linear})
    assert found.unbounded > 0
    assert found.summary["b_crit"][2] == math.inf
    assert found.to_dict()["summary"]["b_crit"]["max"] is None


def test_no_runs_have_no_rows() -> None:
    found = multiverse({1.0: []})
    assert (found.rows, found.moves_most) == ((), None)


def test_the_definitions_have_one_order() -> None:
    seen = list(dict.fromkeys(row.definition for row in multiverse({None: sweep(noise=0.1)}).rows))
    assert seen == list(DEFINITIONS)


# --- losses -----------------------------------------------------------------------------------------------------

B = np.array(BATCHES, dtype=np.float64)


def noisy(n: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    return np.log(50.0 * (1 + 256.0 / B)) + 0.1 * rng.standard_normal((n, B.size))


def test_equal_weights_are_least_squares() -> None:
    y = noisy(20)
    np.testing.assert_allclose(fit_weighted(B, y, np.full(B.size, 7.0)), fit_curves(B, y), rtol=1e-8)


def test_a_weight_of_two_is_a_batch_measured_twice() -> None:
    y = noisy(5)
    twice = fit_curves(np.append(B, B[2]), np.concatenate([y, y[:, 2:3]], 1))
    np.testing.assert_allclose(fit_weighted(B, y, 1.0 + (np.arange(B.size) == 2)), twice, rtol=1e-8)


def test_huber_finds_the_minimum_of_its_loss() -> None:
    y = noisy(6)
    y[:, 3] += 0.8
    beta, log_s_min = fit_huber(B, y)
    for i in range(len(y)):
        residuals = y[i] - log_s_min[i] - np.log1p(np.exp(beta[i]) / B)
        scale = 1.345 * float(np.median(np.abs(residuals))) / 0.6745

        def away(x: np.ndarray, row: np.ndarray = y[i]) -> np.ndarray:
            return np.asarray(row - x[1] - np.log1p(np.exp(x[0]) / B))

        best = least_squares(away, [5.0, 4.0], loss="huber", f_scale=scale)
        assert (beta[i], log_s_min[i]) == pytest.approx(tuple(best.x), abs=1e-3)


def test_published_runs_with_an_outlier_move_by_the_aggregate(measurements: Path) -> None:
    with (measurements / "mlperf_rcp_fixture.csv").open() as file:
        table = [row for row in csv.DictReader(file) if row["benchmark"] == "gpt3"]
    runs = [run(int(r["global_batch_size"]), int(r["run_index"]), float(r["to_converge"])) for r in table]
    found = multiverse({None: runs})
    b_crit = {(row.aggregate, row.loss): row.batch for row in found.rows if row.definition == "b_crit"}
    assert b_crit["robust", "linear"] == pytest.approx(16_191, rel=0.1)
    assert b_crit["mean", "linear"] == pytest.approx(51_064, rel=0.01)
    assert b_crit["median", "linear"] == pytest.approx(16_191, rel=0.01)
