"""The metric against learning rate at equal samples, and the path of each scaling rule through it."""

from __future__ import annotations

from math import isfinite

import numpy as np
from matplotlib.axes import Axes

from analysis import axes, captions, losses
from analysis import own_axes as own
from analysis.losses import LossCurve
from analysis.plot_rates import RULE_STYLE, key
from analysis.study import StudyAnalysis
from analysis.wording import brief, count, number, sign, tick, unit_plural

SHELF_ROW = 0.03
"""Height of a row of the shelf, as a share of the axis."""


def has_losses(study: StudyAnalysis) -> bool:
    """Whether some run that did not diverge was evaluated after its start."""
    return any(p.seeds for curve in study.loss_curves for p in curve.points)


@own.on_own_axes(height=6.4)
def plot_losses(study: StudyAnalysis, ax: Axes) -> Axes:
    """The metric against LR, one line per batch size at equal samples, with the path of each rule across them."""
    curves, rules = study.loss_curves, study.log.plan["rules"]
    values = [p.value for curve in curves for p in curve.points if isfinite(p.value)]
    if not values:
        return own.empty(ax, "No run has been evaluated after its start yet.")
    x_limits = axes.padded([p.lr for curve in curves for p in curve.points])
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    _value_axis(ax, [*values, study.target])
    lost = any(p.diverged for curve in curves for p in curve.points)
    shelves = _shelf(ax, len(curves), above=study.direction == "min") if lost else [max(values)] * len(curves)
    for curve, shelf, colour in zip(curves, shelves, axes.batch_colours(len(curves)), strict=True):
        line = [(p.lr, p.value) for p in curve.points if isfinite(p.value)]
        label = f"B = {count(curve.batch_size)} (n = {count(curve.samples)})"
        ax.plot(*own.columns(line), color=colour, lw=1.3, marker=".", ms=5, label=label)
        diverged = [p.lr for p in curve.points if p.diverged]
        ax.plot(diverged, [shelf] * len(diverged), ls="", marker="x", ms=5, color=colour)
        best = [pair for pair in line if pair[0] == curve.best]
        mark = "D" if _at_edge(curve) else "o"
        ax.plot(*own.columns(best), ls="", marker=mark, ms=8, color=colour, mec=axes.ink(), zorder=4)
    for rule in dict.fromkeys(label["rule"] for label in rules):
        colour, kind = RULE_STYLE.get(rule, (axes.ink(), "-"))
        path = [(lr, v if isfinite(v) else shelves[0]) for lr, v in losses.rule_path(curves, rules, rule)]
        label = f"rule: {brief(rule, 12)}"
        ax.plot(*own.columns(path), color=colour, ls=kind, lw=2.2, alpha=0.9, label=label, zorder=3)
    goal = f"target: {sign(study.direction)} {number(study.target, 6)}"
    ax.axhline(study.target, color=axes.ink(), lw=1, ls=(0, (6, 3)), alpha=0.7, label=goal)
    ax.set_xlabel("learning rate")
    name = brief(study.metric).replace("$", r"\$")
    ax.set_ylabel(f"{name} after n {unit_plural(study.unit)} (median over seeds)")
    captions.title(ax, f"{name} against learning rate, after equal {unit_plural(study.unit)}")
    key(ax, ("o", "best LR"), *([("D", "best LR, at the grid's edge")] if any(map(_at_edge, curves)) else []))
    axes.legend_below(ax, columns=3)
    return ax


def _at_edge(curve: LossCurve) -> bool:
    """Whether the best of several rates is the first or the last of them."""
    return len(curve.points) > 1 and curve.best in (curve.points[0].lr, curve.points[-1].lr)


def _value_axis(ax: Axes, values: list[float]) -> None:
    """A logarithmic axis where every value is positive, else a linear one."""
    if min(values) > 0:
        limits = axes.padded(values)
        row = (limits[1] / limits[0]) ** SHELF_ROW
        ticks = [t for t in axes.log_ticks(*limits) if limits[0] * row < t < limits[1] / row]
        axes.log_axis(ax, "y", limits, ticks)
        return
    room = 0.06 * (max(values) - min(values) or 1.0)
    ax.set_ylim(min(values) - room, max(values) + room)
    ax.yaxis.set_tick_params(colors=axes.ink())


def _shelf(ax: Axes, rows: int, *, above: bool) -> list[float]:
    """Shade a shelf beyond the worse end of the values and return the heights of its rows, the nearest first.

    It is laid out in the coordinates of the axis' own scale, so that it is as high on a linear axis as on a logarithmic
    one.
    """
    scale = ax.yaxis.get_transform()
    low, high = (float(v) for v in scale.transform(np.array(ax.get_ylim())))
    edge, row = (high, SHELF_ROW * (high - low)) if above else (low, -SHELF_ROW * (high - low))
    inverse = scale.inverted()
    heights = [float(v) for v in inverse.transform(edge + row * np.arange(1.0, rows + 2.0))]
    first, end = (float(v) for v in inverse.transform(np.array([edge, edge + row * (rows + 1)])))
    ticks = [t for t in ax.get_yticks() if min(ax.get_ylim()) < t < max(ax.get_ylim())]
    bottom, top = ax.get_ylim()
    ax.set_ylim(*((bottom, end) if above else (end, top)))
    ax.axhspan(first, end, color=axes.ink(), alpha=0.06, lw=0)
    middle = float(inverse.transform(np.array([edge + row * (rows + 1) / 2]))[0])
    ax.set_yticks([*ticks, middle], labels=[*(tick(t) for t in ticks), "diverged"])
    ax.yaxis.set_tick_params(colors=axes.ink())
    return heights[:rows]
