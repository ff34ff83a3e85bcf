"""The multiverse of one fit: the same runs at every target that their source planned, under every choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from analysis.fits import SweepFit
from analysis.losses import Direction
from analysis.multiverse import CROSSINGS, Multiverse, multiverse
from analysis.read import StudyLog
from analysis.sweep import Sweep, source_paths
from analysis.targets import Run, runs_to_target
from scaleexp.errors import ConfigError


def multiverse_of(fit: SweepFit, logs: Sequence[StudyLog] = ()) -> Multiverse:
    """How far the critical batch size of a fit moves over the choices of its analysis.

    Targets are those that the plans have for its metric, and its own. Runs that are not a study's have theirs alone.

    Args:
        fit: of a sweep.
        logs: every study that was read; those that the sweep does not come from are not used.
    """
    sweep = fit.sweep
    own = [log for log in logs if str(log.path) in source_paths(sweep)] if sweep.is_study else []
    runs: dict[float | None, Sequence[Run]] = {}
    skipped: list[tuple[float | None, str, str]] = []
    for target in _targets(sweep, own):
        try:
            runs[target] = sweep.runs if target is None or target == sweep.target else runs_at(sweep, own, target)
        except ConfigError as error:  # met before the first step: nothing to measure there
            skipped.append((target, CROSSINGS[0], str(error)))
    smallest = fit.points[0].batch_size if fit.points else None
    found = multiverse(runs, delta=fit.options.delta, reference_batch=fit.options.reference_batch or smallest)
    return replace(found, left_out=(*skipped, *found.left_out))


def runs_at(sweep: Sweep, logs: Sequence[StudyLog], target: float) -> tuple[Run, ...]:
    """The runs of a sweep against another target.

    Raises:
        ConfigError: some run of these studies meets it before its first step.
    """
    direction: Direction = "max" if sweep.direction == "max" else "min"
    others = (run for log in logs for run in runs_to_target(log, sweep.metric, target, direction))
    # Both are in plan order, study after study, so that one pass finds each run; its seed may have been counted on.
    mine = iter(sweep.runs)
    wanted, found = next(mine, None), []
    for run in others:
        if wanted is not None and run.key == wanted.key:
            found.append(replace(run, seed=wanted.seed))
            wanted = next(mine, None)
    return tuple(found) if wanted is None else ()


def _targets(sweep: Sweep, logs: Sequence[StudyLog]) -> list[float | None]:
    return list(dict.fromkeys([*_planned(sweep, logs), sweep.target]))


def _planned(sweep: Sweep, logs: Sequence[StudyLog]) -> Iterator[float]:
    for log in logs:
        for target in log.plan["targets"]:
            if target["metric"] == sweep.metric:
                yield from target["values"]
