"""A methods paragraph and its references, from what was used and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis.defaults import Aggregate, Loss
from analysis.references import REFERENCES
from analysis.wording import count, level, number, percent, unit_plural

_CITED = re.compile(r"\\cite\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What an analysis used. What is left out, or None, was not.

    Attributes:
        n_batches, n_runs, n_censored, n_outliers: of the fit.
        aggregate: how the runs of one batch became one cost.
        loss: of the curve's log residuals.
        confidence: of every interval.
        resamples: of the bootstrap.
        unit: what the batch size counts (example, token, ...).
        metric, target: of the crossings.
        from_curves: whether crossings were interpolated between evaluations; otherwise costs were given.
        lr_tuned: whether the LR was chosen per batch.
        from_seeds: whether intervals come from seeds; otherwise from the residuals.
        birge: factor by which intervals were widened because points scatter further than seeds explain; 1 for none.
        overhead: (delta, B_ref) of the overhead definition.
        regimes: (perfect slope, maximal slope).
        shape_exponent: whether a free exponent was fitted as a check.
        equal_samples: (epsilon, whether it is relative) of the definition at equal samples.
        branched: epsilon of the local critical batch size.
        law: (regressors, definition, groups) of a scaling law.
        noise_scale: whether a gradient noise scale was measured.
        multiverse: number of analyses that the choices were varied over.
        version: of the software.
    """

    n_batches: int
    n_runs: int
    aggregate: Aggregate
    confidence: float
    loss: Loss = "linear"
    n_censored: int = 0
    n_outliers: int = 0
    resamples: int = 1000
    unit: str = ""
    metric: str | None = None
    target: float | None = None
    from_curves: bool = False
    lr_tuned: bool = False
    from_seeds: bool = True
    birge: float = 1.0
    overhead: tuple[float, float] | None = None
    regimes: tuple[float, float] | None = None
    shape_exponent: bool = False
    equal_samples: tuple[float, bool] | None = None
    branched: float | None = None
    law: tuple[tuple[str, ...], str, int] | None = None
    noise_scale: bool = False
    multiverse: int | None = None
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Methods:
    r"""A paragraph that can be pasted into a paper.

    Attributes:
        latex: the paragraph, with \cite{key}.
        text: the same with author-year keys in brackets.
        bibtex: the entries that it cites, in order of first citation, and no other.
    """

    latex: str
    text: str
    bibtex: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"latex": self.latex, "text": self.text, "bibtex": self.bibtex}


def methods(used: Used) -> Methods:
    r"""Write the paragraph.

    >>> found = methods(Used(n_batches=5, n_runs=15, aggregate="robust", confidence=0.95))
    >>> found.bibtex.count("@"), "\\cite{mccandlish2018}" in found.latex, "overhead" in found.latex
    (2, True, False)
    """
    plain = " ".join(sentence for sentence in _sentences(used))
    keys = list(dict.fromkeys(_CITED.findall(plain)))
    return Methods(
        latex="$".join(_math(part) if i % 2 else _escaped(part) for i, part in enumerate(plain.split("$"))),
        text=_CITED.sub(lambda match: f"[{match[1]}]", plain).replace("$", ""),
        bibtex="\n\n".join(REFERENCES[key] for key in keys),
    )


def _math(formula: str) -> str:
    r"""A formula as LaTeX has it.

    >>> print(_math("S_min (1 + delta B_ref)"))
    S_{\mathrm{min}} (1 + \delta B_{\mathrm{ref}})
    """
    formula = re.sub(r"_([a-z]{2,})", r"_{\\mathrm{\1}}", formula)
    return re.sub(r"\b(delta|Sigma)\b", r"\\\1", formula).replace("tr(", r"\mathrm{tr}(")


