"""The numbers behind each figure as a table that can be downloaded: what is drawn, at full precision."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO
from math import isnan

from analysis import drawn, losses
from analysis.further import Further
from analysis.run_rows import RunRow
from analysis.study import StudyAnalysis
from analysis.target_ladder import bounds

Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A table of numbers.

    Attributes:
        head: column names.
        rows: one cell per column; None and nan are empty in the file.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def csv_text(sheet: Sheet) -> str:
    r"""A sheet as CSV (RFC 4180), floats with every digit that tells them apart.

    >>> csv_text(Sheet(head=("kind", "steps"), rows=(("a,b", 0.1), ("c", None), ("d", float("nan")))))
    'kind,steps\r\n"a,b",0.1\r\nc,\r\nd,\r\n'
    """
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(sheet.head)
    writer.writerows([_written(cell) for cell in row] for row in sheet.rows)
    return text.getvalue()


def _written(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and isnan(cell)):
        return ""
    return repr(float(cell)) if isinstance(cell, float) else str(cell)


def sheets(study: StudyAnalysis, data: Further) -> dict[str, Sheet]:
    """A sheet for every figure, by the figure's name, whether or not it is drawn."""
    return {name: make(study) for name, make in _OF_STUDY.items()} | {n: make(data) for n, make in _OF_FURTHER.items()}


def runs_sheet(rows: Sequence[RunRow]) -> Sheet:
    """Every run."""
    return Sheet(head=tuple(f.name for f in fields(RunRow)), rows=tuple(astuple(row) for row in rows))


def _kinds(of: Iterable[tuple[str, drawn.Pairs]]) -> Iterable[tuple[Cell, ...]]:
    return ((kind, x, y, None, None) for kind, pairs in of for x, y in pairs)


def _steps(study: StudyAnalysis) -> Sheet:
    data, fit = drawn.steps_figure(study), study.fit
    names = ("reached", "others", "outliers", "aggregate", "censored", "never", "diverged")
    rows = [*_kinds((name, getattr(data, name)) for name in names)]
    rows += _kinds([("fit", data.curve.steps if data.curve else ())])
    if fit:
        rows += [("band", b, None, low, high) for b, low, high in fit.band]
        rows += [("s_min", None, fit.s_min, *fit.s_min_interval), ("b_crit", fit.b_crit, None, *fit.b_crit_interval)]
    # A b_crit that the data do not identify keeps its value to itself, as in the figure.
    if fit and fit.status == "not_identified":
        rows[-1] = ("b_crit", None, None, *fit.b_crit_interval)
    return Sheet(head=("kind", "batch_size", "steps", "low", "high"), rows=tuple(rows))


def _trade_off(study: StudyAnalysis) -> Sheet:
    curve = drawn.fitted_curve(study)
    rows: list[tuple[Cell, ...]] = [("measured", p.batch_size, p.steps, p.samples) for p in study.points]
    if curve:
        rows += [
            ("fit", b, steps, samples) for (b, _), (steps, samples) in zip(curve.steps, curve.trade_off, strict=True)
        ]
    return Sheet(head=("kind", "batch_size", "steps", "samples"), rows=tuple(rows))


def _learning_rates(study: StudyAnalysis) -> Sheet:
    rows: list[tuple[Cell, ...]] = [
        ("grid", p.batch_size, lr, steps, reached, runs, int(lr == p.lr))
        for p in study.points
        for lr, steps, reached, runs in p.lr_curve
    ]
    rows += [(f"rule {v.rule}", p.batch_size, p.lr, p.steps, None, None, None) for v in study.rules for p in v.points]
    head = ("kind", "batch_size", "lr", "median_steps", "seeds_reached", "seeds_run", "best")
    return Sheet(head=head, rows=tuple(rows))


def _lr_optimum(study: StudyAnalysis) -> Sheet:
    grid = drawn.lr_grid(study)
    rows: list[tuple[Cell, ...]] = [("best of grid", p.batch_size, p.lr, p.lr_edge) for p in study.points]
    rows += [("optimum", p.batch_size, p.lr_optimum, None) for p in study.points if p.lr_optimum]
    law = drawn.lr_law(study)
    rows += [("power law", b, lr, None) for b, lr in (law[1] if law else ())]
    rows += [(kind, b, lr, None) for kind in ("reached", "missed") for b, lr in getattr(grid, kind)]
    rows += [(f"rule {v.rule}", p.batch_size, p.lr, None) for v in study.rules for p in v.points]
    return Sheet(head=("kind", "batch_size", "lr", "edge_of_grid"), rows=tuple(rows))


