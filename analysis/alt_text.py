"""What each figure shows in words, for a reader who does not see it."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from analysis import drawn, sections
from analysis.further import Further
from analysis.speed import series_of
from analysis.study import StudyAnalysis, answer
from analysis.target_ladder import bounds
from analysis.wording import count, interval, number, unit_plural


def alt_text(name: str, study: StudyAnalysis, data: Further) -> str:
    """What a figure shows: its axes and its ends."""
    goal, unit = sections.goal(study), unit_plural(study.unit)
    further = _further(name, study, data)
    if further:
        return further
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
    if name == "lr_optimum":
        rates = ", ".join(f"{number(p.lr)} at {count(p.batch_size)}" for p in study.points)
        return f"Scatter chart of the best learning rate of the grid to {goal} by batch size: {rates}.{_power(study)}"
    assert name == "steps_to_target", name
    return f"Chart of optimizer steps to {goal} against batch size, both logarithmic: {ends}. {answer(study)}"


def _power(study: StudyAnalysis) -> str:
    law = drawn.lr_law(study)
    return f" The optimum grows as the batch size to the power {number(law[0].exponent, 2)}." if law else ""


def _further(name: str, study: StudyAnalysis, data: Further) -> str:
    """The same for figures that rest on more than the answer; empty for the others."""
    goal, unit = sections.goal(study), unit_plural(study.unit)
    if name == "b_crit_against_target":
        said = ", ".join(f"{interval(*found)} at {number(r.target)}" for r in data.rungs if (found := bounds(r)))
        return (
            f"Chart of the interval of the critical batch size in {unit} against the target of {study.metric}: {said}."
        )
    if name == "generalisation_gap":
        ends = _ends((n.batch_size, n.gap) for n in data.near)
        return f"Chart of {data.held_out} minus training loss near {goal} against batch size: {ends}."
    if name == "gradient_norm":
        ends = _ends((n.batch_size, n.grad_sq) for n in data.near)
        return f"Chart of the squared norm of the batch gradient near {goal} against batch size: {ends}."
    if name == "distance_from_init":
        ends = _ends((n.batch_size, n.distance) for n in data.near)
        return f"Chart of the distance of the parameters from their initialisation at {goal} by batch size: {ends}."
    if name == "throughput":
        ends = _ends((s.batch_size, s.samples_per_s) for s in data.speeds)
        return f"Chart of {unit} a second against batch size, {' and '.join(series_of(data.speeds))}: {ends}."
    if name == "time_to_target":
        ends = _ends((s.batch_size, s.seconds) for s in data.speeds if s.chosen)
        return f"Chart of the seconds of optimizer steps to {goal} against batch size: {ends}."
    return ""


def _ends(pairs: Iterable[tuple[float, float]]) -> str:
    """The spread at the smallest and at the largest batch size.

    >>> _ends([(4, 1.0), (4, 3.0), (64, 0.5)])
    '1 to 3 at batch 4, 0.5 to 0.5 at batch 64'
    """
    known = [(b, v) for b, v in pairs if isfinite(v)]
    low, high = min(known)[0], max(known)[0]
    spans = ((b, [v for at, v in known if at == b]) for b in dict.fromkeys((low, high)))
    return ", ".join(f"{number(min(v))} to {number(max(v))} at batch {count(b)}" for b, v in spans)
