"""One self-contained HTML file about one study: nothing in it is fetched, and nothing runs but its own script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis import provenance, sections
from analysis.agreements import disagreements
from analysis.curve_checks import curve_sentences, overhead_rows
from analysis.figure_data import csv_text, runs_sheet
from analysis.fit_methods import methods_of
from analysis.further import further
from analysis.overhead import DELTA
from analysis.page_file import inline_script, rendered, write_html
from analysis.pictures import data_uri, pictures
from analysis.runs_table import runs_table
from analysis.sources.studies import study_fit
from analysis.study import StudyAnalysis, answer
from analysis.wording import interval, number, percent, unit_plural
from scaleexp import __version__

TEMPLATE, SCRIPT = "report.html.j2", "report.js"

FIGURE_NAMES = {
    "steps_to_target": "Steps against batch size",
    "b_crit_against_target": "Critical batch size against the target",
    "trade_off": "What fewer steps cost",
    "learning_rate": "Steps against learning rate",
    "lr_optimum": "Best learning rates",
    "loss_against_lr": "Metric against learning rate",
    "noise_scale": "Noise scale over training",
    "gradient_norm": "Gradient norm",
    "distance_from_init": "Distance from initialisation",
    "generalisation_gap": "Generalisation gap",
    "throughput": "Throughput",
    "time_to_target": "Time to target",
}
"""What the list of figures calls them."""


def write_report(study: StudyAnalysis, path: Path) -> Path:
    """Write the report of a study as one HTML file; the same study gives the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    return write_html(render(study), path, what="report")


def render(study: StudyAnalysis) -> str:
    """The report as text. Every value is escaped: a study name is text, whatever it says."""
    return rendered(TEMPLATE, context(study))


def context(study: StudyAnalysis) -> dict[str, Any]:
    """Everything the template shows."""
    kind, headline = sections.verdict(study)
    data, fit = further(study), study_fit(study)
    drawings = pictures(study, data)
    methods = methods_of(fit, study)
    return {
        # The page's policy lets this one script run, by its hash; a name that smuggles in another does not.
        **inline_script(SCRIPT),
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
        "pictures": drawings,
        "has_near": bool({"gradient_norm", "distance_from_init", "generalisation_gap"} & drawings.keys()),
        "has_speed": bool({"throughput", "time_to_target"} & drawings.keys()),
        "figure_names": FIGURE_NAMES,
        "runs": runs_table(study, data.rows),
        "runs_csv": data_uri("text/csv", csv_text(runs_sheet(data.rows)).encode()),
        "curve_sentences": curve_sentences(fit),
        "sensitivity": overhead_rows(fit),
        "methods": methods,
        "methods_bib": data_uri("application/x-bibtex", methods.bibtex.encode()) if methods else "",
        "methods_tex": data_uri("application/x-tex", methods.latex.encode()) if methods else "",
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
