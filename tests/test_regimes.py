"""Regimes: closed form on the curve, None outside what was measured."""

import json
import math

import numpy as np
import pytest

from analysis.regimes import batch_of_slope, regimes
from scaleexp.errors import ConfigError

B = np.geomspace(1.0, 65536.0, 17)
B_CRIT = 180.0
S = 100.0 * (1.0 + B_CRIT / B)


def test_the_borders_lie_at_a_ninth_of_b_crit_and_at_nine_times_it() -> None:
    found = regimes(B, S, B_CRIT)
    assert found.perfect_ends == pytest.approx(B_CRIT / 9)
    assert found.maximal_begins == pytest.approx(9 * B_CRIT)
    assert (found.perfect_slope, found.maximal_slope) == (-0.9, -0.1)


def test_the_slope_of_the_curve_is_the_stated_one_at_the_border() -> None:
    for slope in (-0.95, -0.5, -0.02):
        at = batch_of_slope(slope, B_CRIT)
        log_s = np.log1p(B_CRIT / (at * np.exp([-1e-5, 1e-5])))
        assert np.diff(log_s)[0] / 2e-5 == pytest.approx(slope, abs=1e-8)


def test_measurements_on_the_curve_have_the_slopes_and_the_borders_of_the_curve() -> None:
    found = regimes(B, S, B_CRIT)
    assert len(found.slopes) == 16
    for slope in found.slopes:
        assert slope.measured == pytest.approx(slope.fitted, abs=1e-12)
        middle = math.sqrt(slope.low * slope.high)
        assert slope.measured == pytest.approx(-B_CRIT / (middle + B_CRIT), abs=0.01)
    assert found.perfect_ends_measured == pytest.approx(B_CRIT / 9, rel=0.05)
    assert found.maximal_begins_measured == pytest.approx(9 * B_CRIT, rel=0.05)


def test_a_border_outside_the_measured_batches_is_none() -> None:
    inside = (B >= 32) & (B <= 1024)
    found = regimes(B[inside], S[inside], B_CRIT)
    assert found.perfect_ends is None
    assert found.maximal_begins is None
    assert found.perfect_ends_measured is None
    assert found.maximal_begins_measured is None


@pytest.mark.parametrize(("b_crit", "steps", "slope"), [(math.inf, 1e6 / B, -1.0), (0.0, np.full(17, 70.0), 0.0)])
def test_a_linear_and_a_flat_curve_have_one_slope_and_no_border(b_crit: float, steps: np.ndarray, slope: float) -> None:
    found = regimes(B, steps, b_crit)
    assert [s.fitted for s in found.slopes] == pytest.approx([slope] * 16)
    assert [s.measured for s in found.slopes] == pytest.approx([slope] * 16)
    assert found.perfect_ends is found.maximal_begins is None
    assert found.perfect_ends_measured is found.maximal_begins_measured is None


def test_without_a_curve_the_measured_slopes_remain() -> None:
    found = regimes(B, S, None)
    assert found.perfect_ends is found.maximal_begins is None
    assert found.perfect_ends_measured is not None
    assert found.to_dict()["slopes"][0]["fitted"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_lucky_batch_in_the_flat_part_moves_the_measured_border_to_behind_it() -> None:
    steps = S.copy()
    steps[-3:] /= 1.3
    assert regimes(B, steps, B_CRIT).maximal_begins_measured > B[-4]


def test_the_unit_of_the_cost_moves_nothing() -> None:
    assert regimes(B, S, B_CRIT).perfect_ends_measured == pytest.approx(
        regimes(B, S / 7e4, B_CRIT).perfect_ends_measured
    )


@pytest.mark.parametrize(
    ("batches", "steps", "slopes"),
    [
        ([1, 2, 3], [1, 2], (-0.9, -0.1)),
        ([1, 3, 2], [3, 2, 1], (-0.9, -0.1)),
        ([1, 2, 3], [3, 0, 1], (-0.9, -0.1)),
        ([1, 2, 3], [3, 2, 1], (-0.1, -0.9)),
        ([1, 2, 3], [3, 2, 1], (0.9, 0.1)),
    ],
)
def test_what_cannot_be_meant_is_refused(batches: list[int], steps: list[int], slopes: tuple[float, float]) -> None:
    with pytest.raises(ConfigError):
        regimes(batches, steps, 2.0, perfect_slope=slopes[0], maximal_slope=slopes[1])
