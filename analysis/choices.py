"""The multiverse of one fit: the same runs at every target that their source planned, under every choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from analysis.fits import SweepFit
from analysis.losses import Direction
from analysis.multiverse import CROSSINGS, Multiverse, multiverse
from analysis.near_targets import neighbouring_targets, runs_of_traces
from analysis.read import StudyLog
from analysis.sweep import Sweep, source_paths
from analysis.targets import Run, runs_to_target
from scaleexp.errors import ConfigError


def multiverse_of(fit: SweepFit, logs: Sequence[StudyLog] = ()) -> Multiverse:
    """How far the critical batch size of a fit moves over the choices of its analysis.

    Targets are those that the plans have for its metric, and its own; of curves its own and neighbouring ones that all
    of their runs met. A table of points holds one target.

    Args:
        fit: of a sweep.
        logs: every study that was read; those that the sweep does not come from are not used.
    """
    sweep = fit.sweep
    paths = source_paths(sweep)
    # A study that was loaded from elsewhere than its log is here cannot be read at another target.
    own = [log for log in logs if str(log.path) in paths] if sweep.is_study else []
    own = own if len(own) == len(paths) else []
    runs: dict[float | None, Sequence[Run]] = {}
    skipped: list[tuple[float | None, str, str]] = []
    for target in _targets(sweep, own):
        try:
            runs[target] = _runs(sweep, own, target)
        except ConfigError as error:  # met before the first step: nothing to measure there
            skipped.append((target, CROSSINGS[0], str(error)))
    found = multiverse(runs, delta=fit.options.delta, reference_batch=fit.options.reference_batch)
    return replace(found, left_out=(*skipped, *found.left_out), notes=_notes(sweep, runs))


def _runs(sweep: Sweep, logs: Sequence[StudyLog], target: float | None) -> tuple[Run, ...]:
    if target is None or target == sweep.target:
        return sweep.runs
    return runs_at(sweep, logs, target) if logs else runs_of_traces(sweep, target)


def _notes(sweep: Sweep, runs: Mapping[float | None, Sequence[Run]]) -> tuple[str, ...]:
    """Why the target is not varied, where it is not."""
    if len(runs) > 1:
        return ()
    if sweep.is_study or sweep.traces:
        return ("one target: no neighbouring one is met by all runs that met it.",)
    return ("one target: a table of points holds what its runs took to a single one.",)


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
    assert wanted is None, f"run {wanted.key} is in no log of its sweep" if wanted else ""
    return tuple(found)


def _targets(sweep: Sweep, logs: Sequence[StudyLog]) -> list[float | None]:
    if sweep.is_study:
        return list(dict.fromkeys([*_planned(sweep, logs), sweep.target]))
    if sweep.target is None:
        return [None]
    hard = sweep.direction == "max"
    return [*sorted({sweep.target, *neighbouring_targets(sweep)}, reverse=not hard)]


def _planned(sweep: Sweep, logs: Sequence[StudyLog]) -> Iterator[float]:
    for log in logs:
        for target in log.plan["targets"]:
            if target["metric"] == sweep.metric:
                yield from target["values"]
