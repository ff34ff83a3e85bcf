"""A figure of its own for a drawing function that is passed no axes, and what such functions share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from analysis import axes, drawn

Data = TypeVar("Data")
DataIn = TypeVar("DataIn", contravariant=True)


class Plot(Protocol[DataIn]):
    """Draws one figure of a study on `ax`, or on a figure of its own in the house style, on light or dark paper."""

    def __call__(self, study: DataIn, ax: Axes | None = None, *, dark: bool = False) -> Axes:
        """Return the axes that were drawn on; `dark` is for a figure of its own."""


def on_own_axes(height: float = 5.0) -> Callable[[Callable[[Data, Axes], Axes]], Plot[Data]]:
    """Give a drawing function a figure of its own, `height` inches high, when it is passed no axes."""

    def decorate(draw: Callable[[Data, Axes], Axes]) -> Plot[Data]:
        @wraps(draw)
        def plot(study: Data, ax: Axes | None = None, *, dark: bool = False) -> Axes:
            if ax is not None:
                return draw(study, ax)
            with axes.house_style(dark=dark):
                return draw(study, axes.new_axes(height=height))

        return plot

    return decorate


def columns(pairs: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Pairs as x and y; two empty lists where there are none."""
    rows = list(pairs)
    return [x for x, _ in rows], [y for _, y in rows]


def arrays(pairs: drawn.Pairs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pairs as two arrays of shape (N,), N >= 1."""
    table = np.array(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def empty(ax: Axes, message: str) -> Axes:
    """Axes that say why they show nothing."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", transform=ax.transAxes)
    return ax
