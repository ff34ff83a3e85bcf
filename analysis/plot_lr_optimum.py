"""The best learning rate of each batch size."""

from __future__ import annotations

from matplotlib.axes import Axes

from analysis import axes, captions, drawn
from analysis import own_axes as own
from analysis.plot_rates import RULE_STYLE
from analysis.study import StudyAnalysis
from analysis.wording import brief, level, number, unit_plural

EDGE = {"low": "v", "high": "^"}


@own.on_own_axes(height=5.4)
def plot_lr_optimum(study: StudyAnalysis, ax: Axes) -> Axes:
    """Every LR of each batch's grid, the best of them, and the optimum between; with the LRs that the rules gave."""
    grid, best = drawn.lr_grid(study), study.points
    if not best:
        return own.empty(ax, "No batch size reached the target.")
    rates = [lr for _, lr in (*grid.reached, *grid.missed)] + [p.lr_optimum for p in best if p.lr_optimum]
    x_limits, y_limits = axes.padded([p.batch_size for p in best]), axes.padded(rates)
    axes.log_axis(ax, "x", x_limits, axes.batch_ticks([p.batch_size for p in best], *x_limits))
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    for pairs, marker, label in (
        (grid.reached, ".", "LR of the grid that reached the target"),
        (grid.missed, "x", "LR of the grid that missed it"),
    ):
        if pairs:
            ax.plot(*own.columns(pairs), ls="", marker=marker, ms=4, color=axes.ink(), alpha=0.35, label=label)
    for rule in study.rules:
        colour, kind = RULE_STYLE.get(rule.rule, (axes.ink(), "-"))
        path = [(p.batch_size, p.lr) for p in rule.points]
        if len(path) > 1:
            ax.plot(*own.columns(path), color=colour, ls=kind, lw=1.6, alpha=0.9, label=f"rule: {brief(rule.rule, 12)}")
    blue = axes.run_colour()
    inside = [(p.batch_size, p.lr) for p in best if p.lr_edge is None]
    ax.plot(*own.columns(inside), ls="", marker="o", ms=9, mfc="none", mec=blue, label="best LR of the grid")
    for edge, marker in EDGE.items():
        ends = [(p.batch_size, p.lr) for p in best if p.lr_edge == edge]
        if ends:
            side = "at the grid's lower end: or less" if edge == "low" else "at the grid's upper end: or more"
            ax.plot(*own.columns(ends), ls="", marker=marker, ms=9, mfc="none", mec=axes.VERMILION, label=side)
    vertices = [(float(p.batch_size), p.lr_optimum) for p in best if p.lr_optimum]
    if vertices:
        ax.plot(*own.columns(vertices), ls="", marker="D", ms=5, color=blue, label="optimum between grid points")
    law = drawn.lr_law(study)
    if law:
        found, along = law
        low, high = (number(end, 2) for end in found.exponent_interval)
        power = f"fit: $LR = c\\,B^a$, $a$ = {number(found.exponent, 2)} ({level(found.confidence)}: {low} to {high})"
        ax.plot(*own.columns(along), color=axes.GREEN, lw=2.0, label=power)
    ax.set_xlabel(f"batch size [{unit_plural(study.unit)}]")
    ax.set_ylabel("learning rate")
    captions.title(ax, f"Best learning rate to {captions.target(study)}")
    axes.legend_below(ax, columns=2)
    return ax
