"""Every figure as the page holds it: for light and for dark paper, as vectors, and as numbers, all of it inline."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

from matplotlib.figure import Figure

from analysis import plots
from analysis.alt_text import alt_text
from analysis.axes import house_style
from analysis.figure_data import csv_text, sheets
from analysis.further import Further
from analysis.study import StudyAnalysis

PIXELS_PER_CSS_PIXEL = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure as data URIs.

    Attributes:
        light, dark: PNG.
        svg, csv: the same on light paper as vectors, and its numbers.
        width, height: size on the page [CSS pixels].
        alt: what it shows, in a sentence.
        number: its place in the report, from 1.
    """

    light: str
    dark: str
    svg: str
    csv: str
    width: int
    height: int
    alt: str
    number: int


ORDER = (
    "steps_to_target",
    "b_crit_against_target",
    "trade_off",
    "learning_rate",
    "lr_optimum",
    "loss_against_lr",
    "noise_scale",
    "gradient_norm",
    "distance_from_init",
    "generalisation_gap",
    "throughput",
    "time_to_target",
)
"""As they come on the page."""


def pictures(study: StudyAnalysis, data: Further) -> dict[str, Picture]:
    """Every figure of the study, drawn for both papers, in the order of the page."""
    light, dark = (plots.figures(study, dark=on_dark, data=data) for on_dark in (False, True))
    numbers, made = sheets(study, data), {}
    for number, name in enumerate((n for n in ORDER if n in light), 1):
        width, height = light[name].get_size_inches() * plots.PNG_DPI / PIXELS_PER_CSS_PIXEL
        made[name] = Picture(
            light=data_uri("image/png", saved(light[name], "png")),
            dark=data_uri("image/png", saved(dark[name], "png")),
            svg=data_uri("image/svg+xml", saved(light[name], "svg")),
            csv=data_uri("text/csv", csv_text(numbers[name]).encode()),
            width=round(width),
            height=round(height),
            alt=alt_text(name, study, data),
            number=number,
        )
    return made


def saved(figure: Figure, kind: str) -> bytes:
    """A figure as a PNG or SVG file; the same figure gives the same bytes."""
    buffer = BytesIO()
    undated = {"Software": None} if kind == "png" else {"Date": None}
    with house_style():
        figure.savefig(buffer, format=kind, dpi=plots.PNG_DPI, facecolor=figure.get_facecolor(), metadata=undated)
    return buffer.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Content as an address that holds it.

    >>> data_uri("text/csv", b"a")
    'data:text/csv;base64,YQ=='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
