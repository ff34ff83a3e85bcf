"""The table of every run, as text and as what it is sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan

from analysis.run_rows import RunRow
from analysis.sections import NONE, Table
from analysis.study import StudyAnalysis
from analysis.wording import count, number, unit_plural


def runs_table(study: StudyAnalysis, runs: Sequence[RunRow]) -> Table:
    """Every run, with what its cells are sorted by."""
    unit = unit_plural(study.unit)
    what = ("batch size", "workers", "LR", "seed", "run as", "status")
    head = (*what, "steps", unit, f"{unit} to target", f"final {study.metric}", "seconds")
    keys = tuple(
        (*_what(r), float(r.steps), float(r.samples), *map(_known, (r.to_target, r.final, r.seconds))) for r in runs
    )
    rows = tuple(
        (
            count(r.batch_size),
            count(r.workers),
            number(r.lr, 6),
            str(r.seed),
            r.realised,
            r.status,
            count(r.steps),
            count(r.samples),
            *(NONE if isnan(v) else number(v, 4) for v in (r.to_target, r.final, r.seconds)),
        )
        for r in runs
    )
    return Table(head=head, rows=rows, words=(4, 5), keys=keys)


def _what(run: RunRow) -> tuple[str | float | None, ...]:
    return float(run.batch_size), float(run.workers), run.lr, float(run.seed), run.realised, run.status


def _known(x: float) -> float | None:
    return x if isfinite(x) else None
