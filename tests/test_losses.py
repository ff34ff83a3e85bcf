"""The metric against learning rate: equal samples within a batch size, and no diverged run in a median."""

import math
from pathlib import Path

import pytest

from analysis.losses import loss_curves, rule_path
from analysis.read import load, read_evals
from analysis.study import analyse
from tests.study_factory import METRIC, START_VALUE, stop_at_first_step, write_study

LIMIT = {"noise": 0.0, "diverged": False, "second_realisation": False}


def test_each_value_is_the_one_of_the_straight_line_when_the_first_run_of_the_batch_stopped(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", **LIMIT, b_crit=256.0, s_min=50.0))
    evals = read_evals(log, METRIC).to_pylist()
    curves = loss_curves(log, METRIC, "min")
    assert [c.batch_size for c in curves] == [16, 64, 256, 1024]
    for curve in curves:
        ends: dict[str, int] = {}
        for row in evals:
            if row["batch_size"] == curve.batch_size:
                ends[row["trial_id"]] = max(row["samples"], ends.get(row["trial_id"], 0))
        assert curve.samples == min(ends.values())
        tuned = (1.0 + 256.0 / curve.batch_size) * 50.0 * curve.batch_size
        best_lr = 0.1 * (curve.batch_size / 256) ** 0.5
        assert curve.best == pytest.approx(best_lr)
        for p in curve.points:
            crossing = tuned * math.exp(0.4 * math.log(p.lr / best_lr) ** 2)
            assert p.value == pytest.approx(START_VALUE - 1.5 * curve.samples / crossing, rel=1e-9)
            assert (p.seeds, p.diverged) == (3, 0)


def test_a_diverged_run_enters_no_median_and_does_not_say_when_the_others_are_compared(tmp_path: Path) -> None:
    settings = {"noise": 0.0, "second_realisation": False}
    calm = loss_curves(load(write_study(tmp_path / "a", **settings, diverged=False)), METRIC, "min")
    lost = loss_curves(load(write_study(tmp_path / "b", **settings, diverged=True)), METRIC, "min")
    assert [c.samples for c in lost] == [c.samples for c in calm]
    assert (lost[-1].points[-1].seeds, lost[-1].points[-1].diverged) == (2, 1)
    assert lost[-1].points[-1].value == pytest.approx(calm[-1].points[-1].value)


def test_runs_without_an_evaluation_after_their_start_do_not_shrink_the_comparison(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", **LIMIT)
    before = loss_curves(load(path), METRIC, "min")
    runs = analyse(path).runs
    stop_at_first_step(path / "trials" / next(r.key for r in runs if r.batch_size == 64))
    for r in runs:
        if r.batch_size == 1024:
            stop_at_first_step(path / "trials" / r.key)
    after = loss_curves(load(path), METRIC, "min")
    assert [c.batch_size for c in after] == [16, 64, 256]
    assert [c.samples for c in after] == [c.samples for c in before[:-1]]


def test_a_study_in_which_nothing_reached_the_target_still_compares_its_rates(tmp_path: Path) -> None:
    study = analyse(write_study(tmp_path / "s", **LIMIT), target=0.1)
    assert study.points == ()
    assert len(study.loss_curves) == 4
    path = rule_path(study.loss_curves, study.log.plan["rules"], "sqrt")
    assert path == tuple((c.best, next(p.value for p in c.points if p.lr == c.best)) for c in study.loss_curves)
