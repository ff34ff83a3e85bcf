"""The critical batch size against the target that the runs are measured to."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import axes, captions
from analysis import own_axes as own
from analysis.further import Further
from analysis.target_ladder import Rung, bounds
from analysis.wording import brief, number, sign, tick, unit_plural


@own.on_own_axes(height=5.2)
def plot_targets(data: Further, ax: Axes) -> Axes:
    """B_crit with its interval at each target, harder ones to the right; an open side is an arrow."""
    study, rungs = data.study, [r for r in data.rungs if bounds(r) is not None]
    if not rungs:
        return own.empty(ax, "No target says what the critical batch size is.")
    ends = [end for r in rungs for end in bounds(r) or () if 0 < end < inf]
    values = [r.fit.b_crit for r in rungs if r.fit and _trusted(r)]
    limits = axes.padded([*ends, *values], 0.12)
    axes.log_axis(ax, "y", limits, axes.log_ticks(*limits))
    _target_axis(ax, [r.target for r in rungs], harder_is_less=study.direction == "min")
    for kind, label in (
        ("planned", "planned target"),
        ("between", "easier target, read off the same runs"),
        ("interval", "interval alone: not identified"),
    ):
        _draw(ax, [r for r in rungs if _kind(r) == kind], kind, label, limits)
    name = brief(study.metric).replace("$", r"\$")
    ax.set_xlabel(f"target: {name} {sign(study.direction)} ..., harder to the right")
    ax.set_ylabel(f"critical batch size {captions.B_CRIT} [{unit_plural(study.unit)}]")
    captions.title(ax, "Critical batch size against the target")
    axes.legend_below(ax, columns=2)
    return ax


def _trusted(rung: Rung) -> bool:
    return rung.fit is not None and rung.fit.status in ("ok", "extrapolated")


def _kind(rung: Rung) -> str:
    if not _trusted(rung):
        return "interval"
    return "planned" if rung.planned else "between"


_LOOKS: dict[str, dict[str, Any]] = {
    "planned": {"marker": "o", "ms": 8},
    "between": {"marker": "s", "ms": 6, "mfc": "none"},
    "interval": {"marker": "", "ls": (0, (4, 2))},
}


def _draw(ax: Axes, rungs: list[Rung], kind: str, label: str, limits: tuple[float, float]) -> None:
    """The rungs of one kind; extrapolated ones are hollow too, and what has no end runs out of the axes as an arrow."""
    if not rungs:
        return
    look, colour = _LOOKS[kind], axes.ORANGE if kind == "interval" else axes.run_colour()
    ax.plot([], [], color=colour, **{"ls": "-", **look}, label=label)
    for rung in rungs:
        found, fit = bounds(rung), rung.fit
        assert found is not None
        assert fit is not None
        low, high = (float(np.clip(end, *limits)) for end in found)
        ax.plot([rung.target] * 2, [low, high], color=colour, ls=look.get("ls", "-"), lw=1.6, marker="")
        for end, at, mark in ((found[0] > 0, low, "v"), (found[1] < inf, high, "^")):
            ax.plot([rung.target], [at], marker="_" if end else mark, ms=9, color=colour, ls="", clip_on=end)
        if kind != "interval":
            inside = {"mfc": "none"} if fit.status != "ok" else {}
            ax.plot([rung.target], [fit.b_crit], ls="", color=colour, **{**look, **inside})


def _target_axis(ax: Axes, targets: list[float], *, harder_is_less: bool) -> None:
    """Ticks at the targets themselves, logarithmic where all are positive; the hardest is at the right end."""
    low, high = min(targets), max(targets)
    if low > 0:
        limits = axes.padded(targets, 0.09)
        axes.log_axis(ax, "x", limits, targets)
    else:
        room = 0.09 * (high - low or 1.0)
        limits = (low - room, high + room)
        ax.set_xlim(*limits)
    ax.set_xticks(
        _apart(targets, limits), labels=[tick(float(number(t, 3).replace(",", ""))) for t in _apart(targets, limits)]
    )
    if harder_is_less:
        ax.set_xlim(limits[1], limits[0])


def _apart(targets: list[float], limits: tuple[float, float], most: int = 9) -> list[float]:
    """Targets whose labels have room, the hardest and the easiest first."""
    scale = np.log if limits[0] > 0 else np.asarray
    room = float(scale(limits[1]) - scale(limits[0])) / most
    kept: list[float] = []
    for t in (min(targets), max(targets), *sorted(targets)):
        if all(abs(float(scale(t) - scale(k))) >= room for k in kept):
            kept.append(t)
    return kept
