"""The critical batch size at equal samples: closed form, retuned rates, and refusals."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from analysis.budget_resamples import resampled_best
from analysis.fixed_budget import FixedBudget, bracket, fixed_budget, within
from analysis.read import load
from analysis.study_traces import study_traces
from scaleexp.errors import ConfigError
from tests.study_factory import METRIC, START_VALUE, write_study

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    batch_size: int
    lr: float
    seed: int
    samples: FloatArray = field(default_factory=lambda: np.array([0.0, 5e5, 1e6]))
    values: FloatArray
    status: str = "limit"


def loss(batch_size: int) -> float:
    """Best loss at 1e6 samples: 2 (1 + B / 25,600), so that 64 is within 0.25 % and 256 within 1 % of a batch of 0."""
    return 2.0 * (1.0 + batch_size / 25_600)


def sweep(noise: float = 0.0, seeds: int = 2, lrs: int = 5, shift: int = 0, seed: int = 0) -> list[Run]:
    """The LR optimum moves with the batch; `shift` moves the grid against it."""
    rng = np.random.default_rng(seed)
    runs = []
    for b in BATCHES:
        best = 0.01 * b**0.5
        for k in range(lrs):
            off = k - lrs // 2 + shift
            for s in range(seeds):
                end = loss(b) * math.exp(0.05 * off**2 + noise * rng.standard_normal())
                runs.append(Run(batch_size=b, lr=best * 2.0**off, seed=s, values=np.array([4.0, (4 + end) / 2, end])))
    return runs


def answer(runs: list[Run], **options: object) -> FixedBudget:
    return fixed_budget(runs, "min", **{"confidence": 0.9, "resamples": 400, **options})  # type: ignore[arg-type]


def test_the_largest_batch_within_epsilon_is_found_with_the_next_one() -> None:
    # relative to the best, 2 (1 + 16 / 25,600): a batch of 271 is 1 % worse
    found = answer(sweep())
    assert (found.batch, found.bracket, found.status) == (256, (256, 512), "ok")
    assert found.samples == 1e6
    limit = 25_600 * (1.01 * (1 + 16 / 25_600) - 1)
    assert found.bracket[0] < limit < found.bracket[1]


@pytest.mark.parametrize(("epsilon", "batch"), [(0.001, 32), (0.002, 64), (0.005, 128), (0.02, 512)])
def test_another_epsilon_is_another_batch_and_the_table_says_so(epsilon: float, batch: int) -> None:
    assert answer(sweep(), epsilon=epsilon).batch == batch
    assert (epsilon, batch, 2 * batch) in answer(sweep()).sensitivity


def test_an_absolute_epsilon_is_in_the_unit_of_the_metric() -> None:
    # loss(64) - loss(16) = 0.00375, loss(128) - loss(16) = 0.00875
    assert answer(sweep(), epsilon=0.005, relative=False).batch == 64
    scaled = [replace(run, values=100.0 * run.values) for run in sweep()]
    assert answer(scaled, epsilon=0.5, relative=False).batch == 64
    assert answer(scaled).batch == answer(sweep()).batch


def test_a_metric_that_should_grow_gives_the_same_batch() -> None:
    turned = [replace(run, values=-run.values) for run in sweep()]
    found = fixed_budget(turned, "max", confidence=0.9)
    assert found.batch == 256
    assert found.losses[0].value == pytest.approx(-loss(16))
    assert found.losses[0].gap == 0.0


def test_a_share_of_a_score_that_should_grow_is_a_share_of_its_size() -> None:
    # the best is 8, of which 0.1 % is the loss that 64 and not 128 adds: 0.00375 and 0.00875 against 0.008
    scores = [replace(run, values=10.0 - run.values) for run in sweep()]
    assert fixed_budget(scores, "max", epsilon=0.001, confidence=0.9).batch == 64


def test_one_fixed_learning_rate_would_give_another_answer_and_is_refused() -> None:
    found = answer([run for run in sweep() if run.lr == pytest.approx(0.01 * run.batch_size**0.5)])
    assert found.status == "not_identified"
    assert "or only one of its grid" in found.reason


@pytest.mark.parametrize("shift", [2, -2])
def test_an_optimum_at_the_edge_of_its_grid_is_refused(shift: int) -> None:
    found = answer(sweep(shift=shift))
    assert found.status == "not_identified"
    assert "widen the learning-rate grid" in found.reason


def test_an_edge_beyond_the_bracket_is_a_warning() -> None:
    runs = [run for run in sweep() if run.batch_size != 1024 or run.lr >= 0.01 * 1024**0.5 * 0.99]
    found = answer(runs)
    assert (found.status, found.batch) == ("ok", 256)
    assert "edge of its grid at batch 1,024" in found.warnings[0]


def test_a_diverging_neighbour_puts_the_optimum_inside() -> None:
    runs = [
        replace(r, values=np.array([4.0, np.nan, np.nan])) if r.lr > 0.011 * r.batch_size**0.5 else r for r in sweep()
    ]
    assert answer(runs).status == "ok"
    lost = [replace(r, status="diverged") if r.lr > 0.011 * r.batch_size**0.5 else r for r in sweep()]
    assert answer(lost).batch == 256


def test_all_batches_are_compared_at_the_same_number_of_samples() -> None:
    # Losses fall on straight lines, so the value at 8e5 is known; one run of the largest batch stopped there.
    runs = [
        replace(
            r,
            samples=np.array([0.0, 4e5, 8e5]),
            values=np.array([4.0, 4 + (r.values[-1] - 4) * 0.4, 4 + (r.values[-1] - 4) * 0.8]),
        )
        if r.batch_size == 1024 and r.lr == pytest.approx(0.32)
        else r
        for r in sweep()
    ]
    found = answer(runs)
    assert found.samples == 8e5
    for at in found.losses:
        assert at.value == pytest.approx(4 + (loss(at.batch_size) - 4) * 0.8)


def test_a_budget_that_some_run_does_not_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="ends at 1,000,000"):
        answer(sweep(), samples=1.5e6)
    assert answer(sweep(), samples=7e5).samples == 7e5


def test_a_batch_behind_one_that_lost_does_not_count() -> None:
    best = np.array([[1.0, 1.1, 1.0, 2.0]])
    assert bracket(np.array([16.0, 32, 64, 128]), within(best, 0.01, True)).tolist() == [[16.0, 32.0]]


def test_where_every_batch_or_none_is_within_there_is_one_end_only() -> None:
    every = answer(sweep(), epsilon=0.5)
    assert (every.status, every.batch, every.bracket[1]) == ("not_identified", 1024, math.inf)
    assert every.to_dict()["bracket"] == [1024.0, None]
    turned = [replace(r, values=r.values if r.batch_size > 16 else 1.1 * r.values) for r in sweep()]
    none = answer(turned)
    assert none.status == "not_identified"
    assert math.isnan(none.batch)
    assert none.bracket == (0.0, 16.0)
    json.dumps(none.to_dict(), allow_nan=False)


def test_with_one_seed_nothing_says_how_far_a_loss_moves_so_it_is_not_identified() -> None:
    found = answer(sweep(seeds=1))
    assert (found.status, found.batch, found.interval) == ("not_identified", 256, (0.0, math.inf))
    assert all(at.probability is None for at in found.losses)
    assert "no batch was run with a second seed" in found.reason
    assert "one seed only at every batch" in found.warnings[0]
    assert found.to_dict()["interval"] == [None, None]


def test_a_batch_with_one_seed_borrows_the_spread_of_the_others() -> None:
    runs = sweep(noise=0.006, seeds=5)
    alone = [r for r in runs if r.seed == 0 or r.batch_size not in (256, 512)]
    found = answer(alone)
    assert "batch 256, 512: its loss is taken to move as far as that of the others" in found.warnings[0]
    (chance,) = [at.probability for at in found.losses if at.batch_size == 256]
    before = [at.probability for at in found.losses if at.batch_size == 128]
    assert 0.0 < (chance or 0.0) < (before[0] or 0.0)  # a loss taken as exact would never be out, or always


def test_an_interval_that_reaches_beyond_the_measured_batches_is_not_ok() -> None:
    runs = [r for r in sweep(noise=0.02, seeds=3, seed=1) if r.batch_size <= 512]
    found = answer(runs)
    assert math.isinf(found.interval[1]) or found.interval[0] == 0.0
    assert found.status == "not_identified"


def test_probabilities_fall_with_the_batch_and_the_interval_holds_the_truth() -> None:
    held = 0
    for trial in range(40):
        found = answer(sweep(noise=0.002, seeds=5, seed=trial))
        chances = [at.probability for at in found.losses]
        assert all(p is not None for p in chances)
        assert chances == sorted(chances, reverse=True)  # type: ignore[type-var]
        held += found.interval[0] <= 256 and found.interval[1] >= 512
    assert held >= 36


def test_noise_far_below_epsilon_leaves_no_doubt() -> None:
    found = answer(sweep(noise=1e-6, seeds=4))
    assert [at.probability for at in found.losses] == [1, 1, 1, 1, 1, 0, 0]
    assert found.interval == (256, 512)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_an_epsilon_that_cannot_be_meant_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="epsilon must be above 0"):
        answer(sweep(), epsilon=epsilon)


def test_runs_that_all_diverged_have_nothing_to_compare() -> None:
    with pytest.raises(ConfigError, match="no loss to compare"):
        answer([replace(r, status="diverged") for r in sweep()])


def test_a_study_is_compared_at_the_samples_that_all_its_runs_hold(tmp_path: Path) -> None:
    traces = study_traces(
        load(
            write_study(tmp_path / "s", noise=0.0, diverged=False, second_realisation=False, b_crit=256.0, s_min=50.0)
        ),
        METRIC,
    )
    found = fixed_budget(traces, "min", confidence=0.9, resamples=200)
    assert found.samples == min(trace.samples[-1] for trace in traces)
    for at in found.losses:
        crossing = 50.0 * (1.0 + 256.0 / at.batch_size) * at.batch_size
        assert at.value == pytest.approx(START_VALUE - 1.5 * found.samples / crossing, rel=1e-9)
        assert at.lr == pytest.approx(0.1 * (at.batch_size / 256) ** 0.5)


def test_a_batch_with_one_seed_borrows_the_spread_of_runs_that_ended_well_at_the_best_rate() -> None:
    others = np.array([[1.0, 1.2, math.inf], [5.0, 9.0, 9.0]])
    rows = resampled_best([others, np.array([[3.0]])], 200, np.random.default_rng(0))
    assert rows is not None
    borrowed = 0.1 * math.sqrt(2.0)  # 1.0 and 1.2 about their mean, as one run varies
    assert set(rows[:, 1].round(9)) == {round(3.0 - borrowed, 9), round(3.0 + borrowed, 9)}
