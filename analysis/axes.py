"""The look of every figure: palette, paper, plain numbers on logarithmic axes, labels that do not collide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, floor, log, log2, log10, sqrt
from typing import Any, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.typing import ColorType

from analysis.wording import tick

# Okabe & Ito 2008, "Color Universal Design": told apart under every common colour blindness.
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"

_LIGHT_INK, _LIGHT_PAPER, _DARK_INK, _DARK_PAPER = "#1a1a1a", "#ffffff", "#e8e8e8", "#16181d"


@contextmanager
def house_style(*, dark: bool = False) -> Iterator[None]:
    """Font sizes, ink and paper of figures made inside; matplotlib's own settings are restored on leaving."""
    ink, paper = (_DARK_INK, _DARK_PAPER) if dark else (_LIGHT_INK, _LIGHT_PAPER)
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings: Any = {  # newer matplotlib types the keys as literals, older as strings
        **dict.fromkeys(inked, ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper),
        "font.size": 10.0,
        "axes.titlesize": 11.0,
        "axes.titlelocation": "left",
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.grid": True,
        "grid.color": ink,
        "grid.alpha": 0.12,
        "grid.linewidth": 0.6,
        "legend.fontsize": 9.0,
        "legend.frameon": False,
        "svg.hashsalt": "scaleexp",  # the same figure is the same bytes
    }
    with matplotlib.rc_context(settings):
        yield


def ink() -> str:
    """Colour of text on the current paper."""
    return str(matplotlib.rcParams["text.color"])


def paper() -> str:
    """Colour of the current paper."""
    return str(matplotlib.rcParams["axes.facecolor"])