def _losses(study: StudyAnalysis) -> Sheet:
    curves, labels = study.loss_curves, study.log.plan["rules"]
    rows: list[tuple[Cell, ...]] = [
        ("median", c.batch_size, c.samples, p.lr, p.value, p.seeds, p.diverged) for c in curves for p in c.points
    ]
    for rule in dict.fromkeys(label["rule"] for label in labels):
        path = losses.rule_path(curves, labels, rule)
        rows += [(f"rule {rule}", None, None, lr, value, None, None) for lr, value in path]
    head = ("kind", "batch_size", "samples", "lr", study.metric, "seeds", "seeds_diverged")
    return Sheet(head=head, rows=tuple(rows))


def _noise(study: StudyAnalysis) -> Sheet:
    rows: list[tuple[Cell, ...]] = []
    for line in drawn.noise_lines(study):
        rows += [("resolved", line.batch_size, *row) for row in line.resolved]
        rows += [("lower bound", line.batch_size, x, None, low, None) for x, low in line.bounds]
        rows += [("no bound", line.batch_size, x, None, None, None) for x in line.unknown]
    return Sheet(head=("kind", "batch_size", "samples_seen", "b_simple", "low", "high"), rows=tuple(rows))


def _targets(data: Further) -> Sheet:
    rows: list[tuple[Cell, ...]] = []
    for r in data.rungs:
        trusted = r.fit is not None and r.fit.status in ("ok", "extrapolated")
        value = r.fit.b_crit if r.fit and trusted else None
        status = r.fit.status if r.fit else "no_fit"
        rows.append((r.target, int(r.planned), r.batches, value, *(bounds(r) or (None, None)), status))
    head = ("target", "planned", "n_batches", "b_crit", "low", "high", "status")
    return Sheet(head=head, rows=tuple(rows))


def _gap(data: Further) -> Sheet:
    return Sheet(
        head=("run", "batch_size", "seed", "held_out_minus_training_loss"),
        rows=tuple((n.key, n.batch_size, n.seed, n.gap) for n in data.near),
    )


def _gradients(data: Further) -> Sheet:
    rows: list[tuple[Cell, ...]] = [("run", n.batch_size, n.seed, n.grad_sq) for n in data.near]
    rows += [("unbiased" if g.resolved else "unresolved", g.batch_size, None, g.g_sq) for g in data.gradients]
    return Sheet(head=("kind", "batch_size", "seed", "grad_sq"), rows=tuple(rows))


def _distances(data: Further) -> Sheet:
    return Sheet(
        head=("run", "batch_size", "seed", "distance_from_init"),
        rows=tuple((n.key, n.batch_size, n.seed, n.distance) for n in data.near),
    )


def _throughput(data: Further) -> Sheet:
    return Sheet(
        head=("run", "series", "batch_size", "workers", "samples_per_s"),
        rows=tuple((s.key, s.series, s.batch_size, s.workers, s.samples_per_s) for s in data.speeds),
    )


def _time(data: Further) -> Sheet:
    return Sheet(
        head=("run", "series", "batch_size", "workers", "seconds"),
        rows=tuple((s.key, s.series, s.batch_size, s.workers, s.seconds) for s in data.speeds if s.chosen),
    )


_OF_STUDY: dict[str, Callable[[StudyAnalysis], Sheet]] = {
    "steps_to_target": _steps,
    "trade_off": _trade_off,
    "learning_rate": _learning_rates,
    "lr_optimum": _lr_optimum,
    "loss_against_lr": _losses,
    "noise_scale": _noise,
}
_OF_FURTHER: dict[str, Callable[[Further], Sheet]] = {
    "b_crit_against_target": _targets,
    "generalisation_gap": _gap,
    "gradient_norm": _gradients,
    "distance_from_init": _distances,
    "throughput": _throughput,
    "time_to_target": _time,
}
