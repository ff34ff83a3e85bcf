"""`analysis.load` and `analysis.fit`: a study, a table or curves in, a frozen result out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from analysis.card import card
from analysis.defaults import CONFIDENCE, DELTA, EPSILON, Aggregate, Definition, Loss
from analysis.fits import FitOptions, SweepFit, fit_sweep
from analysis.fitting import Fits, fit_sources
from analysis.output import fit_document
from analysis.read import StudyLog
from analysis.read import load as load_study
from analysis.sources import Source, check_meaning, kind_of, kinds_of, load_sweeps
from analysis.sources.points import PLAIN, Columns
from analysis.sources.studies import study_fit
from analysis.study import StudyAnalysis, analyse
from analysis.sweep import Sweep
from scaleexp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult(StudyAnalysis):
    """A study at one target, as `analysis.study.StudyAnalysis`, that shows itself."""

    def to_dict(self) -> dict[str, Any]:
        """What `fit --json` prints."""
        return fit_document([self], (study_fit(self, self.options),))

    def __str__(self) -> str:
        return card(self, study_fit(self, self.options))

    def _repr_html_(self) -> str:
        fit = study_fit(self, self.options)
        return f"{fit._repr_html_()}<pre>{html.escape(card(self, fit))}</pre>"


class Meaning(TypedDict, total=False):
    """What the columns and names of a source that is no study mean; as the options of the command `fit`."""

    group_by: str | Sequence[str]
    batch_column: str
    steps_column: str
    samples_column: str
    cost_column: str
    unit: str
    run_column: str
    run_pattern: str
    batch_size: int
    lr: float
    direction: Literal["min", "max"]


def load(
    source: str | Path, *, target: float | None = None, metric: str | None = None, **meaning: Unpack[Meaning]
) -> StudyLog | tuple[Sweep, ...]:
    """Read a study, or the sweeps of a table of points or of training curves.

    Args:
        source: a study directory or its address, a CSV or Parquet file, or files of curves.
        target: of curves: value of the metric.
        metric: of curves: which, where several are logged.
        meaning: see `Meaning`.

    Raises:
        ConfigError: a table or a curve that does not hold what it has to.
        StorageError: a study that cannot be read.
    """
    columns = _columns(meaning)
    kind = kind_of(source, columns)
    if kind == "study":
        if columns != PLAIN or target is not None or metric is not None:
            raise ConfigError(
                "columns and targets are those of a table or of curves, and this source is a study; `analysis.fit` "
                "groups studies and takes their targets."
            )
        return load_study(source)
    check_meaning({kind}, columns)
    return load_sweeps([source], columns, targets=() if target is None else (target,), metric=metric, kinds=[kind])


def fit(
    source: Source | Sweep | tuple[Sweep, ...],
    *more: Source,
    target: float | None = None,
    metric: str | None = None,
    definition: Definition = "curve",
    aggregate: Aggregate = "robust",
    loss: Loss = "linear",
    confidence: float = CONFIDENCE,
    seed: int = 0,
    delta: float = DELTA,
    reference_batch: int | None = None,
    epsilon: float = EPSILON,
    half_life: float | None = None,
    **meaning: Unpack[Meaning],
) -> StudyResult | SweepFit | Fits:
    """Fit a study, a table of points, training curves, several of them, or a sweep that was loaded.

    Args:
        source: a study directory, its address or its log; a CSV or Parquet file; files of curves; or what `load` gave.
        more: further ones.
        target: value of the metric; of a study the hardest planned one if None.
        metric: of a study: one that its plan has a target for; its first if None. Of curves: one that is logged.
        definition: which critical batch size.
        aggregate: how the runs of one batch become one cost: robust, median or mean.
        loss: of the curve's log residuals: linear (plain least squares), huber or weighted (by the inverse variance of
            each batch's mean over seeds).
        confidence: of every interval.
        seed: of the bootstrap.
        delta: share of more steps of the overhead definition.
        reference_batch: of the overhead definition; the smallest measured batch if None.
        epsilon: loss that counts as equal: a share, of the definition at equal samples; in its unit, of the branched.
        half_life: of the smoothing of curves of branches [samples]; a tenth of their window if None.
        meaning: see `Meaning`; `group_by` takes facts of a study's trials, too.

    Returns:
        The analysis of one study that is not grouped; the fit of one sweep; otherwise the fits of every group.

    Raises:
        ConfigError: arguments or a source that cannot be meant.
        StorageError: a study that cannot be read.
        NotEnoughDataError: no group of a table gives a curve.
    """
    options = FitOptions(
        definition=definition,
        aggregate=aggregate,
        loss=loss,
        confidence=confidence,
        seed=seed,
        delta=delta,
        reference_batch=reference_batch,
        epsilon=epsilon,
        half_life=half_life,
    )
    if isinstance(source, Sweep | tuple) and (more or meaning or target is not None or metric is not None):
        raise ConfigError("what was loaded already has its target, metric and groups: give them to `analysis.load`.")
    if isinstance(source, Sweep):
        return fit_sweep(source, options)
    if isinstance(source, tuple):
        return Fits(fits=tuple(fit_sweep(sweep, options) for sweep in source))
    columns = _columns(meaning)
    kinds = kinds_of([source, *more], columns)
    if columns != PLAIN or definition != "curve" or kinds != ("study",):
        targets = () if target is None else (target,)
        return fit_sources([source, *more], options, columns, targets=targets, metric=metric, kinds=kinds)
    study = analyse(
        source, target=target, metric=metric, confidence=confidence, seed=seed, aggregate=aggregate, loss=loss
    )
    values = {f.name: getattr(study, f.name) for f in fields(study)}
    return StudyResult(**values | {"options": options})


def _columns(meaning: Meaning) -> Columns:
    unknown = sorted(meaning.keys() - Meaning.__annotations__.keys())
    if unknown:
        raise ConfigError(
            f"there is no argument {unknown[0]!r}; what a source means is told by {', '.join(Meaning.__annotations__)}."
        )
    names = meaning.get("group_by", ())
    return Columns(
        group_by=(names,) if isinstance(names, str) else tuple(names),
        batch=meaning.get("batch_column", PLAIN.batch),
        steps=meaning.get("steps_column"),
        samples=meaning.get("samples_column"),
        cost=meaning.get("cost_column"),
        unit=meaning.get("unit"),
        run=meaning.get("run_column"),
        run_pattern=meaning.get("run_pattern"),
        batch_size=meaning.get("batch_size"),
        lr=meaning.get("lr"),
        direction=meaning.get("direction", PLAIN.direction),
    )
