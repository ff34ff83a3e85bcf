"""Time against cost with the front, and what is lost to which cause against the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import axes, captions
from analysis import own_axes as own
from analysis.frontier_file import CAUSES, FrontierFile
from analysis.wording import level, number

HOURS_IN = (
    ("seconds", 1 / 3600.0, 120.0),
    ("minutes", 1 / 60.0, 120.0),
    ("hours", 1.0, 400.0),
    ("days", 24.0, float("inf")),
)
"""Unit of the time axis, its hours, and up to how many of it the longest time may be."""
COLOURS = {
    "useful": axes.GREEN,
    "statistics": axes.BLUE,
    "compute": axes.ORANGE,
    "communication": axes.VERMILION,
    "stragglers": axes.PURPLE,
    "failures": axes.SKY,
}
NAMES = {
    "useful": "useful",
    "statistics": "too large a batch",
    "compute": "small worker batches",
    "communication": "communication",
    "stragglers": "stragglers",
    "failures": "failures",
}


@own.on_own_axes(height=5.4)
def plot_time_cost(found: FrontierFile, ax: Axes) -> Axes:
    """Cost against time, a point for every number of workers, with intervals and the front."""
    unit, hours = _unit(found)
    times = [row["hours"] / hours for row in found.rows]
    costs = [found.cost(row) for row in found.rows]
    spans = [[end / hours for end in row["hours_interval"]] for row in found.rows]
    money = [found.cost_interval(row) for row in found.rows]
    x_limits = axes.padded([*times, *(end for span in spans for end in span)])
    y_limits = axes.padded([*costs, *(end for span in money for end in span)], 0.1)
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    colour = axes.run_colour()
    for span, between in zip(spans, money, strict=True):
        # Cost is workers x time x price, so that both ends of a row lie on one line.
        ax.plot(span, between, color=axes.ink(), alpha=0.22, lw=3, solid_capstyle="round", zorder=1)
    ax.plot([], [], color=axes.ink(), alpha=0.22, lw=3, label=f"{level(found.document['confidence'])} interval")
    front = sorted((t, c) for t, c, row in zip(times, costs, found.rows, strict=True) if row["on_front"])
    ax.plot(*own.columns(front), color=colour, lw=1.4, marker="o", ms=6, label="front: nothing is faster and cheaper")
    beaten = [(t, c) for t, c, row in zip(times, costs, found.rows, strict=True) if not row["on_front"]]
    if beaten:
        ax.plot(
            *own.columns(beaten), ls="", marker="o", ms=6, mfc=axes.paper(), color=axes.ink(), label="slower and dearer"
        )
    (at,) = [i for i, row in enumerate(found.rows) if row["workers"] == found.chosen]
    ax.plot(
        times[at], costs[at], ls="", marker="o", ms=14, mfc="none", mew=2, color=axes.VERMILION, label="recommended"
    )
    _limits(found, ax, hours)
    ax.set_xlabel(f"time to target [{unit}]")
    ax.set_ylabel("cost [US dollars]" if found.priced else f"cost [{found.worker} hours]")
    captions.title(ax, f"Time against cost; numbers are {found.worker}s")
    labels = [(t, c, f"{row['workers']:,}") for t, c, row in zip(times, costs, found.rows, strict=True)]
    axes.legend_below(ax)
    axes.place_labels(ax, labels, colours=[axes.ink()] * len(labels))
    return ax


def _unit(found: FrontierFile) -> tuple[str, float]:
    """Name and hours of the unit in which the times are readable."""
    longest = max(row["hours"] for row in found.rows)
    return next((name, hours) for name, hours, most in HOURS_IN if longest / hours <= most)


def _limits(found: FrontierFile, ax: Axes, hours: float) -> None:
    """Deadline and budget as lines, where they were asked for and lie in the picture."""
    asked = found.document["recommended"]
    if asked["deadline_s"] is not None:
        at = asked["deadline_s"] / 3600 / hours
        if ax.get_xlim()[0] < at < ax.get_xlim()[1]:
            ax.axvline(at, ls="--", label=f"deadline: {number(at)} {_unit(found)[0]}", color=axes.ink(), lw=1)
    budget = asked["budget_usd"]
    if budget is not None and ax.get_ylim()[0] < budget < ax.get_ylim()[1]:
        ax.axhline(budget, ls=":", label=rf"budget: \${number(budget)}", color=axes.ink(), lw=1)


@own.on_own_axes(height=5.2)
def plot_lost_time(found: FrontierFile, ax: Axes) -> Axes:
    """What becomes of the worker time: useful, and lost to each cause, against the number of workers."""
    names = [f"{row['workers']:,}" for row in found.rows]
    below = [0.0] * len(names)
    for part in ("useful", *CAUSES):
        shares = [100.0 * (row["useful"] if part == "useful" else row["lost"][part] or 0.0) for row in found.rows]
        if max(shares) >= 0.05:
            ax.bar(names, shares, bottom=below, width=0.86, color=COLOURS[part], label=NAMES[part], lw=0)
        below = [low + share for low, share in zip(below, shares, strict=True)]
    ax.set_ylim(0, 100)
    ax.margins(x=0.01)
    ax.grid(visible=False, axis="x")
    ax.set_axisbelow(True)
    every = -(-len(names) // 14)
    ax.set_xticks(range(0, len(names), every), names[::every])
    ax.tick_params(colors=axes.ink())
    ax.set_xlabel(f"{found.worker}s, each number with its best batch")
    ax.set_ylabel(f"share of the {found.worker} time [%]")
    captions.title(ax, f"What the {found.worker} time goes into")
    axes.legend_below(ax, columns=3)
    return ax


PLOTS: Mapping[str, Callable[..., Axes]] = {"time_cost": plot_time_cost, "lost_time": plot_lost_time}
"""Name of the file -> how it is drawn."""


def frontier_figures(found: FrontierFile, *, dark: bool = False) -> dict[str, Figure]:
    """Both figures by name."""
    made = {name: plot(found, dark=dark).get_figure(root=True) for name, plot in PLOTS.items()}
    return {name: figure for name, figure in made.items() if figure is not None}
