"""One self-contained HTML file about one study: nothing in it is fetched, and nothing in it runs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis import plots, provenance, sections
from analysis.agreements import disagreements
from analysis.axes import house_style
from analysis.overhead import DELTA
from analysis.study import StudyAnalysis, answer
from analysis.wording import count, interval, number, percent, unit_plural
from scaleexp import __version__
from scaleexp.errors import StorageError

TEMPLATE = "report.html.j2"
PIXELS_PER_CSS_PIXEL = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure as data URIs of PNG, for light and for dark paper.

    Attributes:
        light, dark: `data:image/png;base64,...`.
        width, height: size on the page [CSS pixels].
        alt: what it shows, in a sentence.
    """

    light: str
    dark: str
    width: int
    height: int
    alt: str


def write_report(study: StudyAnalysis, path: Path) -> Path:
    """Write the report of a study as one HTML file; the same study gives the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    html = render(study)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(html, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write the report to {path}: {reason}. Choose a writable place.") from error
    return path


def render(study: StudyAnalysis) -> str:
    """The report as text. Every value is escaped: a study name is text, whatever it says."""
    environment = Environment(
        loader=PackageLoader("analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(context(study))


def context(study: StudyAnalysis) -> dict[str, Any]:
    """Everything the template shows."""
    kind, headline = sections.verdict(study)
    return {
        "name": study.log.plan["study"],
        "question": study.log.plan["question"],
        "goal": sections.goal(study),
        "metric": study.metric,
        "unit": unit_plural(study.unit),
        "kind": kind,
        "headline": headline,
        "answer": answer(study),
        "disagreements": disagreements(study.agreements),
        "answer_interval": _answer_interval(study),
        "pictures": pictures(study),
        "batches": sections.batches_table(study),
        "wasted_shown": sections.trusted_fit(study) is not None,
        "payoff": sections.payoff_sentences(study),
        "doublings": sections.doubling_table(study),
        "rules": sections.rules_table(study),
        "tolerance": percent(study.rules[0].tolerance) if study.rules else "",
        "rule_steps": sections.rule_steps_table(study),
        "noise": sections.noise_table(study),
        "has_noise": study.noise is not None or bool(study.noise_series),
        "noise_reason": study.noise.reason if study.noise else "",
        "agreements": sections.agreements_table(study.agreements),
        "measured": provenance.measured_rows(study),
        "fitted": provenance.fitted_rows(study),
        "left_out": sections.left_out(study),
        "overhead": percent(DELTA),
        "version": __version__,
    }


def _answer_interval(study: StudyAnalysis) -> tuple[tuple[str, str], ...]:
    """Label and value of the numbers beside the answer; none where the curve may not be read off."""
    fit, unit = sections.trusted_fit(study), unit_plural(study.unit)
    if fit is None:
        return ()
    return (
        (f"B_crit [{unit}]", f"{number(fit.b_crit)} ({interval(*fit.b_crit_interval)})"),
        ("fewest steps, S_min", f"{number(fit.s_min)} ({interval(*fit.s_min_interval)})"),
        (f"fewest {unit}, E_min", f"{number(fit.e_min)} ({interval(*fit.e_min_interval)})"),
    )


def pictures(study: StudyAnalysis) -> dict[str, Picture]:
    """Every figure of the study, drawn for both papers."""
    dark = plots.figures(study, dark=True)
    made = {}
    for name, figure in plots.figures(study).items():
        width, height = figure.get_size_inches() * plots.PNG_DPI / PIXELS_PER_CSS_PIXEL
        made[name] = Picture(
            light=_data_uri(figure),
            dark=_data_uri(dark[name]),
            width=round(width),
            height=round(height),
            alt=alt_text(name, study),
        )
    return made


def _data_uri(figure: Figure) -> str:
    buffer = BytesIO()
    with house_style():
        figure.savefig(
            buffer, format="png", dpi=plots.PNG_DPI, facecolor=figure.get_facecolor(), metadata={"Software": None}
        )
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def alt_text(name: str, study: StudyAnalysis) -> str:
    """What a figure shows, for a reader who does not see it: its axes and its ends."""
    goal, unit = sections.goal(study), unit_plural(study.unit)
    if name == "noise_scale":
        batches = ", ".join(count(s.batch_size) for s in study.noise_series)
        return f"Line chart of the gradient noise scale over {unit} seen, at batch sizes {batches}."
    if name == "loss_against_lr":
        batches = ", ".join(count(c.batch_size) for c in study.loss_curves)
        return f"Line chart of {study.metric} against learning rate after equal {unit}, at batch sizes {batches}."
    if not study.points:
        return f"Scatter chart of how long runs went without reaching {goal}, by batch size."
    first, last = study.points[0], study.points[-1]
    ends = (
        f"from {number(first.steps)} steps at batch {count(first.batch_size)} "
        f"to {number(last.steps)} steps at batch {count(last.batch_size)}"
    )
    if name == "trade_off":
        cost = f"from {number(first.samples)} to {number(last.samples)} {unit}"
        return f"Chart of {unit} against optimizer steps to {goal}: {ends}, and {cost}."
    if name == "learning_rate":
        return f"Line chart of optimizer steps to {goal} against learning rate by batch size: at the best, {ends}."
    return f"Chart of optimizer steps to {goal} against batch size, both logarithmic: {ends}. {answer(study)}"
