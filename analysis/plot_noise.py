"""The gradient noise scale over training."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import ColorType

from analysis import axes, captions, drawn
from analysis import own_axes as own
from analysis.axes import GREEN
from analysis.study import StudyAnalysis
from analysis.wording import level, number, unit_plural


@own.on_own_axes()
def plot_noise(study: StudyAnalysis, ax: Axes) -> Axes:
    """Gradient noise scale over training; the swept B_crit beside it is another quantity and drawn as such."""
    lines, fit = drawn.noise_lines(study), study.fit
    heights = [v for x in lines for _, *values in x.resolved for v in values if 0 < v < inf]
    heights += [low for x in lines for _, low in x.bounds]
    when = [w for x in lines for w in (*(r[0] for r in x.resolved), *(b[0] for b in x.bounds), *x.unknown)]
    if not when:
        return own.empty(ax, "No noise scale was measured.")
    swept = fit is not None and fit.status in ("ok", "extrapolated") and drawn.is_drawable(fit)
    y_limits = axes.padded([*heights, *([fit.b_crit] if fit and swept else [])] or [1.0, 10.0], 0.1)
    x_limits = axes.padded(when)
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    ticks = axes.log_ticks(*y_limits)
    axes.log_axis(ax, "y", y_limits, ticks)
    shelves = axes.shelf_heights(*y_limits, len(lines), above=False)
    if any(x.unknown for x in lines):
        axes.draw_shelf(ax, ticks, y_limits, shelves, "no\nbound")
    for i, (line, colour) in enumerate(zip(lines, axes.batch_colours(len(lines)), strict=True)):
        # Sideways by 1 % of the axis' decades each, so that the whiskers of one window stand apart.
        shift = (x_limits[1] / x_limits[0]) ** (0.01 * (i - (len(lines) - 1) / 2))
        _draw_noise(ax, line, colour, y_limits, shift)
        ax.plot(line.unknown, [shelves[i]] * len(line.unknown), ls="", marker="s", ms=4, mfc="none", mec=colour)
    if fit and swept:
        low, high = (float(np.clip(v, *y_limits)) for v in fit.b_crit_interval)
        ax.axhspan(low, high, facecolor=GREEN, alpha=0.12, hatch="///", edgecolor=GREEN, lw=0)
        ax.axhline(fit.b_crit, color=GREEN, lw=1.2, ls="--")
    ax.set_xlabel(f"{unit_plural(study.unit)} seen")
    ax.set_ylabel(f"gradient noise scale [{unit_plural(study.unit)}]")
    captions.title(ax, "Gradient noise scale over training")
    handles, _ = ax.get_legend_handles_labels()
    if any(x.bounds for x in lines):
        handles.append(
            Line2D([], [], ls="", marker="^", mfc="none", mec=axes.ink(), label="unresolved: at least so much")
        )
    if any(x.unknown for x in lines):
        handles.append(
            Line2D([], [], ls="", marker="s", ms=4, mfc="none", mec=axes.ink(), label="unresolved: no bound")
        )
    if fit and swept:
        name = f"a different quantity, the sweep's\n{captions.b_crit(fit)}"
        handles.append(Patch(facecolor=GREEN, alpha=0.3, hatch="///", label=name))
    axes.legend_below(ax, handles)
    return ax


def _draw_noise(
    ax: Axes, line: drawn.NoiseLine, colour: ColorType, y_limits: tuple[float, float], shift: float
) -> None:
    """One batch size: resolved windows with whiskers, unresolved ones hollow at their lower bound."""
    if line.resolved:
        x, value, low, high = np.array(line.resolved).T
        low, high = np.clip(low, *y_limits), np.clip(high, *y_limits)
        label = f"at B = {number(line.batch_size, 6)}, with {level(line.confidence)} interval"
        look: dict[str, Any] = {"color": colour, "marker": "o", "ms": 5, "lw": 1.4, "capsize": 3}
        ax.errorbar(x * shift, value, yerr=(value - low, high - value), label=label, **look)
    hollow: dict[str, Any] = {"ls": "", "mfc": "none", "mec": colour}
    ax.plot([x * shift for x, _ in line.bounds], [low for _, low in line.bounds], marker="^", ms=8, **hollow)
