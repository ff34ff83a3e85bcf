"""Throughput and time to target, each on the machine that was measured."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np
from matplotlib.axes import Axes

from analysis import axes, captions
from analysis import own_axes as own
from analysis.further import Further
from analysis.plot_curve import workers_axis
from analysis.speed import Speed, series_of
from analysis.study import constant_worker_batch
from analysis.wording import unit_plural

LOOKS = (("o", axes.BLUE), ("s", axes.VERMILION), ("D", axes.GREEN), ("^", axes.PURPLE), ("v", axes.ORANGE))


def has_times(data: Further) -> bool:
    """Whether some run at the best LR reached the target with its steps timed."""
    return any(s.chosen and s.seconds > 0 for s in data.speeds)


@own.on_own_axes(height=5.2)
def plot_throughput(data: Further, ax: Axes) -> Axes:
    """Samples a second against batch size, every run and the median of each machine."""
    unit = unit_plural(data.study.unit)
    _draw(data, ax, list(data.speeds), lambda s: s.samples_per_s)
    ax.set_ylabel(f"{unit} a second")
    captions.title(ax, f"Throughput: {unit} a second, evaluations apart")
    return ax


@own.on_own_axes(height=5.2)
def plot_time(data: Further, ax: Axes) -> Axes:
    """Seconds of optimizer steps to the target against batch size, runs at the best LR."""
    timed = [s for s in data.speeds if s.chosen and isfinite(s.seconds) and s.seconds > 0]
    _draw(data, ax, timed, lambda s: s.seconds)
    ax.set_ylabel("seconds of steps to target")
    captions.title(ax, f"Seconds to {captions.target(data.study)} at the best learning rate")
    return ax


def _draw(data: Further, ax: Axes, found: list[Speed], value: Callable[[Speed], float]) -> None:
    if not found:
        own.empty(ax, "No step was timed.")
        return
    batches = sorted({float(s.batch_size) for s in found})
    x_limits, y_limits = axes.padded(batches), axes.padded([value(s) for s in found], 0.08)
    ticks = axes.batch_ticks(batches, *x_limits)
    axes.log_axis(ax, "x", x_limits, ticks)
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    names = series_of(found)
    for i, name in enumerate(names):
        marker, light = LOOKS[i % len(LOOKS)]
        colour = axes.run_colour() if light == axes.BLUE else light
        own_runs = [s for s in found if s.series == name]
        pairs = [(float(s.batch_size), value(s)) for s in own_runs]
        # Sideways by a little, so that a second series does not hide the first.
        shift = (x_limits[1] / x_limits[0]) ** (0.008 * (i - (len(names) - 1) / 2))
        x, y = own.columns(pairs)
        ax.plot(np.array(x) * shift, y, ls="", marker=marker, ms=3.5, color=colour, alpha=0.3, mew=0)
        medians = [(b, float(np.median([v for at, v in pairs if at == b]))) for b in sorted({b for b, _ in pairs})]
        label = f"{name}: median".replace("$", r"\$")
        ax.plot(*own.columns(medians), color=colour, marker=marker, ms=7, mfc="none", lw=1.4, label=label)
    ax.plot([], [], ls="", marker="o", ms=3.5, color=axes.ink(), alpha=0.4, mew=0, label="run")
    ax.set_xlabel(f"batch size [{unit_plural(data.study.unit)}]")
    each = constant_worker_batch(data.study)
    if each:
        workers_axis(ax, each, data.study.unit, ticks)
    axes.legend_below(ax, columns=2 if len(names) == 1 else 1)
