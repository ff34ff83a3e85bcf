"""The power law of the optimal learning rate: exact on one, and blind to optima that nobody saw."""

import json
import math
from typing import Literal

import numpy as np
import pytest

from analysis.lr_law import fit_lr_law
from analysis.power_law import fit_power_law, propagated, variance_inflation
from analysis.targets import BatchPoint, Run, batch_points
from scaleexp.errors import ConfigError

BATCHES = (16, 64, 256, 1024, 4096)
GRID = tuple(2.0**k / 1000 for k in range(14))


def point(batch_size: int, optimum: float | None, edge: Literal["low", "high"] | None = None) -> BatchPoint:
    return BatchPoint(
        batch_size=batch_size,
        workers=1,
        lr=0.1,
        lr_optimum=optimum,
        lr_edge=edge,
        steps=100.0,
        samples=100.0 * batch_size,
        runs=(),
        lr_curve=((0.1, 100.0, 1, 1), (0.2, 110.0, 1, 1)),
    )


def swept(exponent: float, grid: tuple[float, ...] = GRID) -> list[Run]:
    """Steps are a parabola in log LR, so that the interpolated optimum is the true one."""
    runs = []
    for b in BATCHES:
        best = 0.01 * b**exponent
        for lr in grid:
            steps = 1000.0 * math.exp(0.3 * math.log(lr / best) ** 2)
            runs.append(
                Run(
                    key=f"{b}-{lr}",
                    seed=0,
                    batch_size=b,
                    workers=1,
                    lr=lr,
                    reached=True,
                    samples=steps * b,
                    bracket=(steps * b, steps * b),
                    status="reached",
                )
            )
    return runs


@pytest.mark.parametrize("exponent", [0.5, 0.75, -0.2])
def test_a_true_power_law_is_recovered(exponent: float) -> None:
    law = fit_lr_law([point(b, 0.02 * b**exponent) for b in BATCHES], confidence=0.95)
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.coefficient == pytest.approx(0.02, rel=1e-9)
    assert law.exponent_interval == pytest.approx((exponent, exponent), abs=1e-9)
    assert (law.status, law.n_batches, law.left_out) == ("ok", 5, ())


def test_a_swept_grid_gives_the_law_of_its_optima() -> None:
    law = fit_lr_law(batch_points(swept(0.5))[0], confidence=0.95)
    # log steps in log LR is a parabola, so its vertex is exact
    assert law.exponent == pytest.approx(0.5, abs=1e-6)
    assert law.coefficient == pytest.approx(0.01, rel=1e-6)


def test_an_optimum_at_the_edge_is_left_out_by_name_and_does_not_bend_the_law() -> None:
    law = fit_lr_law(batch_points(swept(0.5, tuple(lr for lr in GRID if lr < 0.4)))[0], confidence=0.95)
    assert law.exponent == pytest.approx(0.5, abs=1e-6)
    assert [batch for batch, _ in law.left_out] == [1024, 4096]
    assert "highest of its grid" in law.left_out[0][1]


def test_two_optima_are_no_law() -> None:
    law = fit_lr_law([point(16, 0.1), point(64, 0.2), point(256, None, "high")], confidence=0.95)
    assert law.status == "not_identified"
    assert "got 2" in law.reason
    assert json.loads(json.dumps(law.to_dict(), allow_nan=False))["exponent"] is None


def test_optima_within_a_factor_two_are_no_law() -> None:
    law = fit_lr_law([point(16, 0.1), point(24, 0.2), point(32, 0.3)], confidence=0.95)
    assert law.status == "not_identified"


def test_the_interval_is_the_textbook_one() -> None:
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.2, 2.0])
    law = fit_power_law(np.exp(x)[:, None], np.exp(y))
    # residuals (-1/15, 2/15, -1/15): s^2 = 6/225, var(slope) = s^2 / 2, t(0.975, 1) = 12.7062
    half = 12.7062047 * math.sqrt(6 / 225 / 2)
    assert law.exponents[0] == pytest.approx(1.0)
    assert law.interval(1, 0.95) == pytest.approx((1.0 - half, 1.0 + half), rel=1e-6)
    half = 12.7062047 * math.sqrt(6 / 225 * (1 / 3 + 1 / 2))
    assert law.interval(0, 0.95) == pytest.approx((1 / 15 - half, 1 / 15 + half), rel=1e-6)


def test_intervals_hold_the_truth_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(16, 4096, 5)[:, None]
    held = np.zeros(2)
    for _ in range(1000):
        law = fit_power_law(x, 3.0 * x[:, 0] ** 0.5 * np.exp(0.1 * rng.standard_normal(5)))
        for k, truth in enumerate((math.log(3.0), 0.5)):
            low, high = law.interval(k, 0.9)
            held[k] += low < truth < high
    assert held / 1000 == pytest.approx([0.9, 0.9], abs=0.03)


def test_many_draws_fit_as_each_alone() -> None:
    rng = np.random.default_rng(1)
    x, y = np.exp(rng.standard_normal((6, 2))), rng.standard_normal((4, 6))
    alone = [fit_power_law(x, np.exp(row)) for row in y]
    np.testing.assert_allclose(propagated(x, y), [(law.log_coefficient, *law.exponents) for law in alone], atol=1e-10)


def test_regressors_that_move_together_inflate_the_variance() -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal(400)
    x = np.exp(np.stack([a, 0.8 * a + 0.6 * rng.standard_normal(400)], 1))
    assert variance_inflation(x) == pytest.approx(1 / (1 - 0.64), rel=0.15)
    assert variance_inflation(np.stack([np.exp(a), np.exp(3 * a)], 1)) == math.inf


def test_a_confidence_of_95_is_refused() -> None:
    with pytest.raises(ConfigError, match="confidence"):
        fit_lr_law([], confidence=95)
