"""Sources in, fits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.card import card, overview, sweep_card
from analysis.choices import multiverse_of
from analysis.fit_methods import methods_lines, methods_of
from analysis.fits import FitOptions, SweepFit, fit_sweep
from analysis.multiverse_text import multiverse_lines
from analysis.output import fit_document, fits_document
from analysis.read import StudyLog
from analysis.read import load as load_study
from analysis.sources import Kind, Source, kinds_of, load_sweeps, told_apart
from analysis.sources.points import PLAIN, Columns
from analysis.sources.studies import study_fit
from analysis.study import StudyAnalysis, analyse
from scaleexp.errors import ConfigError, NotEnoughDataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fits:
    """Every group of one or several sources, fitted.

    Attributes:
        fits: one per group and target.
        studies: the analysis behind each of `fits` where they are whole studies, otherwise empty.
    """

    fits: tuple[SweepFit, ...]
    studies: tuple[StudyAnalysis, ...] = ()

    @property
    def has_curve(self) -> bool:
        """Whether any group gave a curve."""
        return any(fit.has_curve for fit in self.fits)

    def to_dict(self) -> dict[str, Any]:
        """What `fit --json` prints."""
        if self.studies and len({study.log.path for study in self.studies}) == 1:
            return fit_document(self.studies, self.fits)
        return fits_document(self.fits)

    def text(self) -> str:
        """What `fit` prints."""
        if self.studies:
            cards = [card(study, fit) for study, fit in zip(self.studies, self.fits, strict=True)]
        else:
            cards = [sweep_card(fit) for fit in self.fits]
        said = [[card, *_choices(fit)] for card, fit in zip(cards, self.fits, strict=True)]
        written = "\n".join(methods_lines(self.fits))
        parts = ["\n\n".join(lines) for lines in said]
        return "\n\n\n".join([*parts, *overview(self.fits), *([written] if written else [])])

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """Every fit, for a notebook."""
        return "".join(fit._repr_html_() for fit in self.fits)


def fit_sources(
    sources: Sequence[Source],
    options: FitOptions,
    columns: Columns = PLAIN,
    *,
    targets: Sequence[float] = (),
    metric: str | None = None,
    multiverse: bool = False,
    methods: bool = False,
    kinds: Sequence[Kind] | None = None,
) -> Fits:
    """Fit every group of every source.

    A study that is not grouped is analysed whole, with its noise scale and rules; several are told apart by name.

    Args:
        sources: studies and tables.
        options: how to fit.
        columns: what the columns of tables mean, and what to group by.
        targets: for studies, values of the metric.
        metric: for studies, one that the plan has a target for.
        multiverse: whether every fit is to be repeated under other choices.
        methods: whether every fit is to come with a paragraph for a paper.
        kinds: of the sources, from `kinds_of`, where it was asked already.

    Raises:
        ConfigError: arguments or a source that cannot be meant.
        StorageError: a study that cannot be read.
        NotEnoughDataError: no group gives a curve.
    """
    if options.definition != "curve" and (multiverse or methods):
        raise ConfigError(
            f"--multiverse and --methods are of the curve; --definition {options.definition} tells how it moves with "
            "epsilon."
        )
    kinds = kinds or kinds_of(sources, columns)
    sources = [
        load_study(each) if isinstance(each, str | Path) and kind == "study" else each
        for each, kind in zip(sources, kinds, strict=True)
    ]
    if columns.group_by or set(kinds) != {"study"} or options.definition == "branched":
        traced, branched = options.definition == "equal-samples", options.definition == "branched"
        sweeps = load_sweeps(
            sources, columns, targets=targets, metric=metric, with_traces=traced, with_branches=branched, kinds=kinds
        )
        found = Fits(fits=tuple(fit_sweep(sweep, options) for sweep in sweeps))
    else:
        found = _whole_studies(sources, options, targets, metric)
    if not found.has_curve:
        most = max(found.fits, key=lambda fit: len(fit.points))
        why = most.reason if len(found.fits) == 1 or found.studies else most.answer
        # A study's reason says already what to do about its runs.
        raise NotEnoughDataError(" ".join((why, *(() if most.sweep.is_study else most.sweep.problems))))
    if multiverse:
        logs = [source for source in sources if isinstance(source, StudyLog)]
        found = replace(found, fits=tuple(replace(fit, multiverse=multiverse_of(fit, logs)) for fit in found.fits))
    return _with_methods(found) if methods else found


def _with_methods(found: Fits) -> Fits:
    studies = found.studies or (None,) * len(found.fits)
    fits = tuple(replace(f, methods=methods_of(f, study)) for f, study in zip(found.fits, studies, strict=True))
    return replace(found, fits=fits)


def _choices(fit: SweepFit) -> list[str]:
    return ["\n".join(multiverse_lines(fit.multiverse, fit))] if fit.multiverse else []


def _whole_studies(
    sources: Sequence[Source], options: FitOptions, targets: Sequence[float], metric: str | None
) -> Fits:
    logs = [source if isinstance(source, StudyLog) else load_study(source) for source in sources]
    names = told_apart([(log.plan["study"], log.path) for log in logs])
    studies, fits = [], []
    for name, log in zip(names, logs, strict=True):
        group = {"study": name} if len(logs) > 1 else {}
        for target in dict.fromkeys(targets) or (None,):
            study = analyse(
                log,
                target=target,
                metric=metric,
                confidence=options.confidence,
                seed=options.seed,
                aggregate=options.aggregate,
                loss=options.loss,
            )
            studies.append(study)
            fits.append(study_fit(study, options, group))
    return Fits(fits=tuple(fits), studies=tuple(studies))
