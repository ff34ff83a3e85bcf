"""The metric over training, one line per trial, while a study runs and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import axes, captions
from analysis import own_axes as own
from analysis.study import StudyAnalysis
from analysis.training_curves import TrainingCurve, training_curves
from analysis.wording import brief, number, sign, unit_plural


@own.on_own_axes()
def plot_training(study: StudyAnalysis, ax: Axes) -> Axes:
    """Every trial's metric against the samples that it has seen; trials that still run end in a dot."""
    curves = training_curves(study.log, study.metric)
    if not curves:
        return own.empty(ax, "No trial has been evaluated after its start yet.")
    batches = sorted({curve.batch_size for curve in curves})
    colours = dict(zip(batches, axes.batch_colours(len(batches)), strict=True))
    x_limits = axes.padded([x for curve in curves for x, _ in curve.points])
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    _value_axis(ax, curves, study)
    named: set[int] = set()
    for curve in sorted(curves, key=lambda c: c.batch_size):
        label = f"B = {number(curve.batch_size, 6)}" if curve.batch_size not in named else "_"
        named.add(curve.batch_size)
        look: dict[str, Any] = {"color": colours[curve.batch_size], "lw": 1.0, "alpha": 0.75, "label": label}
        ax.plot(*own.columns(curve.points), ls=":" if curve.status == "diverged" else "-", **look)
        if curve.status == "running":
            ax.plot(*own.columns(curve.points[-1:]), marker="o", ms=4, color=colours[curve.batch_size])
    goal = f"target: {sign(study.direction)} {number(study.target, 6)}"
    ax.axhline(study.target, color=axes.ink(), lw=1, ls=(0, (6, 3)), alpha=0.7, label=goal)
    name = brief(study.metric).replace("$", r"\$")
    ax.set_xlabel(f"{unit_plural(study.unit)} seen")
    ax.set_ylabel(name)
    running = any(curve.status == "running" for curve in curves)
    captions.title(ax, f"{name} over training, every trial{'; dots: still running' if running else ''}")
    axes.legend_below(ax, columns=4)
    return ax


def _value_axis(ax: Axes, curves: Sequence[TrainingCurve], study: StudyAnalysis) -> None:
    """From where most trials began to the best values, so that a trial that runs away sets no limit."""
    values, first = [v for c in curves for _, v in c.points], [c.points[0][1] for c in curves]
    ends = (0.005, 0.9) if study.direction == "min" else (0.995, 0.1)
    shown = [study.target, float(np.quantile(values, ends[0])), float(np.quantile(first, ends[1]))]
    if min([*values, study.target]) > 0:
        limits = axes.padded(shown)
        axes.log_axis(ax, "y", limits, axes.log_ticks(*limits))
    else:
        low, high = min(shown), max(shown)
        room = 0.06 * (high - low) or 1.0
        ax.set_ylim(low - room, high + room)