def _escaped(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_").replace("|", r"\textbar{}")


def _sentences(used: Used) -> Iterator[str]:
    yield from _measured(used)
    how = {
        "linear": "by unweighted least squares to",
        "huber": r"under Huber's loss \cite{huber1981} to",
        "weighted": "by least squares, weighted by the inverse variance of the mean over seeds of each batch size, to",
    }[used.loss]
    yield (
        "The critical batch size is $B_crit$ of the steps-to-target curve $S = S_min (1 + B_crit / B)$ "
        rf"\cite{{mccandlish2018}}, fitted {how} the logarithms of one cost per batch size."
    )
    yield from _intervals(used)
    yield from _other_definitions(used)
    if used.shape_exponent:
        yield "As a check, the free shape $E = E_min (1 + (B / B_c)^p)$ was fitted too."
    if used.regimes:
        perfect, maximal = (number(slope) for slope in used.regimes)
        yield (
            r"Perfect scaling and maximal data parallelism \cite{shallue2018} were told apart by the log-log slope of "
            f"steps against batch size, {perfect} where the one ends and {maximal} where the other begins."
        )
    if used.law:
        names, definition, groups = used.law
        yield (
            f"The scaling law of the critical batch size ({definition}) is a power law in {' and '.join(names)}, "
            f"fitted by least squares in logarithms to {groups} groups, with Student's intervals from the residuals."
        )
    if used.noise_scale:
        yield (
            r"The gradient noise scale $tr(Sigma) / |G|^2$ \cite{mccandlish2018} was estimated from gradient norms at "
            "two batch sizes; numerator and denominator were averaged over steps before they were divided."
        )
    if used.multiverse:
        yield f"The choices of the analysis were varied in {count(used.multiverse)} combinations."
    if used.version:
        yield f"Analyses were run with scaleexp {used.version}."


def _measured(used: Used) -> Iterator[str]:
    things = unit_plural(used.unit)
    what = f"the target {used.metric or 'value'} {used.target:g}" if used.target is not None else "the target"
    cost = f"The {things} that {count(used.n_runs)} runs at {used.n_batches} batch sizes took to {what} were "
    if used.from_curves:
        yield (
            f"{cost}interpolated between the evaluations around the crossing; one counts where the next evaluation "
            "confirms it."
        )
    else:
        yield f"{cost}taken as given."
    if used.lr_tuned:
        yield "At every batch size the learning rate with the fewest median steps over seeds was taken."
    yield {
        "robust": (
            "The runs of a batch size were averaged geometrically, without runs that lie beyond both 5 median absolute "
            f"deviations and a factor 1.5 of their median ({used.n_outliers} were)."
        ),
        "median": "The cost of a batch size is the median of its runs.",
        "mean": "The cost of a batch size is the arithmetic mean of its runs.",
    }[used.aggregate]
    if used.n_censored:
        yield (
            f"{count(used.n_censored)} runs that never reached the target count as slower than all others; where one "
            "is among the runs of a batch size their median was taken."
        )


def _intervals(used: Used) -> Iterator[str]:
    stated = f"Intervals ({level(used.confidence)})"
    if used.from_seeds:
        again = ", the learning rate chosen anew in each" if used.lr_tuned else ""
        yield (
            f"{stated} are from {count(used.resamples)} resamples of the seeds within a batch size, n - 1 of n "
            rf"\cite{{efron1982}}{again}, widened by Student's quantile over the normal one."
        )
    else:
        yield (
            f"{stated} are from {count(used.resamples)} resamples of the residuals, as seeds show no spread, widened "
            "by Student's quantile over the normal one."
        )
    if used.birge > 1.0:
        yield (
            f"They are widened {number(used.birge)} times, by the ratio of the scatter about the curve to what seeds "
            r"explain \cite{birge1932}."
        )


def _other_definitions(used: Used) -> Iterator[str]:
    if used.overhead:
        delta, reference = used.overhead
        yield (
            rf"Under the overhead definition \cite{{zhang2024}} it is the batch at which steps exceed linear scaling "
            f"from $B_ref$ = {count(reference)} by {percent(delta)}, $(1 + delta) B_ref + delta B_crit$ on this curve."
        )
    if used.equal_samples:
        epsilon, relative = used.equal_samples
        how = f"{percent(epsilon)} of its size" if relative else number(epsilon)
        yield (
            f"At equal {unit_plural(used.unit)} it is the largest batch whose best loss over learning rates lies "
            f"within {how} of the best over batch sizes, as that of every smaller batch does."
        )
    if used.branched is not None:
        yield (
            r"The local critical batch size \cite{merrill2025} is the largest multiple of the batch at which a branch "
            f"from the same checkpoint stays within {number(used.branched)} of the loss of the unchanged batch."
        )
