"""How a study stands, as one HTML file that loads itself anew: its trials, its curves, its fit so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis import sections
from analysis.page_file import rendered, write_html
from analysis.pictures import data_uri, saved
from analysis.plot_curve import plot_steps
from analysis.plot_training import plot_training
from analysis.study import StudyAnalysis, answer
from scaleexp import __version__

TEMPLATE = "live.html.j2"


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRow:
    """A line of the table of trials.

    Attributes:
        state: running, waiting, reached, ...
        cells: as shown: trial, batch, workers, LR, seed, state, step, at most, time left.
    """

    state: str
    cells: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """How a study stands.

    Attributes:
        name, question: of the study.
        lines: who runs it, how many trials have ended, how much of its limits is used.
        ended, total: trials.
        running: whether anybody runs it.
        rows: of the table, in order; `left_out` more are not shown.
        left_out: how many.
        causes: of failures.
        study: what was measured so far; None where that cannot be read yet.
        reason: why it cannot.
        written: when, as text.
        refresh_s: after how many seconds the page loads itself anew; None for never.
    """

    name: str
    question: str
    lines: Sequence[str]
    ended: int
    total: int
    running: bool
    rows: Sequence[LiveRow]
    left_out: int
    causes: Sequence[str]
    study: StudyAnalysis | None
    reason: str
    written: str
    refresh_s: int | None


def write_live(live: Live, path: Path) -> Path:
    """Put the page in the place of the one before, whole at any moment.

    Raises:
        StorageError: the file cannot be written.
    """
    return write_html(render(live), path, what="page")


def render(live: Live) -> str:
    """The page as text; every value is escaped."""
    names = ("name", "question", "lines", "ended", "total", "rows", "left_out", "causes", "written", "refresh_s")
    done = live.ended == live.total
    values = {
        "kind": "ok" if done else "no_fit",
        "headline": "ended" if done else "running" if live.running else "not running",
        "done": done,
        "answer": _answer(live),
        "pictures": _pictures(live.study) if live.study else [],
        "version": __version__,
    }
    return rendered(TEMPLATE, {**{name: getattr(live, name) for name in names}, **values})


def _answer(live: Live) -> str:
    if live.study is None:
        return f"Nothing yet: {live.reason}"
    so_far = "" if live.ended == live.total else "Of what has ended so far: "
    return f"{so_far}{answer(live.study)}"


def _pictures(study: StudyAnalysis) -> list[dict[str, Any]]:
    """Steps against batch size with the fit, then every trial's curve, each for both papers."""
    drawn = (
        ("training", plot_training, f"{study.metric} of every trial against samples seen"),
        ("steps_to_target", plot_steps, f"Steps to {sections.goal(study)} against batch size, and the fitted curve"),
    )
    made = []
    for name, plot, alt in drawn:
        light, dark = (_uri(plot(study, dark=on_dark).get_figure(root=True)) for on_dark in (False, True))
        made.append({"name": name, "light": light, "dark": dark, "alt": alt})
    return made


def _uri(figure: Figure | None) -> str:
    assert figure is not None, "axes are on one"
    return data_uri("image/png", saved(figure, "png"))
