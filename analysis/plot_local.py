"""The local critical batch size over training, from branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from analysis import axes, captions
from analysis import own_axes as own
from analysis.fits import SweepFit
from analysis.local_batch import LocalBatch
from analysis.plots import PNG_DPI
from analysis.sweep import BRANCH, group_text
from analysis.wording import brief, number, tick, unit_plural
from scaleexp.errors import ConfigError, StorageError

SUFFIXES = (".png", ".svg", ".pdf")
SPREAD = 0.016
"""Share of the axis by which groups stand beside each other."""


def draw_local(fits: Sequence[SweepFit], path: str | Path) -> Path:
    """Write the figure; the same fits give the same bytes.

    Raises:
        ConfigError: fits of another definition, or a file of no kind that is drawn.
        StorageError: the file cannot be written.
    """
    file = Path(path)
    if not fits or any(fit.branched is None for fit in fits):
        raise ConfigError(
            "--figure draws --definition branched; `scaleexp-analysis plot` draws the figures of a study."
        )
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--figure must end in {', '.join(SUFFIXES)}, got {file.name!r}.")
    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[file.suffix.lower()]
    figure = plot_local(fits).get_figure(root=True)
    assert figure is not None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with axes.house_style():
            figure.savefig(file, dpi=PNG_DPI, metadata=undated)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {file}: {reason}. Choose a writable directory.") from error
    return file


@own.on_own_axes(height=5.0)
def plot_local(fits: Sequence[SweepFit], ax: Axes) -> Axes:
    """The bracket of the local critical batch size against where the branches began, one line per group."""
    groups: dict[str, list[LocalBatch]] = {}
    for fit in fits:
        rest = {name: value for name, value in fit.sweep.group.items() if name != BRANCH}
        assert fit.branched is not None
        groups.setdefault(group_text(rest), []).append(fit.branched)
    every = [found for of_group in groups.values() for found in of_group]
    unit = unit_plural(fits[0].sweep.unit)
    measured = sorted({float(loss.batch_size) for found in every for loss in found.losses})
    limits = axes.padded(measured, 0.10)
    axes.log_axis(ax, "y", limits, axes.batch_ticks(measured, *limits))
    _samples_axis(ax, [found.branch_samples for found in every])
    colours = [axes.run_colour()] if len(groups) == 1 else axes.batch_colours(len(groups))
    for i, ((name, of_group), colour) in enumerate(zip(groups.items(), colours, strict=True)):
        beside = _beside(ax, i - (len(groups) - 1) / 2)
        sure = [(beside(f.branch_samples), f.batch) for f in of_group if f.status == "ok"]
        label = brief(name or "largest batch that keeps up").replace("$", r"\$")
        ax.plot(*own.columns(sure), color=colour, marker="o", ms=6, lw=1.2, label=label)
        for found in of_group:
            _bracket(ax, found, beside(found.branch_samples), colour, limits)
    ink = axes.ink()
    ax.plot([], [], color=ink, marker="_", ms=9, lw=1.6, label="up to the next batch branched")
    if any(f.status != "ok" for f in every):
        ax.plot([], [], color=ink, lw=1.6, ls=(0, (2, 2)), label="not identified; an arrow: no end")
    ax.set_xlabel(f"{unit} seen before the branch")
    ax.set_ylabel(f"local critical batch size [{unit}]")
    epsilons = " or ".join(dict.fromkeys(number(found.epsilon) for found in every))
    bases = {found.base_batch for found in every}
    base = f"batch {min(bases):,}" if len(bases) == 1 else "the smallest batch"
    metric = brief(fits[0].sweep.metric, most=20).replace("$", r"\$")
    captions.title(ax, f"Local critical batch size: {metric} within {epsilons} of {base}")
    axes.legend_below(ax, columns=2)
    return ax


def _beside(ax: Axes, places: float) -> Callable[[float], float]:
    """Moves groups apart that were branched at the same samples, by a share of the axis each."""
    low, high = ax.get_xlim()
    if ax.get_xscale() == "log":
        return lambda x: x * (high / low) ** (SPREAD * places)
    return lambda x: x + SPREAD * places * (high - low)


def _bracket(ax: Axes, found: LocalBatch, x: float, colour: ColorType, limits: tuple[float, float]) -> None:
    """A bar from the largest batch that keeps up to the next; what has no end runs to the edge as an arrow."""
    inset = (limits[1] / limits[0]) ** 0.015
    low, high = (float(np.clip(end, limits[0] * inset, limits[1] / inset)) for end in found.bracket)
    if found.bracket == (0.0, inf):
        return  # nothing is said at all
    style = "-" if found.status == "ok" else (0, (2, 2))
    ax.plot([x, x], [low, high], color=colour, lw=1.6, ls=style)
    for ended, at, mark in ((found.bracket[0] > 0, low, "v"), (found.bracket[1] < inf, high, "^")):
        ax.plot([x], [at], marker="_" if ended else mark, ms=7, color=colour, ls="")


def _samples_axis(ax: Axes, samples: Sequence[float]) -> None:
    """Logarithmic, unless a branch began before the first step or all did at one point."""
    if min(samples) > 0 and max(samples) > min(samples):
        limits = axes.padded(samples, 0.08)
        axes.log_axis(ax, "x", limits, axes.log_ticks(*limits, most=6))
        return
    room = 0.08 * (max(samples) - min(samples) or max(samples) or 1.0)
    ax.set_xlim(min(samples) - room, max(samples) + room)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(lambda value, _: tick(value))
    ax.xaxis.set_tick_params(colors=axes.ink())
