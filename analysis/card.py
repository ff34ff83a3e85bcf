"""What `fit` prints for a person: the answer first, then what it rests on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from analysis.agreements import agreement_word, disagreements
from analysis.branched_fit import branched_lines, branched_rows
from analysis.cbs import CurveFit
from analysis.equal_fit import equal_samples_lines, equal_samples_rows
from analysis.fits import SweepFit, parameter_rows
from analysis.sources.studies import study_fit
from analysis.study import StudyAnalysis
from analysis.targets import BatchPoint
from analysis.wording import count, interval, level, number, percent, unit_plural
from scaleexp.laws import steps_to_target

_LOSSES = {
    "huber": "Huber's: batches far off the curve count by their distance, not by its square",
    "weighted": "least squares weighted by the inverse variance of each batch's mean over seeds",
}


def card(study: StudyAnalysis, fit: SweepFit | None = None) -> str:
    """A study at one target, in lines.

    Args:
        study: as analysed.
        fit: of it, with the options that it was asked for; with the defaults if None.
    """
    fit = fit or study_fit(study)
    warnings = [f"WARNING {sentence}" for sentence in disagreements(study.agreements)]
    parts = [[fit.answer, *warnings], _fit_lines(fit), _table(fit), noise_lines(study), _rule_lines(study)]
    return _paragraphs([*parts, agreement_lines(study), _warning_lines(fit)])


def sweep_card(fit: SweepFit) -> str:
    """A fitted sweep of any source, in lines."""
    return _paragraphs([[fit.answer], _fit_lines(fit), _table(fit), _warning_lines(fit)])


def overview(fits: Sequence[SweepFit]) -> list[str]:
    """Several groups side by side, in one text; none for a single fit."""
    if len(fits) < 2:
        return []
    columns = list(dict.fromkeys(name for fit in fits for name in fit.sweep.group))
    several = len({fit.sweep.target for fit in fits}) > 1
    heading = [*columns, *(["target"] if several else [])]
    rows = [[*heading, "B_crit", f"{level(fits[0].options.confidence)} interval", "E_min", "runs", "status"]]
    for fit in fits:
        sweep, curve = fit.sweep, None if fit.instead else fit.curve
        unit = unit_plural(sweep.unit) if sweep.counts_samples else sweep.cost_unit
        digits = 9 if fit.instead else 3  # measured batches are not rounded
        target = "-" if sweep.target is None else number(sweep.target, 6)
        rows.append(
            [
                *(str(sweep.group.get(name, "-")) for name in columns),
                *([target] if several else []),
                number(fit.b_crit, digits) if fit.has_curve else "-",
                interval(*fit.b_crit_interval, digits) if fit.has_curve else "-",
                "-" if curve is None else f"{number(curve.e_min)} {unit}",
                str(len(sweep.runs or sweep.traces)),
                fit.status.replace("_", " "),
            ]
        )
    return ["\n".join(aligned(rows, words={*range(len(columns)), len(rows[0]) - 1}))]


def aligned(rows: Sequence[Sequence[str]], *, words: Collection[int] = ()) -> list[str]:
    """Columns of equal width: numbers to the right, those of `words` to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _paragraphs(parts: Sequence[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(part) for part in parts if part)


def _fit_lines(fit: SweepFit) -> list[str]:
    curve = fit.curve
    if fit.equal_samples is not None:
        return equal_samples_lines(fit.sweep, fit.equal_samples)
    if fit.branched is not None:
        return branched_lines(fit.sweep, fit.branched)
    if curve is None:
        return []
    return [
        f"status  {curve.status.replace('_', ' ')}: {curve.reason}",
        *(f"{name:<7} {text}" for name, text in parameter_rows(fit)),
        *_regime_lines(fit),
        *([f"loss    {_LOSSES[fit.options.loss]}"] if fit.options.loss in _LOSSES else []),
        f"used    {curve.n_batches} batch sizes, {curve.n_runs} runs, {curve.n_censored} of them censored; "
        f"{_noise_of(curve)}",
    ]


def _regime_lines(fit: SweepFit) -> list[str]:
    """Where each regime ends, in one line; none where no border lies within the measured batches."""
    found, unit = fit.regimes or {}, unit_plural(fit.sweep.unit)
    says = []
    if found.get("perfect_ends"):
        says.append(f"perfect scaling up to {number(found['perfect_ends'])} {unit}")
    if found.get("maximal_begins"):
        says.append(f"no gain to speak of from {number(found['maximal_begins'])} {unit} on")
    return [f"regimes {', '.join(says)} (slopes of the curve)"] if says else []


def _noise_of(fit: CurveFit) -> str:
    if fit.seed_noise is None:
        each = "one run per batch" if fit.n_runs == fit.n_batches else "one seed per batch and learning rate"
        return f"{each}, so no seed noise is known"
    return f"steps of one batch differ by {percent(fit.seed_noise)} from seed to seed"


def _table(fit: SweepFit) -> list[str]:
    """One line per batch; `<` or `>` marks a best LR at that end of its grid."""
    if fit.equal_samples is not None or fit.branched is not None:
        cells = equal_samples_rows(fit.equal_samples) if fit.equal_samples else []
        cells = branched_rows(fit.branched) if fit.branched else cells
        return aligned([list(cells[0]), *(list(row.values()) for row in cells)])
    if not fit.points:
        return []
    columns = [_columns(point, fit) for point in fit.points]
    rows = [list(columns[0]), *(list(cells.values()) for cells in columns)]
    lines = aligned(rows)
    if any(point.lr_edge for point in fit.points):
        lines.append("< or > at the best LR: it is the smallest or largest of its grid.")
    return lines


def _columns(point: BatchPoint, fit: SweepFit) -> dict[str, str]:
    """Heading -> cell; only what the source knows."""
    sweep, curve = fit.sweep, fit.curve
    mark = {"low": "< ", "high": "> ", None: ""}[point.lr_edge]
    reached = sum(run.reached for run in point.runs)
    off = "-"
    if curve is not None and math.isfinite(curve.b_crit) and curve.s_min > 0.0:
        share = point.steps / float(steps_to_target(point.batch_size, curve.s_min, curve.b_crit)) - 1.0
        off = f"{100.0 * share:+.1f} %" if abs(share) >= 5e-4 else "0 %"
    cells = {"batch": count(point.batch_size)}
    if sweep.counts_samples:
        cells["steps"] = number(point.steps, 4)
    cells[unit_plural(sweep.unit) if sweep.counts_samples else sweep.cost_unit] = number(point.samples, 4)
    if sweep.knows_lr:
        cells["best LR"] = f"{mark}{number(point.lr)}"
        cells["optimum"] = "-" if point.lr_optimum is None else number(point.lr_optimum)
    return cells | {"seeds" if sweep.is_study else "runs": f"{reached}/{len(point.runs)}", "off curve": off}


def noise_lines(study: StudyAnalysis) -> list[str]:
    """The noise scale at the target in one line; none where it was not measured."""
    noise = study.noise
    if noise is None:
        return []
    says = (
        f"{number(noise.b_simple)} {unit_plural(study.unit)} ({level(noise.confidence)} interval "
        f"{interval(*noise.interval)})"
        if noise.status == "ok"
        else f"unresolved: {noise.reason}"
    )
    line = f"noise scale near the target, not the same thing as the critical batch size: {says}"
    return [f"{line}. {noise.bias}" if noise.bias and noise.status == "ok" else line]


def _rule_lines(study: StudyAnalysis) -> list[str]:
    lines = [f"  {verdict.sentence}" for verdict in study.rules]
    return ["learning-rate rules", *lines] if lines else []


def agreement_lines(study: StudyAnalysis) -> list[str]:
    """One line per second realisation: whether it agrees with the first, and how far apart they come."""
    return [
        f"{a.other_key} against {a.key}: {agreement_word(a)} (within {number(a.tolerance)}); over {count(a.steps)} "
        f"steps the training loss differs by at most {number(a.loss_difference, 2)} and evaluations by at most "
        f"{number(a.value_difference, 2)} (relative)"
        for a in study.agreements
    ]


def _warning_lines(fit: SweepFit) -> list[str]:
    own = fit.instead or fit.curve
    warnings = (*(own.warnings if own else ()), *fit.left_out)
    return ["mind", *(f"  - {warning}" for warning in warnings)] if warnings else []
