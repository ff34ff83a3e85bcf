"""The answer in one sentence, whatever it rests on."""

from __future__ import annotations

import math

from analysis.cbs import CurveFit
from analysis.wording import interval, level, number, unit_plural


def answer_text(
    asked: str, fit: CurveFit | None, why_none: str, unit: str, *, workers: str = "", then: str | None = None
) -> str:
    """B_crit with its interval and definition, or that the data do not say.

    Args:
        asked: what was asked for, to stand within a sentence: "the critical batch size for loss ≤ 0.4".
        fit: the curve; None where there is none.
        why_none: then why, a sentence.
        unit: what the batch size counts.
        workers: the same interval in workers, from its comma on.
        then: what takes twice its least at B_crit; the fewest steps and samples if None.
    """
    if fit is None:
        return f"The data do not say what {asked} is: {why_none}"
    low, high = fit.b_crit_interval
    units = unit_plural(unit)
    if fit.status == "misfit":
        return f"The data do not follow the curve that defines {asked}: {fit.reason}"
    if fit.status == "not_identified":
        one_sided = (low == 0.0) != math.isinf(high) and math.isfinite(low)
        bound = f" All they say is: {interval(low, high)} {units}." if one_sided else ""
        return f"The data do not say what {asked} is: {fit.reason}{bound}"
    says = (
        f"{asked[0].upper()}{asked[1:]} is {number(fit.b_crit)} {units} "
        f"({level(fit.confidence)} interval {interval(low, high)}){workers}: "
        f"there a run takes {then or 'twice the fewest steps and twice the fewest samples'}"
    )
    if fit.status == "extrapolated":
        says = f"{says}; this is extrapolated: {fit.reason.removesuffix('.')}"
    return f"{says}."
