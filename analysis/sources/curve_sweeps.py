"""Training curves as sweeps: every run against the targets that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from analysis.sources.curves import Curve, Curves, read_curves, runs_against, split, unconfirmed
from analysis.sources.points import Columns
from analysis.sweep import Sweep
from analysis.targets import Run
from analysis.wording import number
from scaleexp.errors import ConfigError


def curve_sweeps(
    paths: Sequence[str | Path],
    columns: Columns,
    *,
    targets: Sequence[float] = (),
    metric: str | None = None,
    with_traces: bool = False,
) -> tuple[Sweep, ...]:
    """The runs of files of curves, grouped, against each target.

    Args:
        paths: files or directories, all of one kind; see `read_curves`.
        columns: what their columns mean, what is known of every run, and what to group by.
        targets: values of the metric.
        metric: which, where several are logged.
        with_traces: whether the curves themselves are compared, so that no target is needed.

    Raises:
        ConfigError: what a curve lacks, or no target.
        StorageError: a file cannot be read.
    """
    if columns.cost:
        raise ConfigError("--cost-column is of a table of points; a curve has --samples-column or --steps-column.")
    curves = read_curves(
        paths,
        metric=metric,
        unit=columns.unit,
        batch_size=columns.batch_size,
        lr=columns.lr,
        run_pattern=columns.run_pattern,
        run_column=columns.run,
        batch_column=None if columns.batch == Columns().batch else columns.batch,
        steps_column=columns.steps,
        samples_column=columns.samples,
    )
    if not targets and not with_traces:
        raise ConfigError(f"curves need a target to count steps to: give --target V ({_seen(curves)}).")
    provenance = {
        "path": str(paths[0]),
        "files": [asdict(file) for file in curves.provenance],
        "rows": sum(file.rows for file in curves.provenance),
    }
    found = []
    for group, own in split(curves, columns.group_by):
        _refuse_twice(own)
        for target in targets or (None,):
            runs: tuple[Run, ...] = () if target is None else runs_against(own, target, columns.direction)
            note = None if target is None else unconfirmed(own, target, columns.direction)
            found.append(
                Sweep(
                    group=group,
                    metric=curves.metric,
                    direction=columns.direction,
                    target=target,
                    unit=curves.unit,
                    cost_unit="samples",
                    runs=runs,
                    provenance=provenance,
                    problems=(*curves.problems, *((note,) if note else ())),
                    traces=own.runs,
                )
            )
    return tuple(found)


def _refuse_twice(curves: Curves) -> None:
    """Two runs of one batch size, LR and seed are of two recipes.

    Raises:
        ConfigError: there are such runs.
    """
    taken: dict[tuple[int, float, int], Curve] = {}
    for curve in curves.runs:
        other = taken.setdefault((curve.batch_size, curve.lr, curve.seed), curve)
        if other is not curve:
            by = ", ".join(name for name in curve.group if curve.group.get(name) != other.group.get(name))
            raise ConfigError(
                f"runs {other.run} and {curve.run} have one batch size ({curve.batch_size}), LR ({curve.lr:g}) and "
                f"seed ({curve.seed}): group by what differs between them{f' ({by})' if by else ''}, or drop one."
            )


def _seen(curves: Curves) -> str:
    values = np.concatenate([curve.values for curve in curves.runs])
    values = values[np.isfinite(values)]
    if not values.size:
        return f"no value of {curves.metric} is finite"
    return f"{curves.metric} went from {number(values.min())} to {number(values.max())} over all runs"
