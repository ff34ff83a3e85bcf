"""A rule holds as far as its learning rate costs no more steps than the tuned one."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.read import load
from analysis.rules import RuleVerdict, judge_rules
from analysis.targets import Run, batch_points, runs_to_target
from tests.study_factory import write_study

BATCHES = (16, 64, 256, 1024)


def verdicts(path: Path, **study) -> dict[str, RuleVerdict]:
    settings = {"noise": 0.0, "diverged": False, "batches": BATCHES, "base_batch": 64} | study
    log = load(write_study(path / "s", **settings))
    runs = runs_to_target(log, "loss", 1.0, "min")
    return {v.rule: v for v in judge_rules(log.plan, runs, batch_points(runs)[0])}


def test_where_the_optimum_follows_the_square_root_only_that_rule_holds_everywhere(tmp_path: Path) -> None:
    got = verdicts(tmp_path)
    assert (got["sqrt"].holds_down_to, got["sqrt"].holds_up_to) == (16, 1024)
    assert [p.ratio for p in got["sqrt"].points] == pytest.approx([1.0] * 4)
    assert "every batch that was planned" in got["sqrt"].sentence
    # A factor 2 from the optimum costs exp(0.4 ln(2)^2) = 1.212 times the steps.
    for rule in ("none", "linear"):
        assert (got[rule].holds_down_to, got[rule].holds_up_to) == (64, 64)
        assert got[rule].points[2].ratio == pytest.approx(math.exp(0.4 * math.log(2) ** 2), rel=1e-6)
        assert "at 256 it takes 21 % more steps" in got[rule].sentence


def test_where_the_optimum_follows_the_batch_the_linear_rule_holds(tmp_path: Path) -> None:
    got = verdicts(tmp_path, lr_exponent=1.0)
    assert got["linear"].holds_up_to == 1024
    assert got["sqrt"].holds_up_to == 64


def test_a_rule_that_comes_back_into_line_beyond_a_failure_does_not_hold_there(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, diverged=False, batches=BATCHES, base_batch=16))
    runs = runs_to_target(log, "loss", 1.0, "min")
    slow = [r if (r.batch_size, round(r.lr, 6)) != (64, 0.2) else slower(r) for r in runs]
    sqrt = next(v for v in judge_rules(log.plan, slow, batch_points(slow)[0]) if v.rule == "sqrt")
    assert [p.holds for p in sqrt.points] == [True, False, True, True]
    assert sqrt.holds_up_to == 16


def test_a_base_lr_that_is_not_tuned_fails_at_once(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, diverged=False, batches=BATCHES, base_batch=64))
    runs = [r if (r.batch_size, r.lr) != (64, 0.1) else slower(r) for r in runs_to_target(log, "loss", 1.0, "min")]
    got = judge_rules(log.plan, runs, batch_points(runs)[0])
    assert all(v.holds_up_to is None and v.holds_down_to is None for v in got)
    assert "fails already at its base batch 64" in got[0].sentence


def test_runs_that_never_reach_the_target_make_a_rule_fail(tmp_path: Path) -> None:
    got = verdicts(tmp_path)
    assert math.isinf(got["linear"].points[-1].steps)
    assert not got["linear"].points[-1].holds


def test_a_batch_without_a_tuned_lr_is_not_judged(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, diverged=False, batches=BATCHES, base_batch=64))
    runs = runs_to_target(log, "loss", 1.0, "min")
    points = [p for p in batch_points(runs)[0] if p.batch_size != 256]
    assert [p.batch_size for p in judge_rules(log.plan, runs, points)[0].points] == [16, 64, 1024]
    assert "no batch size" in judge_rules(log.plan, runs, [])[0].sentence


@pytest.mark.parametrize(("silent", "down", "up"), [(256, 16, 64), (1024, 16, 256), (16, 64, 1024)])
def test_no_rule_holds_beyond_a_planned_batch_at_which_nobody_reached(
    tmp_path: Path, silent: int, down: int, up: int
) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, diverged=False, batches=BATCHES, base_batch=64))
    runs = runs_to_target(log, "loss", 1.0, "min")
    points = [p for p in batch_points(runs)[0] if p.batch_size != silent]
    sqrt = next(v for v in judge_rules(log.plan, runs, points) if v.rule == "sqrt")
    assert (sqrt.holds_down_to, sqrt.holds_up_to) == (down, up)
    assert f"at {silent:,} it is not judged, as no learning rate reached the target there" in sqrt.sentence
    assert "every batch" not in sqrt.sentence


def test_a_rule_whose_base_batch_gave_no_point_is_not_judged(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, diverged=False, batches=BATCHES, base_batch=64))
    runs = runs_to_target(log, "loss", 1.0, "min")
    points = [p for p in batch_points(runs)[0] if p.batch_size != 64]
    for verdict in judge_rules(log.plan, runs, points):
        assert (verdict.holds_down_to, verdict.holds_up_to) == (None, None)
        assert "not judged, because its base batch 64 has no point" in verdict.sentence


def test_a_failure_within_the_noise_is_said_to_be_in_doubt(tmp_path: Path) -> None:
    log = load(write_study(tmp_path / "s", noise=0.0, diverged=False, batches=BATCHES, base_batch=64))
    runs = runs_to_target(log, "loss", 1.0, "min")
    scattered = [
        replace(r, samples=(0.9, 1.2, 1.6)[r.seed] * r.samples) if (r.batch_size, r.lr) == (256, 0.4) else r
        for r in runs
    ]
    for these, doubted in ((runs, False), (scattered, True)):
        linear = next(v for v in judge_rules(log.plan, these, batch_points(these)[0]) if v.rule == "linear")
        assert linear.holds_up_to == 64
        assert ("perhaps by noise" in linear.sentence) is doubted


def slower(run: Run) -> Run:
    return replace(run, samples=1.5 * run.samples)
