"""Steps to target: where a run crosses, what counts, which LR is best, which run is named."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.read import load
from analysis.targets import Run, aggregate_steps, batch_points, outlier_runs, outlying, runs_to_target
from scaleexp.errors import ConfigError
from tests.study_factory import METRIC, write_study


def run(
    batch_size: int = 64, lr: float = 0.1, seed: int = 0, steps: float | None = 100.0, status: str = "reached"
) -> Run:
    reached = steps is not None
    samples = float(steps * batch_size) if steps is not None else 1000.0 * batch_size
    return Run(
        key=f"{batch_size}/{lr}/{seed}",
        seed=seed,
        batch_size=batch_size,
        workers=1,
        lr=lr,
        reached=reached,
        samples=samples,
        bracket=(samples, samples if reached else math.inf),
        status=status if reached else "limit",
    )


def grid(table: dict[float, list[float | None]], batch_size: int = 64) -> list[Run]:
    return [run(batch_size, lr, seed, s) for lr, steps in table.items() for seed, s in enumerate(steps)]


def only_point(table: dict[float, list[float | None]]):
    points, missing = batch_points(grid(table))
    assert missing == ()
    return points[0]


def test_steps_to_target_are_exact_on_straight_curves(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, curvature=0.0, diverged=False, s_min=50.0, b_crit=256.0))
    runs = runs_to_target(log, METRIC, 1.0, "min")
    for r in runs:
        assert r.steps == pytest.approx(50.0 * (1.0 + 256.0 / r.batch_size), rel=1e-9)
        assert r.bracket[0] <= r.samples <= r.bracket[1]


def test_second_realisations_are_no_runs(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", batches=(64, 256), lrs_per_batch=1, seeds=1))
    runs = runs_to_target(log, METRIC, 1.0, "min")
    assert not any("@" in r.key for r in runs)
    assert len(runs) == len(log.trials) - 1


def test_a_run_stopped_at_its_limit_is_kept_as_censored_where_it_stopped(tmp_path: Path) -> None:
    runs = runs_to_target(load(write_study(tmp_path / "s")), METRIC, 1.0, "min")
    censored = [r for r in runs if r.status == "limit"]
    assert censored
    assert all(not r.reached and r.bracket == (r.samples, math.inf) and r.samples > 0 for r in censored)


def test_a_run_that_diverges_after_crossing_never_counts(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", batches=(64, 256), lrs_per_batch=1, seeds=1, second_realisation=False)
    file = next(study.glob("trials/*/commits/0002.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "diverged"}))
    runs = runs_to_target(load(study), METRIC, 1.0, "min")
    assert [r.reached for r in runs if r.key == file.parts[-3]] == [False]


def test_a_target_that_the_initialisation_meets_is_refused(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", batches=(64, 256), lrs_per_batch=1, seeds=1))
    with pytest.raises(ConfigError, match=r"already met before the first step.*harder"):
        runs_to_target(log, METRIC, 3.0, "min")


def test_a_metric_that_rises_is_read_the_other_way_round(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", targets=(3.0, 4.0), direction="max", noise=0.0, curvature=0.0, diverged=False)
    runs = runs_to_target(load(study), METRIC, 4.0, "max")
    assert all(r.steps == pytest.approx(50.0 * (1.0 + 256.0 / r.batch_size)) for r in runs)


def test_the_best_lr_has_the_fewest_median_steps_not_the_luckiest_seed() -> None:
    point = only_point({0.1: [100, 101, 102], 0.2: [50, 140, 150], 0.05: [200, 200, 200]})
    assert point.lr == 0.1
    assert point.lr_edge is None


def test_censored_seeds_count_as_infinitely_many_steps() -> None:
    point = only_point({0.1: [100, 101, 102], 0.2: [50, None, None], 0.4: [60, 90, None]})
    assert point.lr == 0.4
    assert point.steps == pytest.approx(90.0)
    assert point.lr_curve[1] == (0.2, math.inf, 1, 3)


def test_an_optimum_beside_a_failing_lr_is_inside_the_grid() -> None:
    point = only_point({0.1: [100, 101, 102], 0.2: [50, 51, 52], 0.4: [None, None, None]})
    assert point.lr_edge is None
    assert point.lr_optimum is None


@pytest.mark.parametrize(("best", "edge"), [(0.1, "low"), (0.4, "high")])
def test_an_optimum_at_the_edge_of_the_grid_is_marked(best: float, edge: str) -> None:
    point = only_point({lr: [100.0 + 50 * abs(math.log(lr / best))] * 3 for lr in (0.1, 0.2, 0.4)})
    assert point.lr_edge == edge
    assert point.lr_optimum is None


def test_the_optimum_between_grid_points_is_the_vertex_of_a_parabola() -> None:
    steps = {lr: [100 * math.exp(0.3 * math.log(lr / 0.23) ** 2)] for lr in (0.05, 0.1, 0.2, 0.5, 1.0)}
    assert only_point(steps).lr_optimum == pytest.approx(0.23)


def test_a_batch_that_never_reached_the_target_says_so() -> None:
    points, missing = batch_points(grid({0.1: [None, None, 90.0], 0.2: [None, None, None]}))
    assert points == ()
    assert missing == (
        (
            64,
            "batch 64: no learning rate reached the target in more than half of its seeds "
            "(1 of 6 runs did, 0 diverged).",
        ),
    )


def test_one_run_at_eleven_times_the_rest_is_named_and_left_out() -> None:
    point = only_point({0.1: [100, 103, 98, 1100]})
    assert point.steps == pytest.approx(np.exp(np.log([100, 103, 98]).mean()))
    assert [r.seed for r in outlier_runs(point)] == [3]


def test_a_spread_sample_has_no_outliers() -> None:
    assert not outlying(np.log([80.0, 100.0, 125.0])).any()
    assert not outlying(np.log([10.0, 1000.0])).any()


def test_a_censored_seed_makes_the_aggregate_the_median_instead_of_a_mean_of_the_lucky() -> None:
    assert aggregate_steps([run(steps=90.0), run(steps=100.0), run(steps=None)]) == pytest.approx(100.0)
