"""`analysis.load` and `analysis.fit`: a study or a table in, a frozen result out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from analysis.card import card
from analysis.defaults import CONFIDENCE, DELTA, EPSILON, Aggregate, Definition
from analysis.fits import FitOptions, SweepFit, check_definition, fit_sweep
from analysis.fitting import Fits, fit_sources
from analysis.output import fit_document
from analysis.read import StudyLog
from analysis.read import load as load_study
from analysis.sources import Source, kind_of, load_sweeps
from analysis.sources.points import PLAIN, Columns
from analysis.sources.studies import study_fit
from analysis.study import StudyAnalysis, analyse
from analysis.sweep import Sweep
from scaleexp.errors import ConfigError


class StudyResult(StudyAnalysis):
    """A study at one target, as `analysis.study.StudyAnalysis`, that shows itself."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """What `fit --json` prints."""
        return fit_document([self])

    def __str__(self) -> str:
        return card(self)

    def _repr_html_(self) -> str:
        return f"{study_fit(self)._repr_html_()}<pre>{html.escape(card(self))}</pre>"


def load(
    source: str | Path,
    *,
    group_by: str | Sequence[str] = (),
    batch_column: str = "batch_size",
    steps_column: str | None = None,
    samples_column: str | None = None,
    cost_column: str | None = None,
    unit: str | None = None,
) -> StudyLog | tuple[Sweep, ...]:
    """Read a study, or the sweeps of a table of points.

    Args:
        source: a study directory or its address, or a CSV or Parquet file.
        group_by: columns of a table; one sweep for each combination of their values.
        batch_column: of a table: the global batch size.
        steps_column: of a table: optimizer steps to target.
        samples_column: of a table: samples to target.
        cost_column: of a table: anything proportional to samples to target.
        unit: what `cost_column` counts.

    Raises:
        ConfigError: a table that does not hold what it has to.
        StorageError: a study that cannot be read.
    """
    columns = _columns(group_by, batch_column, steps_column, samples_column, cost_column, unit)
    if kind_of(source) == "study":
        if columns != PLAIN:
            raise ConfigError(
                "columns are those of a table, and this source is a study; `analysis.fit` groups studies."
            )
        return load_study(source)
    return load_sweeps([source], columns)


def fit(
    source: Source | Sweep,
    *more: Source,
    target: float | None = None,
    metric: str | None = None,
    group_by: str | Sequence[str] = (),
    batch_column: str = "batch_size",
    steps_column: str | None = None,
    samples_column: str | None = None,
    cost_column: str | None = None,
    unit: str | None = None,
    definition: Definition = "curve",
    aggregate: Aggregate = "robust",
    confidence: float = CONFIDENCE,
    seed: int = 0,
    delta: float = DELTA,
    reference_batch: int | None = None,
    epsilon: float = EPSILON,
) -> StudyResult | SweepFit | Fits:
    """Fit a study, a table of points, several of them, or a sweep that was loaded.

    Args:
        source: a study directory, its address or its log; a CSV or Parquet file; or a sweep of `load`.
        more: further ones.
        target: of a study: value of the metric; the hardest planned one if None.
        metric: of a study: one that its plan has a target for; its first if None.
        group_by: one fit for each combination of values of these columns of a table, or facts of a study's trials.
        batch_column: of a table: the global batch size.
        steps_column: of a table: optimizer steps to target.
        samples_column: of a table: samples to target.
        cost_column: of a table: anything proportional to samples to target.
        unit: what `cost_column` counts.
        definition: which critical batch size.
        aggregate: how the runs of one batch become one cost: robust, median or mean.
        confidence: of every interval.
        seed: of the bootstrap.
        delta: share of more steps of the overhead definition.
        reference_batch: of the overhead definition; the smallest measured batch if None.
        epsilon: relative loss that counts as equal, of the definition at equal samples.

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
        confidence=confidence,
        seed=seed,
        delta=delta,
        reference_batch=reference_batch,
        epsilon=epsilon,
    )
    if isinstance(source, Sweep):
        return fit_sweep(source, options)
    columns = _columns(group_by, batch_column, steps_column, samples_column, cost_column, unit)
    if more or columns != PLAIN or kind_of(source) == "table":
        targets = () if target is None else (target,)
        return fit_sources([source, *more], options, columns, targets=targets, metric=metric)
    check_definition(options)
    study = analyse(source, target=target, metric=metric, confidence=confidence, seed=seed, aggregate=aggregate)
    return StudyResult(**{f.name: getattr(study, f.name) for f in fields(study)})


def _columns(
    group_by: str | Sequence[str],
    batch: str,
    steps: str | None,
    samples: str | None,
    cost: str | None,
    unit: str | None,
) -> Columns:
    names = (group_by,) if isinstance(group_by, str) else tuple(group_by)
    return Columns(group_by=names, batch=batch, steps=steps, samples=samples, cost=cost, unit=unit)