def new_axes(width: float = 6.2, height: float = 5.0) -> Axes:
    """Axes of a figure of its own [inches], laid out so that nothing is cut off; no pyplot, no global state."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def run_colour() -> str:
    """Blue that stands out from the current paper."""
    return SKY if paper() == _DARK_PAPER else BLUE


def batch_colours(n: int) -> list[ColorType]:
    """`n` colours of the viridis map, in order, without the end that vanishes on the current paper."""
    first, last = (0.35, 1.0) if paper() == _DARK_PAPER else (0.0, 0.87)
    ramp = matplotlib.colormaps["viridis"]
    return [ramp(first + (last - first) * (i / max(n - 1, 1))) for i in range(n)]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Limits of a logarithmic axis: the range of the values (> 0), widened by a share of it and by 12 % at least.

    >>> low, high = padded([10.0, 1000.0], share=0.5)
    >>> round(low, 6), round(high, 6)
    (1.0, 10000.0)
    """
    low, high = min(values), max(values)
    assert low > 0, "a value that is not positive has no place on a logarithmic axis"
    factor = max((high / low) ** share, 1.12)
    return low / factor, high * factor


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round values (1, 2, 5 and the like) between two limits: at least three where there are any, `most` at most.

    >>> log_ticks(8.0, 700.0)
    [10.0, 20.0, 50.0, 100.0, 200.0, 500.0]
    >>> log_ticks(1.0, 1e9)
    [1.0, 100.0, 10000.0, 1000000.0, 100000000.0]
    >>> log_ticks(100.0, 130.0)
    [100.0, 105.0, 110.0, 115.0, 120.0, 125.0, 130.0]
    """
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for leading in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [float(f"{m * 10.0**d:.6g}") for d in decades for m in leading]
        ticks = [t for t in ticks if low <= t <= high]
        if 3 <= len(ticks) <= most:
            return ticks
    if len(ticks) > most:
        return ticks[:: ceil(len(ticks) / most)]
    linear = MaxNLocator(nbins=most - 1, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(t) for t in linear if low <= t <= high]


def batch_ticks(measured: Sequence[float], low: float, high: float, most: int = 9) -> list[float]:
    """Measured batch sizes, doubled on (or halved) to the limits, thinned to stay apart.

    >>> batch_ticks([16.0, 64.0, 256.0], 10.0, 1100.0)
    [16.0, 64.0, 256.0, 512.0, 1024.0]
    """
    below = [min(measured) / 2.0**k for k in range(1, 1 + max(0, floor(log2(min(measured) / low))))]
    above = [max(measured) * 2.0**k for k in range(1, 1 + max(0, floor(log2(high / max(measured)))))]
    candidates = sorted({b for b in (*below, *measured, *above) if low <= b <= high})
    apart = log(high / low) / most
    kept: list[float] = []
    for b in candidates:
        if not kept or log(b / kept[-1]) >= 0.999 * apart:
            kept.append(b)
    return kept


def log_axis(ax: Axes, which: Literal["x", "y"], limits: tuple[float, float], ticks: Sequence[float]) -> None:
    """Make an axis logarithmic with these limits and plainly written ticks."""
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    if which == "x":
        ax.set_xscale("log")
        ax.set_xlim(*limits)
    else:
        ax.set_yscale("log")
        ax.set_ylim(*limits)
    set_ticks(axis, ticks)


def set_ticks(axis: Axis, ticks: Sequence[float], names: Mapping[float, str] | None = None) -> None:
    """Ticks at these values, written out or as named; the ink is set now, as matplotlib makes its labels only later."""
    named = {round(log(t), 9): name for t, name in (names or {}).items()}
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: named.get(round(log(value), 9), tick(value))))
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(colors=ink())


def shelf_heights(low: float, high: float, rows: int, *, above: bool) -> list[float]:
    """Heights of rows of marks beyond the data, each 3 % of the data's decades, for what has no value to be drawn at.

    Args:
        low: lower limit of the data.
        high: upper limit.
        rows: how many; the first is the nearest to the data.
        above: over the data, or under it.

    >>> [round(h, 3) for h in shelf_heights(1.0, 10.0, 2, above=True)]
    [10.715, 11.482]
    """
    row = (high / low) ** 0.03
    return [high * row ** (1 + i) if above else low / row ** (1 + i) for i in range(rows)]


def draw_shelf(
    ax: Axes, ticks: Sequence[float], limits: tuple[float, float], heights: Sequence[float], name: str
) -> None:
    """Shade the shelf beyond `limits`, stretch the axis over it and name it in place of a tick.

    Args:
        ax: axes with a logarithmic y axis.
        ticks: of the data.
        limits: (low, high) of the data.
        heights: from `shelf_heights`.
        name: what the marks on it are.
    """
    low, high = limits
    row = (high / low) ** 0.03
    above = heights[0] > high
    end = heights[-1] * row if above else heights[-1] / row
    ax.set_ylim(*((low, end) if above else (end, high)))
    ax.axhspan(high if above else low, end, color=ink(), alpha=0.06, lw=0)
    middle = sqrt(heights[0] * heights[-1])
    set_ticks(ax.yaxis, [*(t for t in ticks if low * row < t < high / row), middle], names={middle: name})


def legend_below(ax: Axes, handles: Sequence[Artist] | None = None, columns: int = 2) -> None:
    """Legend under the x label, where it can hide no point; of everything labelled, or of these handles."""
    entries = handles if handles is not None else ax.get_legend_handles_labels()[0]
    if entries:
        # The pad is in font sizes, not in shares of the axes, so that it clears the x label at any figure height.
        ax.legend(handles=entries, loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=4.5, ncols=columns)


_OFFSETS = ((6, 5), (-6, 5), (0, 9), (6, -12), (-6, -12), (0, -17))


def place_labels(
    ax: Axes, labels: Sequence[tuple[float, float, str]], *, colours: Sequence[ColorType]
) -> list[Annotation]:
    """Write a label beside each point, at the first of six places where it covers neither a point nor another label.

    Args:
        ax: axes whose limits are final.
        labels: (x, y, text) in data coordinates.
        colours: one per label.

    Returns:
        The labels that found room.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    points = [ax.transData.transform((x, y)) for x, y, _ in labels]
    placed: list[Annotation] = []
    for (x, y, text), colour in zip(labels, colours, strict=True):
        for dx, dy in _OFFSETS:
            side: Literal["left", "center", "right"] = "left" if dx > 0 else "right" if dx < 0 else "center"
            note = ax.annotate(
                text, (x, y), xytext=(dx, dy), textcoords="offset points", ha=side, color=colour, fontsize=9
            )
            note.set_path_effects([withStroke(linewidth=2.5, foreground=paper())])  # a halo, where a line runs behind
            box = note.get_window_extent()
            inside = ax.bbox.contains(box.x0, box.y0) and ax.bbox.contains(box.x1, box.y1)
            clear = not any(box.overlaps(other.get_window_extent()) for other in placed)
            if inside and clear and not any(box.contains(*p) for p in points):
                placed.append(note)
                break
            note.remove()
    return placed
