"""The overhead definition: exact on the curve, and how much of it is the choice of a reference batch."""

import json
import math

import pytest

from analysis.sensitivity import DELTAS, overhead_table
from scaleexp.errors import ConfigError
from scaleexp.laws import steps_to_target


@pytest.mark.parametrize("reference", [4.0, 256.0])
def test_steps_exceed_linear_scaling_by_delta_at_every_batch_of_the_table(reference: float) -> None:
    for cell in overhead_table(300.0, (250.0, 360.0), [reference]):
        linear = steps_to_target(reference, 50.0, 300.0) * reference / cell.batch
        assert steps_to_target(cell.batch, 50.0, 300.0) / linear == pytest.approx(1.0 + cell.delta)


def test_every_pair_has_one_cell() -> None:
    cells = overhead_table(300.0, (250.0, 360.0), [4.0, 256.0])
    assert [(c.delta, c.reference_batch) for c in cells] == [(d, r) for d in DELTAS for r in (4.0, 256.0)]


def test_a_large_reference_batch_makes_most_of_the_answer() -> None:
    (cell,) = overhead_table(91.0, (80.0, 100.0), [256.0], [0.2])
    assert cell.reference_share == pytest.approx(0.944, abs=0.001)


def test_the_interval_is_that_of_b_crit_times_delta() -> None:
    (cell,) = overhead_table(100.0, (80.0, 130.0), [4.0], [0.2])
    assert cell.interval == pytest.approx((4.8 + 16.0, 4.8 + 26.0))
    assert cell.interval[1] - cell.interval[0] == pytest.approx(0.2 * 50.0)


def test_what_b_crit_does_not_bound_the_table_does_not_bound() -> None:
    (cell,) = overhead_table(100.0, (0.0, math.inf), [4.0], [0.2])
    assert cell.interval == (0.0, math.inf)
    assert cell.to_dict()["interval"] == [None, None]
    (linear,) = overhead_table(math.inf, (50.0, math.inf), [4.0], [0.2])
    assert linear.reference_share == 0.0
    assert linear.to_dict()["batch"] is None
    json.dumps(linear.to_dict(), allow_nan=False)


def test_without_a_curve_there_is_no_table() -> None:
    assert overhead_table(math.nan, (0.0, math.inf), [4.0]) == ()


@pytest.mark.parametrize(("reference", "delta"), [(0.0, 0.2), (4.0, 0.0), (math.inf, 0.2), (4.0, math.nan)])
def test_a_delta_or_a_reference_that_cannot_be_meant_is_refused(reference: float, delta: float) -> None:
    with pytest.raises(ConfigError, match="must be finite and above 0"):
        overhead_table(100.0, (80.0, 130.0), [reference], [delta])
