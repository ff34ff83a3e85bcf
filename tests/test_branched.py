"""The local critical batch size: the first multiple that falls behind ends it."""

import json
import math

import numpy as np
import pytest

from analysis.branched import branched_batch, smoothed_end
from scaleexp.errors import ConfigError

K = [1, 2, 4, 8, 16]


def test_the_largest_multiple_that_keeps_up_is_found_with_the_next_one() -> None:
    found = branched_batch(K, [3.0, 3.001, 3.002, 3.02, 3.05], base_batch=256, epsilon=0.01)
    assert (found.multiple, found.next_multiple) == (4, 8)
    assert found.bracket == (1024, 2048)


def test_a_lucky_large_multiple_behind_one_that_fell_behind_does_not_count() -> None:
    found = branched_batch(K, [3.0, 3.001, 3.02, 3.0, 2.9], base_batch=256, epsilon=0.01)
    assert (found.multiple, found.next_multiple) == (2, 4)


def test_a_multiple_that_is_better_than_the_base_keeps_up() -> None:
    assert branched_batch(K, [3.0, 2.9, 2.8, 3.005, 3.1], base_batch=1, epsilon=0.01).multiple == 8


def test_the_tolerance_is_measured_from_the_base_and_not_from_the_best() -> None:
    assert branched_batch(K, [3.0, 2.5, 3.0, 3.0, 3.0], base_batch=1, epsilon=0.01).multiple == 16


def test_where_every_branch_keeps_up_there_is_no_upper_end() -> None:
    found = branched_batch(K, [3.0] * 5, base_batch=256, epsilon=0.01)
    assert (found.multiple, found.next_multiple) == (16, math.inf)
    assert found.to_dict()["bracket"] == [4096, None]
    assert "above 16" in found.reason


def test_where_none_does_the_base_is_left() -> None:
    assert branched_batch(K, [3.0, 3.1, 3.2, 3.3, 3.4], base_batch=256, epsilon=0.01).bracket == (256, 512)


def test_seeds_are_averaged_and_one_diverged_branch_is_one_that_fell_behind() -> None:
    assert branched_batch([1, 1, 2, 2], [3.0, 3.1, 3.055, 3.056], base_batch=1, epsilon=0.01).multiple == 2
    found = branched_batch([2, 1, 2], [3.0, 3.0, math.nan], base_batch=1, epsilon=0.01)
    assert (found.multiple, found.next_multiple) == (1, 2)
    assert "diverged" in found.reason
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("multiples", "losses", "epsilon"),
    [([2, 4], [3, 3], 0.1), ([1, 0.5], [3, 3], 0.1), ([1, 2], [math.nan, 3], 0.1), ([1, 2], [3, 3], 0), ([1], [], 1)],
)
def test_what_cannot_be_meant_is_refused(multiples: list[float], losses: list[float], epsilon: float) -> None:
    with pytest.raises(ConfigError):
        branched_batch(multiples, losses, base_batch=256, epsilon=epsilon)


def test_a_straight_loss_is_smoothed_alike_at_few_large_and_at_many_small_steps() -> None:
    def end(step: int) -> float:
        samples = np.arange(0, 100_001, step)
        return smoothed_end(samples.tolist(), (3.0 - 1e-5 * samples).tolist(), half_life=5000.0)

    assert end(10) == pytest.approx(end(100), abs=1e-3)
    # The mean age under exponential weights is half-life / log 2.
    assert end(10) == pytest.approx(2.0 + 1e-5 * 5000.0 / math.log(2.0), rel=1e-3)


@pytest.mark.parametrize(("samples", "losses", "half_life"), [([], [], 1.0), ([1.0], [1.0, 2.0], 1.0), ([1], [1], 0)])
def test_nothing_to_smooth_is_refused(samples: list[float], losses: list[float], half_life: float) -> None:
    with pytest.raises(ConfigError):
        smoothed_end(samples, losses, half_life=half_life)
