"""Generalisation gap, gradient norm and distance from the initialisation at the target, against batch size."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
from matplotlib.axes import Axes

from analysis import axes, captions
from analysis import own_axes as own
from analysis.further import Further
from analysis.wording import brief, unit_plural

SPREAD = 0.02
"""Share of a batch size by which the runs of different seeds are moved apart."""


def has_gaps(data: Further) -> bool:
    """Whether the log holds a held-out and a training loss for some run."""
    return any(isfinite(n.gap) for n in data.near)


def has_gradients(data: Further) -> bool:
    """Whether gradient norms were measured near the target."""
    return any(n.grad_sq > 0 for n in data.near)


def has_distances(data: Further) -> bool:
    """Whether the distance from the initialisation was logged at the target."""
    return any(n.distance > 0 for n in data.near)


@own.on_own_axes(height=4.8)
def plot_gap(data: Further, ax: Axes) -> Axes:
    """Held-out minus training loss where the target was met, each run and the mean over seeds."""
    pairs = [(float(n.batch_size), n.gap) for n in data.near if isfinite(n.gap)]
    if not pairs:
        return own.empty(ax, "No run logged both a held-out and a training loss.")
    _batch_axis(data, ax, pairs)
    values = [v for _, v in pairs]
    room = 0.08 * (max(*values, 0.0) - min(*values, 0.0) or 1.0)
    ax.set_ylim(min(*values, 0.0) - room, max(*values, 0.0) + room)
    ax.yaxis.set_tick_params(colors=axes.ink())
    ax.axhline(0.0, color=axes.ink(), lw=1, ls=":", alpha=0.8, label="no gap")
    _runs_and_means(ax, pairs, geometric=False)
    ax.set_ylabel(f"{brief(data.held_out or '')} − training loss".replace("$", r"\$"))
    captions.title(ax, f"Generalisation gap near {captions.target(data.study)}")
    axes.legend_below(ax, columns=3)
    return ax


@own.on_own_axes(height=4.8)
def plot_gradients(data: Further, ax: Axes) -> Axes:
    """Squared norm of the batch gradient where the target was met, and that of the gradient without its noise."""
    pairs = [(float(n.batch_size), n.grad_sq) for n in data.near if n.grad_sq > 0]
    if not pairs:
        return own.empty(ax, "No gradient norm was measured near the target.")
    true = [(float(g.batch_size), g.g_sq) for g in data.gradients if g.resolved]
    limits = axes.padded([v for _, v in (*pairs, *true)], 0.08)
    axes.log_axis(ax, "y", limits, axes.log_ticks(*limits))
    _batch_axis(data, ax, pairs)
    _runs_and_means(ax, pairs, geometric=True)
    if true:
        label = "without the batch's noise: unbiased $|G|^2$"
        ax.plot(*own.columns(true), color=axes.GREEN, marker="D", ms=6, lw=1.4, ls="--", label=label)
    ax.set_ylabel("squared norm of the batch gradient")
    captions.title(ax, f"Squared gradient norm near {captions.target(data.study)}")
    axes.legend_below(ax, columns=2)
    return ax


@own.on_own_axes(height=4.8)
def plot_distances(data: Further, ax: Axes) -> Axes:
    """Distance of the parameters from their initialisation where the target was met, each run and the mean."""
    pairs = [(float(n.batch_size), n.distance) for n in data.near if n.distance > 0]
    if not pairs:
        return own.empty(ax, "No distance from the initialisation was logged at the target.")
    limits = axes.padded([v for _, v in pairs], 0.08)
    axes.log_axis(ax, "y", limits, axes.log_ticks(*limits))
    _batch_axis(data, ax, pairs)
    _runs_and_means(ax, pairs, geometric=True)
    ax.set_ylabel(r"distance from initialisation $\Vert\theta - \theta_0\Vert$")
    captions.title(ax, f"Distance from initialisation at {captions.target(data.study)}")
    axes.legend_below(ax, columns=2)
    return ax


def _batch_axis(data: Further, ax: Axes, pairs: Sequence[tuple[float, float]]) -> None:
    measured = sorted({b for b, _ in pairs})
    limits = axes.padded(measured)
    axes.log_axis(ax, "x", limits, axes.batch_ticks(measured, *limits))
    ax.set_xlabel(f"batch size [{unit_plural(data.study.unit)}]")


def _runs_and_means(ax: Axes, pairs: Sequence[tuple[float, float]], *, geometric: bool) -> None:
    """Each run as a faint point, runs of one batch size side by side, and a line through their means."""
    blue, by_batch = axes.run_colour(), {b: [v for at, v in pairs if at == b] for b in sorted({b for b, _ in pairs})}
    beside = [
        (b * (1.0 + SPREAD * (i - (len(values) - 1) / 2)), v)
        for b, values in by_batch.items()
        for i, v in enumerate(values)
    ]
    ax.plot(*own.columns(beside), ls="", marker="o", ms=4, color=blue, alpha=0.4, mew=0, label="run")
    means = [(b, mean(values, geometric=geometric)) for b, values in by_batch.items()]
    ax.plot(*own.columns(means), color=blue, marker="o", ms=7, mfc="none", lw=1.4, label="mean over seeds")


def mean(values: Sequence[float], *, geometric: bool) -> float:
    """Mean, or geometric mean of positive values.

    >>> round(mean([1.0, 100.0], geometric=True), 9), mean([1.0, 3.0], geometric=False)
    (10.0, 2.0)
    """
    return float(np.exp(np.mean(np.log(values)))) if geometric else float(np.mean(values))
