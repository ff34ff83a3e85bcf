"""The methods paragraph of a fit: what it used, read off the fit itself."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.bootstrap import NO_SPREAD
from analysis.fits import SweepFit
from analysis.methods import Methods, Used, methods
from analysis.study import StudyAnalysis
from analysis.sweep import group_text
from analysis.targets import outlier_runs
from scaleexp import __version__


def methods_of(fit: SweepFit, study: StudyAnalysis | None = None) -> Methods | None:
    """The paragraph and the references; None without a fitted curve, which has no method to tell.

    Args:
        fit: of a sweep.
        study: the whole analysis, where the sweep is a study, for what it holds beside the curve.
    """
    return methods(used_by(fit, study)) if fit.has_curve else None


def used_by(fit: SweepFit, study: StudyAnalysis | None = None) -> Used:
    """What a fit used."""
    sweep, curve, options = fit.sweep, fit.curve, fit.options
    found = fit.regimes
    # A paper reports what may be read off the curve; the rest of the paragraph stands without it.
    overhead = fit.overhead if fit.status in ("ok", "extrapolated") else None
    unit = sweep.unit if sweep.counts_samples else sweep.cost_unit.removesuffix("s")
    return Used(
        n_batches=len(fit.points),
        n_runs=len(sweep.runs),
        n_censored=sum(not run.reached for run in sweep.runs),
        n_outliers=sum(len(outlier_runs(point)) for point in fit.points),
        aggregate=options.aggregate,
        loss=options.loss,
        confidence=options.confidence,
        unit=unit,
        metric=sweep.metric or None,
        target=sweep.target,
        from_curves=any(run.reached and run.bracket[0] < run.bracket[1] for run in sweep.runs),
        lr_tuned=sweep.knows_lr and any(len(point.lr_curve) > 1 for point in fit.points),
        from_seeds=curve is not None and (curve.seed_noise or 0.0) >= NO_SPREAD,
        birge=1.0 if curve is None else curve.birge,
        overhead=(overhead.delta, float(overhead.reference_batch)) if overhead else None,
        regimes=(found["perfect_slope"], found["maximal_slope"]) if found else None,
        shape_exponent=fit.shape_exponent is not None,
        noise_scale=study is not None and study.noise is not None,
        multiverse=len(fit.multiverse.rows) if fit.multiverse else None,
        version=__version__,
    )


def methods_lines(fits: Sequence[SweepFit]) -> list[str]:
    """The paragraph of each fit, and every reference once."""
    lines: list[str] = []
    entries: dict[str, None] = {}
    for fit in fits:
        if fit.methods is None:
            continue
        about = group_text(fit.sweep.group)
        lines += [f"methods{f', {about}' if about else ''}", fit.methods.text, ""]
        entries |= dict.fromkeys(fit.methods.bibtex.split("\n\n"))
    return [*lines, "references (BibTeX)", "\n\n".join(entries)] if lines else []
