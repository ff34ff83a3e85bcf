"""What a report shows beside the study's own answer: every run, other targets, speed, and the state at the target."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.histories import histories
from analysis.near_target import NearTarget, TrueGradient, held_out_loss, near_target, true_gradients
from analysis.run_rows import RunRow, run_rows
from analysis.speed import Speed, speeds
from analysis.study import StudyAnalysis
from analysis.target_ladder import Rung, target_ladder


@dataclass(frozen=True, kw_only=True, slots=True)
class Further:
    """Numbers that only figures and tables need; each is empty where the log does not hold it.

    Attributes:
        study: what they belong to.
        rows: every run.
        rungs: B_crit at several targets.
        speeds: every run's throughput and time to target.
        near: runs at the best LR when they met the target.
        gradients: |G|^2 there, by batch size.
        held_out: the metric that `near` compares the training loss with.
    """

    study: StudyAnalysis
    rows: tuple[RunRow, ...]
    rungs: tuple[Rung, ...]
    speeds: tuple[Speed, ...]
    near: tuple[NearTarget, ...]
    gradients: tuple[TrueGradient, ...]
    held_out: str | None


def further(study: StudyAnalysis) -> Further:
    """Read the steps of a study once, and everything that rests on them."""
    found = histories(study.log)
    return Further(
        study=study,
        rows=run_rows(study, found),
        rungs=target_ladder(study),
        speeds=speeds(study, found),
        near=near_target(study, found),
        gradients=true_gradients(study),
        held_out=held_out_loss(study, found),
    )
