"""Steps to target against learning rate, and the path of each scaling rule through it."""

from __future__ import annotations

from math import inf, isfinite

from matplotlib.axes import Axes

from analysis import axes, captions, drawn
from analysis import own_axes as own
from analysis.axes import ORANGE, PURPLE, SKY
from analysis.study import StudyAnalysis
from analysis.wording import brief, number

RULE_STYLE = {"none": (SKY, ":"), "sqrt": (ORANGE, "--"), "linear": (PURPLE, "-.")}


@own.on_own_axes(height=5.8)
def plot_learning_rates(study: StudyAnalysis, ax: Axes) -> Axes:
    """Steps to target against LR, one line per batch size, with the path of each scaling rule across them."""
    lines = drawn.lr_lines(study)
    finite = [s for line in lines for _, s in (*line.reached, line.best)]
    if not finite:
        return own.empty(ax, "No batch size reached the target.")
    rates = [lr for p in study.points for lr, *_ in p.lr_curve] + [r.lr for v in study.rules for r in v.points]
    low, high = axes.padded(finite)
    shelves = axes.shelf_heights(low, high, len(lines), above=True)
    x_limits, ticks = axes.padded(rates), axes.log_ticks(low, high)
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    axes.log_axis(ax, "y", (low, high), ticks)
    for line, shelf, colour in zip(lines, shelves, axes.batch_colours(len(lines)), strict=True):
        label = f"B = {number(line.batch_size, 6)}"
        ax.plot(*own.columns(line.reached), color=colour, lw=1.3, marker=".", ms=5, label=label)
        ax.plot(line.missed, [shelf] * len(line.missed), ls="", marker="x", ms=5, color=colour)
        ax.plot(*line.best, marker="D" if line.edge else "o", ms=8, color=colour, mec=axes.ink(), zorder=4)
    for verdict in study.rules:
        colour, kind = RULE_STYLE.get(verdict.rule, (axes.ink(), "-"))
        lr, steps = own.columns(drawn.rule_path(study, verdict.rule))
        on_shelf = [s if isfinite(s) else shelves[0] for s in steps]
        ax.plot(
            lr, on_shelf, color=colour, ls=kind, lw=2.2, alpha=0.9, label=f"rule: {brief(verdict.rule, 12)}", zorder=3
        )
    if any(line.missed for line in lines) or any(p.steps == inf for v in study.rules for p in v.points):
        axes.draw_shelf(ax, ticks, (low, high), shelves, "not\nreached")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("optimizer steps to target (median over seeds)")
    captions.title(ax, f"Steps to {captions.target(study)} against learning rate")
    key(
        ax, ("o", "best LR of the grid"), *([("D", "best LR at the grid's edge")] if any(x.edge for x in lines) else [])
    )
    axes.legend_below(ax, columns=4)
    return ax


def key(ax: Axes, *entries: tuple[str, str]) -> None:
    """Legend entries for marks that are drawn in many colours."""
    for marker, label in entries:
        ax.plot([], [], ls="", marker=marker, ms=8, mfc="none", mec=axes.ink(), label=label)
