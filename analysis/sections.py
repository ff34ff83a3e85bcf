"""What a report says, as plain rows and sentences: pure functions of an analysed study, no markup."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf

from analysis.agreements import agreement_word
from analysis.cbs import CurveFit
from analysis.overhead import overhead
from analysis.study import Agreement, StudyAnalysis
from analysis.targets import BatchPoint
from analysis.wording import count, interval, number, percent, percent_interval, sign, unit_plural
from scaleexp.laws import statistical_efficiency, steps_to_target

NONE = "–"
TRUSTED = ("ok", "extrapolated")
"""Statuses whose curve may be read off; the others keep their numbers to themselves."""

VERDICTS = {
    "ok": "The data say",
    "extrapolated": "Extrapolated",
    "misfit": "The curve does not describe the points",
    "not_identified": "The data do not say",
    "no_fit": "No curve",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table as text.

    Attributes:
        head: column names, with units.
        rows: one cell per column.
        words: indices of the columns that hold words rather than numbers.
        keys: what each cell is sorted by, shaped like `rows`; None comes last. Empty for a table that is not sorted.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    keys: tuple[tuple[str | float | None, ...], ...] = ()


def verdict(study: StudyAnalysis) -> tuple[str, str]:
    """(kind, headline) of the answer; the kind names its look."""
    kind = study.fit.status if study.fit else "no_fit"
    return kind, VERDICTS[kind]


def goal(study: StudyAnalysis) -> str:
    """Metric and target, such as `loss ≤ 0.35`."""
    return f"{study.metric} {sign(study.direction)} {number(study.target, 6)}"


def trusted_fit(study: StudyAnalysis) -> CurveFit | None:
    """The fit, where its status lets a reader take numbers off the curve."""
    return study.fit if study.fit and study.fit.status in TRUSTED else None


def wasted(batch_size: float, b_crit: float) -> float:
    """Share of the samples that a run at `batch_size` eats beyond those it would need at B -> 0.

    1 - E_min / E = B / (B + B_crit), from McCandlish et al. 2018 (arXiv:1812.06162).

    >>> wasted(100.0, b_crit=300.0), wasted(100.0, b_crit=0.0), wasted(100.0, b_crit=float("inf"))
    (0.25, 1.0, 0.0)
    """
    return 1.0 - float(statistical_efficiency(batch_size, b_crit)) if b_crit > 0 else 1.0


def doubling(batch_size: float, b_crit: float) -> tuple[float, float]:
    """(share of the steps saved, share of samples added) by going from B to 2B on the fitted curve.

    1 - S(2B) / S(B) and E(2B) / E(B) - 1, where E = B S. Both are monotone in B_crit, so the ends of its interval give
    the ends of theirs. In the limit of B_crit = inf half of the steps are saved and no sample is added.

    >>> doubling(64.0, b_crit=64.0), doubling(64.0, b_crit=float("inf")), doubling(64.0, b_crit=0.0)
    ((0.25, 0.5), (0.5, 0.0), (0.0, 1.0))
    """
    ratio = (
        0.5
        if isinf(b_crit)
        else float(steps_to_target(2 * batch_size, 1.0, b_crit)) / float(steps_to_target(batch_size, 1.0, b_crit))
    )
    return 1.0 - ratio, 2.0 * ratio - 1.0


def batches_table(study: StudyAnalysis) -> Table:
    """One row per batch size, those without a point included."""
    fit, unit = trusted_fit(study), unit_plural(study.unit)
    rates, seeds = ("best LR of grid", "LR optimum"), "seeds reached / run"
    head = ("workers", f"batch size [{unit}]", *rates, "steps to target", f"{unit} to target", seeds)
    rows = {p.batch_size: (*_batch_row(p), *((_wasted_cell(p.batch_size, fit),) if fit else ())) for p in study.points}
    for batch_size, _ in study.missing:
        seen = [r for r in study.runs if r.batch_size == batch_size]
        workers = count(seen[0].workers) if seen else NONE
        reached = f"{sum(r.reached for r in seen)} / {len(seen)}, all LRs"
        blank = (workers, count(batch_size), NONE, NONE, "not reached", "not reached", reached)
        rows[batch_size] = (*blank, *((NONE,) if fit else ()))
    wasted_head = (f"{unit} wasted (fit, interval)",) if fit else ()
    return Table(head=(*head, *wasted_head), rows=tuple(rows[b] for b in sorted(rows)))


def _batch_row(point: BatchPoint) -> tuple[str, ...]:
    outside = {"low": "below grid?", "high": "above grid?"}
    vertex = NONE if point.lr_optimum is None else f"near {number(point.lr_optimum, 2)}"
    return (
        count(point.workers),
        count(point.batch_size),
        number(point.lr),
        outside[point.lr_edge] if point.lr_edge else vertex,
        number(point.steps),
        number(point.samples),
        f"{sum(r.reached for r in point.runs)} / {len(point.runs)}",
    )


def _wasted_cell(batch_size: int, fit: CurveFit) -> str:
    low, high = fit.b_crit_interval
    ends = percent_interval(wasted(batch_size, high), wasted(batch_size, low))
    return f"{percent(wasted(batch_size, fit.b_crit))} ({ends})"


def doubling_table(study: StudyAnalysis) -> Table:
    """What going from B to 2B saves and costs: on a curve that may be trusted, and as measured where both were."""
    fit, unit = trusted_fit(study), unit_plural(study.unit)
    measured = {p.batch_size: p for p in study.points}
    rows = []
    for p in study.points:
        twice = measured.get(2 * p.batch_size)
        if fit or twice:
            curve = _doubling_cells(p.batch_size, fit) if fit else ()
            rows.append((count(p.batch_size), count(2 * p.batch_size), *curve, *_measured_cells(p, twice)))
    on_curve = ("steps saved (fit, interval)", f"more {unit} (fit, interval)") if fit else ()
    head = ("from B", "to 2B", *on_curve, "steps saved, measured", f"more {unit}, measured")
    return Table(head=head, rows=tuple(rows))


def _doubling_cells(batch_size: float, fit: CurveFit) -> tuple[str, str]:
    (saved, added), (low, high) = doubling(batch_size, fit.b_crit), fit.b_crit_interval
    (saved_low, added_high), (saved_high, added_low) = doubling(batch_size, low), doubling(batch_size, high)
    return (
        f"{percent(saved)} ({percent_interval(saved_low, saved_high)})",
        f"{percent(added)} ({percent_interval(added_low, added_high)})",
    )


def _measured_cells(point: BatchPoint, twice: BatchPoint | None) -> tuple[str, str]:
    if twice is None:
        return "not measured", "not measured"
    return percent(1.0 - twice.steps / point.steps), percent(twice.samples / point.samples - 1.0)


def payoff_sentences(study: StudyAnalysis) -> tuple[str, ...]:
    """Where adding workers stops paying, read off the curve; or why nothing is read off it."""
    fit, unit = study.fit, unit_plural(study.unit)
    if fit is None:
        return (f"There is no curve to read this off: {study.fit_reason}",)
    if fit.status not in TRUSTED:
        said = f"The curve is not to be read off ({fit.status.replace('_', ' ')}): {fit.reason}"
        return (said, "The table holds what was measured and nothing else.")
    at = f"At B_crit = {number(fit.b_crit)} {unit} ({interval(*fit.b_crit_interval)})"
    least = f"{number(2 * fit.s_min)} steps and {number(2 * fit.e_min)} {unit}"
    saved, added = doubling(fit.b_crit, fit.b_crit)
    sentences = [
        f"{at} a run takes twice the fewest steps and twice the fewest {unit}: {least}.",
        f"Doubling the workers from there saves {percent(saved)} of the steps and costs {percent(added)} more {unit}; "
        f"far below it one nearly halves the steps for free, far above it one nearly doubles the {unit} for nothing.",
        *_overhead_sentences(study),
    ]
    if fit.status == "extrapolated":
        sentences.insert(0, f"Extrapolated: {fit.reason}")
    return tuple(sentences)


def _overhead_sentences(study: StudyAnalysis) -> tuple[str, ...]:
    """The same curve under the other published definition, from the smallest measured batch."""
    other, unit = overhead(study), unit_plural(study.unit)
    if other is None:
        return ()
    return (
        "Under the overhead definition of Zhang et al. 2024 the critical batch size is "
        f"{number(other.batch)} {unit} ({interval(*other.interval)}): there steps exceed linear scaling "
        f"from B = {count(other.reference_batch)} by {percent(other.delta)}.",
    )


def rules_table(study: StudyAnalysis) -> Table:
    """One row per learning-rate rule."""
    return Table(
        head=("rule", "scales from", "holds down to B", "holds up to B", "verdict"),
        rows=tuple(
            (
                v.rule,
                f"LR {number(v.base_lr)} at B = {count(v.base_batch_size)}",
                count(v.holds_down_to) if v.holds_down_to is not None else NONE,
                count(v.holds_up_to) if v.holds_up_to is not None else NONE,
                v.sentence,
            )
            for v in study.rules
        ),
        words=(0, 1, 4),
    )


def rule_steps_table(study: StudyAnalysis) -> Table:
    """Steps under each rule over the tuned steps, per batch size."""
    batches = sorted({p.batch_size for v in study.rules for p in v.points})
    rows = []
    for v in study.rules:
        ratios = {p.batch_size: f"{_ratio(p.ratio)}{'' if p.holds else ' ✗'}" for p in v.points}
        rows.append((v.rule, *(ratios.get(b, NONE) for b in batches)))
    return Table(head=("rule at batch", *(count(b) for b in batches)), rows=tuple(rows), words=(0,))


def _ratio(ratio: float) -> str:
    """A factor on the tuned steps.

    >>> _ratio(1.0432), _ratio(float("inf"))
    ('× 1.04', '∞')
    """
    return "∞" if isinf(ratio) else f"× {ratio:.2f}"


def noise_table(study: StudyAnalysis) -> Table:
    """Noise scale and swept B_crit in one table, each with its definition."""
    unit = unit_plural(study.unit)
    rows = []
    if study.fit:
        fit = study.fit
        value = NONE if fit.status in ("not_identified", "misfit") else number(fit.b_crit)
        what = "batch at which a run takes twice the fewest steps, from the sweep"
        ends = NONE if fit.status == "misfit" else interval(*fit.b_crit_interval)
        rows.append(("B_crit", value, ends, fit.status.replace("_", " "), what))
    if study.noise:
        n = study.noise
        value = number(n.b_simple) if n.status == "ok" else NONE
        what = f"tr(Σ) / |G|² over {count(n.n_measurements)} measurements at the best LR up to the target"
        rows.append(("B_simple", value, interval(*n.interval), n.status, f"{what}. {n.bias}".rstrip(". ")))
    for name, layer in study.noise_layers.items():
        value = number(layer.b_simple) if layer.status == "ok" else NONE
        rows.append((f"B_simple of {name}", value, interval(*layer.interval), layer.status, "of this parameter alone"))
    head = ("quantity", f"value [{unit}]", f"interval [{unit}]", "status", "what it is")
    return Table(head=head, rows=tuple(rows), words=(0, 3, 4))


def agreements_table(agreements: tuple[Agreement, ...]) -> Table:
    """Second realisations against first ones, row by row."""
    head = (
        "trial",
        "run again as",
        "steps",
        "loss differs",
        "metric differs",
        "within",
        "ms per step per trial, in a pack",
        "ms per step, real workers",
    )
    rows = tuple(
        (
            a.key,
            a.other_key.removeprefix(f"{a.key}@"),
            count(a.steps),
            number(a.loss_difference, 2),
            number(a.value_difference, 2),
            f"{number(a.tolerance)}: {agreement_word(a)}",
            number(1e3 * a.step_s),
            number(1e3 * a.other_step_s),
        )
        for a in agreements
    )
    return Table(head=head, rows=rows, words=(0, 1, 5))


def left_out(study: StudyAnalysis) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What was not used or is to be doubted, and why, by kind; kinds without an entry are not listed."""
    missing = tuple(reason for _, reason in study.missing)
    elsewhere = {*missing, *study.log.problems}  # they have headings of their own
    kinds = (
        ("Batch sizes without a point", missing),
        ("Left out of the analysis", tuple(s for s in study.left_out if s not in elsewhere)),
        ("Missing or corrupt in the study directory", study.log.problems),
        ("Warnings of the fit", study.fit.warnings if study.fit else ()),
    )
    return tuple((title, sentences) for title, sentences in kinds if sentences)
