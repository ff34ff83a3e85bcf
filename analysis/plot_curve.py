"""The fitted curve in two figures: steps against batch size, and samples against steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis import axes, captions, drawn
from analysis import own_axes as own
from analysis.axes import GREEN, ORANGE, PURPLE, VERMILION
from analysis.cbs import CurveFit
from analysis.study import StudyAnalysis
from analysis.wording import interval, level, number, samples_each, unit_plural


def _marks() -> tuple[tuple[str, dict[str, Any]], ...]:
    """Label and look of what a run, or several, came to; in the order in which they are drawn."""
    blue = axes.run_colour()
    return (
        ("at another learning rate", {"marker": "o", "s": 7, "color": axes.ink(), "alpha": 0.22, "lw": 0}),
        ("run that reached the target", {"marker": "o", "s": 14, "color": blue, "alpha": 0.6}),
        ("outlier, left out of the aggregate", {"marker": "s", "s": 26, "facecolors": "none", "edgecolors": blue}),
        ("aggregate over seeds", {"marker": "o", "s": 60, "facecolors": "none", "edgecolors": blue}),
        ("censored run: at least so many steps", {"marker": "^", "s": 38, "color": ORANGE}),
        ("no run reached it: the longest", {"marker": "^", "s": 55, "facecolors": "none", "edgecolors": ORANGE}),
        ("diverged run (not fitted)", {"marker": "x", "s": 30, "color": PURPLE}),
    )


@own.on_own_axes(height=5.6)
def plot_steps(study: StudyAnalysis, ax: Axes) -> Axes:
    """Steps to target against batch size: runs, aggregate, fitted curve with its band, both asymptotes, B_crit."""
    data, fit = drawn.steps_figure(study), study.fit
    shown = [*data.others, *data.reached, *data.outliers, *data.censored, *data.diverged, *data.never, *data.aggregate]
    if not shown:
        return own.empty(ax, "No run has been evaluated after its start yet.")
    batches, steps = [b for b, _ in shown], [s for _, s in shown]
    if data.curve and fit:
        batches += [data.curve.steps[0][0], data.curve.steps[-1][0]]
        steps += [fit.s_min / 1.15]
    x_limits, y_limits = axes.padded(batches), axes.padded(steps)
    measured = sorted({b for b, _ in (*data.aggregate, *data.never)})
    ticks = axes.batch_ticks(measured, *x_limits)
    axes.log_axis(ax, "x", x_limits, ticks)
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    kinds = (data.others, data.reached, data.outliers, data.aggregate, data.censored, data.never, data.diverged)
    for pairs, (label, look) in zip(kinds, _marks(), strict=True):
        if pairs:
            ax.scatter(*own.columns(pairs), label=label, zorder=2.2 if pairs is data.others else 3, **look)
    if data.curve and fit:
        _draw_fit(ax, fit, data.curve)
    ax.set_xlabel(f"batch size [{unit_plural(study.unit)}]")
    ax.set_ylabel("optimizer steps to target")
    captions.fit_title(ax, f"Steps to {captions.target(study)}", study)
    if data.worker_batch:
        workers_axis(ax, data.worker_batch, study.unit, ticks)
    axes.legend_below(ax)
    return ax


def _draw_fit(ax: Axes, fit: CurveFit, curve: drawn.FittedCurve) -> None:
    """Curve (solid only where it is ok and measured), band, perfect scaling, floor, B_crit with its interval."""
    b, s = own.arrays(curve.steps)
    inside = (b >= curve.measured[0] * 0.999) & (b <= curve.measured[1] * 1.001)
    line: dict[str, Any] = {"color": VERMILION, "lw": 2.0, "zorder": 2.5}
    if fit.band:
        at, low, high = np.array(fit.band).T
        label = f"fit with its {level(fit.confidence)} band" if fit.status == "ok" else "band of the fit"
        ax.fill_between(at, low, high, color=VERMILION, alpha=0.18, lw=0, label=label)
    ax.plot(
        b, s, ls="--" if fit.status == "ok" else ":", label="fit, beyond the measured batches", **{**line, "lw": 1.3}
    )
    if inside.any():
        kind = "-" if fit.status == "ok" else "--"
        ax.plot(b[inside], s[inside], ls=kind, label=f"fit{captions.flag(fit)}: {captions.LAW}", **line)
    ax.plot(b, fit.e_min / b, color=axes.ink(), lw=1, ls="-.", alpha=0.7, label="perfect scaling, slope -1")
    floor = f"{captions.S_MIN} = {number(fit.s_min)} ({interval(*fit.s_min_interval)})"
    ax.axhline(fit.s_min, color=axes.ink(), lw=1, ls=":", alpha=0.8, label=floor)
    low, high = (float(np.clip(x, *ax.get_xlim())) for x in fit.b_crit_interval)
    identified = fit.status != "not_identified"
    ax.axvspan(low, high, color=GREEN, alpha=0.14, lw=0, label=None if identified else captions.b_crit(fit))
    if identified:
        ax.axvline(fit.b_crit, color=GREEN, lw=1.6, ls="-" if fit.status == "ok" else "--", label=captions.b_crit(fit))


def workers_axis(ax: Axes, worker_batch: float, unit: str, ticks: list[float]) -> None:
    """Second x axis in workers; only ticks that stand for a whole number of them."""
    top = ax.secondary_xaxis(
        "top", functions=(lambda b: np.divide(b, worker_batch), lambda w: np.multiply(w, worker_batch))
    )
    whole = [t / worker_batch for t in ticks if (t / worker_batch).is_integer()]
    axes.set_ticks(top.xaxis, whole)
    top.set_xlabel(f"workers of {samples_each(worker_batch, unit)} each")


@own.on_own_axes()
def plot_trade_off(study: StudyAnalysis, ax: Axes) -> Axes:
    """Samples against steps to target: what a saved step costs in samples (McCandlish et al. 2018, fig. 1)."""
    fit, curve = study.fit, drawn.fitted_curve(study)
    if not study.points:
        return own.empty(ax, "No batch size reached the target.")
    steps, samples = [p.steps for p in study.points], [p.samples for p in study.points]
    if curve and fit:
        steps, samples = [*steps, fit.s_min / 1.1, 2 * fit.s_min], [*samples, fit.e_min / 1.1, 2 * fit.e_min]
    x_limits, y_limits = axes.padded(steps, 0.09), axes.padded(samples, 0.09)
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    colours = axes.batch_colours(len(study.points))
    labels = [(p.steps, p.samples, f"B = {number(p.batch_size, 6)}") for p in study.points]
    ax.scatter(steps[: len(labels)], samples[: len(labels)], c=colours, s=45, zorder=3)
    if curve and fit:
        kind = "-" if fit.status == "ok" else "--"
        ax.plot(
            *own.arrays(curve.trade_off),
            color=VERMILION,
            lw=1.6,
            ls=kind,
            label=f"fitted trade-off{captions.flag(fit)}",
        )
        ax.axvline(
            fit.s_min, color=axes.ink(), lw=1, ls=":", alpha=0.8, label=f"{captions.S_MIN} = {number(fit.s_min)} steps"
        )
        least = f"{captions.E_MIN} = {number(fit.e_min)} {unit_plural(study.unit)}"
        ax.axhline(fit.e_min, color=axes.ink(), lw=1, ls="-.", alpha=0.8, label=least)
        if fit.status != "not_identified":
            # At B = B_crit both factors are 2: twice the fewest steps, twice the fewest samples.
            twice = ([2 * fit.s_min], [2 * fit.e_min])
            ax.plot(*twice, ls="", marker="*", ms=14, color=GREEN, mec=axes.paper(), label=captions.b_crit(fit))
    ax.set_xlabel("optimizer steps to target")
    ax.set_ylabel(f"{unit_plural(study.unit)} to target")
    captions.fit_title(ax, f"What fewer steps to {captions.target(study)} cost in {unit_plural(study.unit)}", study)
    axes.legend_below(ax)
    axes.place_labels(ax, labels, colours=[axes.ink()] * len(labels))
    return ax
