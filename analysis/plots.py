"""Four figures of a study. `analysis.drawn` holds the numbers, this file the ink; every `plot_*` returns its axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, isfinite, sqrt
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import ColorType

from analysis import axes, drawn
from analysis.axes import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from analysis.cbs import CurveFit
from analysis.study import StudyAnalysis
from analysis.wording import interval, number, sign, unit_plural

PNG_DPI = 200
TITLE_COLUMNS = 64
B_CRIT, S_MIN, E_MIN = r"$B_\mathrm{crit}$", r"$S_\mathrm{min}$", r"$E_\mathrm{min}$"
LAW = r"$S = S_\mathrm{min}\,(1 + B_\mathrm{crit} / B)$"
NOT_OK = {
    "misfit": "MISFIT",
    "extrapolated": "EXTRAPOLATED",
    "not_identified": "NOT IDENTIFIED",
}
MARKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("run that reached the target", {"marker": "o", "s": 14, "color": BLUE, "alpha": 0.55}),
    ("outlier, left out of the aggregate", {"marker": "s", "s": 26, "facecolors": "none", "edgecolors": BLUE}),
    ("aggregate over seeds", {"marker": "o", "s": 60, "facecolors": "none", "edgecolors": BLUE}),
    ("censored run: at least so many steps", {"marker": "^", "s": 38, "color": ORANGE}),
    ("no run reached it: the longest", {"marker": "^", "s": 55, "facecolors": "none", "edgecolors": ORANGE}),
    ("diverged run (not fitted)", {"marker": "x", "s": 30, "color": PURPLE}),
)
RULE_STYLE = {"none": (SKY, ":"), "sqrt": (ORANGE, "--"), "linear": (PURPLE, "-.")}


def plot_steps(study: StudyAnalysis, ax: Axes | None = None) -> Axes:
    """Steps to target against batch size: runs, aggregate, fitted curve with its band, both asymptotes, B_crit."""
    ax = ax or axes.new_axes(height=5.6)
    data, fit = drawn.steps_figure(study), study.fit
    shown = [*data.reached, *data.outliers, *data.censored, *data.diverged, *data.never, *data.aggregate]
    if not shown:
        return _empty(ax, "No run has been evaluated yet.")
    batches, steps = [b for b, _ in shown], [s for _, s in shown]
    if data.curve and fit:
        batches += [data.curve.steps[0][0], data.curve.steps[-1][0]]
        steps += [fit.s_min / 1.15]
    x_limits, y_limits = axes.padded(batches), axes.padded(steps)
    measured = sorted({b for b, _ in (*data.aggregate, *data.never)})
    ticks = axes.batch_ticks(measured, *x_limits)
    axes.log_axis(ax, "x", x_limits, ticks)
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    for pairs, (label, look) in zip(
        (data.reached, data.outliers, data.aggregate, data.censored, data.never, data.diverged), MARKS, strict=True
    ):
        if pairs:
            ax.scatter(*_columns(pairs), label=label, zorder=3, **look)
    if data.curve and fit:
        _draw_fit(ax, fit, data.curve)
    ax.set_xlabel(f"batch size [{unit_plural(study.unit)}]")
    ax.set_ylabel("optimizer steps to target")
    _title(ax, f"Steps to {_target(study)}", study)
    if data.worker_batch:
        _workers_axis(ax, data.worker_batch, ticks)
    axes.legend_below(ax)
    return ax


def _draw_fit(ax: Axes, fit: CurveFit, curve: drawn.FittedCurve) -> None:
    """Curve (solid only where it is ok and measured), band, perfect scaling, floor, B_crit with its interval."""
    b, s = _arrays(curve.steps)
    inside = (b >= curve.measured[0] * 0.999) & (b <= curve.measured[1] * 1.001)
    line: dict[str, Any] = {"color": VERMILION, "lw": 2.0, "zorder": 2.5}
    if fit.band:
        at, low, high = np.array(fit.band).T
        label = f"fit with its {100 * fit.confidence:.0f} % band" if fit.status == "ok" else "band of the fit"
        ax.fill_between(at, low, high, color=VERMILION, alpha=0.18, lw=0, label=label)
    ax.plot(
        b, s, ls="--" if fit.status == "ok" else ":", label="fit, beyond the measured batches", **{**line, "lw": 1.3}
    )
    if inside.any():
        kind = "-" if fit.status == "ok" else "--"
        ax.plot(b[inside], s[inside], ls=kind, label=f"fit{_flag(fit)}: {LAW}", **line)
    ax.plot(b, fit.e_min / b, color=axes.ink(), lw=1, ls="-.", alpha=0.7, label="perfect scaling, slope -1")
    floor = f"{S_MIN} = {number(fit.s_min)} ({interval(*fit.s_min_interval)})"
    ax.axhline(fit.s_min, color=axes.ink(), lw=1, ls=":", alpha=0.8, label=floor)
    low, high = (float(np.clip(x, *ax.get_xlim())) for x in fit.b_crit_interval)
    identified = fit.status != "not_identified"
    ax.axvspan(low, high, color=GREEN, alpha=0.14, lw=0, label=None if identified else _b_crit(fit))
    if identified:
        ax.axvline(fit.b_crit, color=GREEN, lw=1.6, ls="-" if fit.status == "ok" else "--", label=_b_crit(fit))


def _b_crit(fit: CurveFit) -> str:
    """Legend text of B_crit: its value only where the data identify it."""
    said = "not identified" if fit.status == "not_identified" else f"= {number(fit.b_crit)}{_flag(fit)}"
    return f"{B_CRIT} {said} ({100 * fit.confidence:.0f} %: {interval(*fit.b_crit_interval)})"


def _flag(fit: CurveFit) -> str:
    return "" if fit.status in ("ok", "not_identified") else f", {fit.status}"


def _workers_axis(ax: Axes, worker_batch: float, ticks: list[float]) -> None:
    """Second x axis in workers; only ticks that stand for a whole number of them."""
    top = ax.secondary_xaxis(
        "top", functions=(lambda b: np.divide(b, worker_batch), lambda w: np.multiply(w, worker_batch))
    )
    whole = [t / worker_batch for t in ticks if (t / worker_batch).is_integer()]
    axes.set_ticks(top.xaxis, whole)
    top.set_xlabel(f"workers, {number(worker_batch)} per worker and step")


def plot_trade_off(study: StudyAnalysis, ax: Axes | None = None) -> Axes:
    """Samples against steps to target: what a saved step costs in samples (McCandlish et al. 2018, fig. 1)."""
    ax = ax or axes.new_axes()
    fit, curve = study.fit, drawn.fitted_curve(study)
    if not study.points:
        return _empty(ax, "No batch size reached the target.")
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
        ax.plot(*_arrays(curve.trade_off), color=VERMILION, lw=1.6, ls=kind, label=f"fitted trade-off{_flag(fit)}")
        ax.axvline(fit.s_min, color=axes.ink(), lw=1, ls=":", alpha=0.8, label=f"{S_MIN} = {number(fit.s_min)} steps")
        least = f"{E_MIN} = {number(fit.e_min)} {unit_plural(study.unit)}"
        ax.axhline(fit.e_min, color=axes.ink(), lw=1, ls="-.", alpha=0.8, label=least)
        if fit.status != "not_identified":
            # At B = B_crit both factors are 2: twice the fewest steps, twice the fewest samples.
            twice = ([2 * fit.s_min], [2 * fit.e_min])
            ax.plot(*twice, ls="", marker="*", ms=14, color=GREEN, mec=axes.paper(), label=_b_crit(fit))
    ax.set_xlabel("optimizer steps to target")
    ax.set_ylabel(f"{unit_plural(study.unit)} to target")
    _title(ax, f"What fewer steps to {_target(study)} cost in {unit_plural(study.unit)}", study)
    axes.legend_below(ax)
    axes.place_labels(ax, labels, colours=[axes.ink()] * len(labels))
    return ax


def plot_learning_rates(study: StudyAnalysis, ax: Axes | None = None) -> Axes:
    """Steps to target against LR, one line per batch size, with the path of each scaling rule across them."""
    ax = ax or axes.new_axes(height=5.8)
    lines = drawn.lr_lines(study)
    finite = [s for line in lines for _, s in (*line.reached, line.best)]
    if not finite:
        return _empty(ax, "No batch size reached the target.")
    rates = [lr for p in study.points for lr, *_ in p.lr_curve] + [r.lr for v in study.rules for r in v.points]
    low, high = axes.padded(finite)
    shelves = _shelves(low, high, lines)
    x_limits, ticks = axes.padded(rates), axes.log_ticks(low, high)
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    axes.log_axis(ax, "y", (low, shelves[-1] * (high / low) ** 0.03), ticks)
    for line, shelf, colour in zip(lines, shelves, axes.batch_colours(len(lines)), strict=True):
        label = f"B = {number(line.batch_size, 6)}"
        ax.plot(*_columns(line.reached), color=colour, lw=1.3, marker=".", ms=5, label=label)
        ax.plot(line.missed, [shelf] * len(line.missed), ls="", marker="x", ms=5, color=colour)
        ax.plot(*line.best, marker="D" if line.edge else "o", ms=8, color=colour, mec=axes.ink(), zorder=4)
    for verdict in study.rules:
        colour, kind = RULE_STYLE.get(verdict.rule, (axes.ink(), "-"))
        lr, steps = _columns(drawn.rule_path(study, verdict.rule))
        on_shelf = [s if isfinite(s) else shelves[0] for s in steps]
        ax.plot(lr, on_shelf, color=colour, ls=kind, lw=2.2, alpha=0.9, label=f"rule: {verdict.rule}", zorder=3)
    if any(line.missed for line in lines):
        ax.axhspan(high, ax.get_ylim()[1], color=axes.ink(), alpha=0.06, lw=0)
        middle = sqrt(shelves[0] * shelves[-1])
        axes.set_ticks(ax.yaxis, [*(t for t in ticks if t < high / 1.05), middle], names={middle: "not\nreached"})
    ax.set_xlabel("learning rate")
    ax.set_ylabel("optimizer steps to target (median over seeds)")
    ax.set_title(fill(f"Steps to {_target(study)} against learning rate", TITLE_COLUMNS))
    _key(
        ax, ("o", "best LR of the grid"), *([("D", "best LR at the grid's edge")] if any(x.edge for x in lines) else [])
    )
    axes.legend_below(ax, columns=4)
    return ax


def _shelves(low: float, high: float, lines: tuple[drawn.LrLine, ...]) -> list[float]:
    """Heights above the data, one per batch size, for learning rates that did not reach the target."""
    decade = (high / low) ** 0.03
    return [high * decade ** (1 + i) for i, _ in enumerate(lines)]


def plot_noise(study: StudyAnalysis, ax: Axes | None = None) -> Axes:
    """Gradient noise scale over training; the swept B_crit beside it is another quantity and drawn as such."""
    ax = ax or axes.new_axes()
    lines, fit = drawn.noise_lines(study), study.fit
    heights = [v for x in lines for _, *values in x.resolved for v in values if 0 < v < inf]
    heights += [low for x in lines for _, low in x.bounds]
    when = [w for x in lines for w in (*(r[0] for r in x.resolved), *(b[0] for b in x.bounds), *x.unknown)]
    if not when:
        return _empty(ax, "No noise scale was measured.")
    swept = fit is not None and fit.status != "not_identified" and drawn.is_drawable(fit)
    y_limits = axes.padded([*heights, *([fit.b_crit] if fit and swept else [])] or [1.0, 10.0], 0.1)
    x_limits = axes.padded(when)
    axes.log_axis(ax, "x", x_limits, axes.log_ticks(*x_limits))
    axes.log_axis(ax, "y", y_limits, axes.log_ticks(*y_limits))
    for i, (line, colour) in enumerate(zip(lines, axes.batch_colours(len(lines)), strict=True)):
        # Sideways by 1.5 % of the axis' decades each, so that the whiskers of one window stand apart.
        _draw_noise(ax, line, colour, y_limits, (x_limits[1] / x_limits[0]) ** (0.012 * (i - (len(lines) - 1) / 2)))
    if fit and swept:
        low, high = (float(np.clip(v, *y_limits)) for v in fit.b_crit_interval)
        ax.axhspan(low, high, facecolor=GREEN, alpha=0.12, hatch="///", edgecolor=GREEN, lw=0)
        ax.axhline(fit.b_crit, color=GREEN, lw=1.2, ls="--")
    ax.set_xlabel(f"{unit_plural(study.unit)} seen")
    ax.set_ylabel(f"gradient noise scale [{unit_plural(study.unit)}]")
    ax.set_title("Gradient noise scale over training")
    handles, _ = ax.get_legend_handles_labels()
    if any(x.bounds for x in lines):
        handles.append(
            Line2D([], [], ls="", marker="^", mfc="none", mec=axes.ink(), label="unresolved: at least so much")
        )
    if any(x.unknown for x in lines):
        handles.append(Line2D([], [], ls="", marker="s", mfc="none", mec=axes.ink(), label="unresolved: no bound"))
    if fit and swept:
        name = f"a different quantity, the sweep's\n{_b_crit(fit)}"
        handles.append(Patch(facecolor=GREEN, alpha=0.3, hatch="///", label=name))
    axes.legend_below(ax, handles)
    return ax


def _draw_noise(
    ax: Axes, line: drawn.NoiseLine, colour: ColorType, y_limits: tuple[float, float], shift: float
) -> None:
    """One batch size: resolved windows with whiskers, unresolved ones hollow at their lower bound or at the bottom."""
    if line.resolved:
        x, value, low, high = np.array(line.resolved).T
        low, high = np.clip(low, *y_limits), np.clip(high, *y_limits)
        label = f"at B = {number(line.batch_size, 6)}, with {100 * line.confidence:.0f} % interval"
        look: dict[str, Any] = {"color": colour, "marker": "o", "ms": 5, "lw": 1.4, "capsize": 3}
        ax.errorbar(x * shift, value, yerr=(value - low, high - value), label=label, **look)
    hollow: dict[str, Any] = {"ls": "", "mfc": "none", "mec": colour}
    ax.plot([x * shift for x, _ in line.bounds], [low for _, low in line.bounds], marker="^", ms=8, **hollow)
    at_bottom = ax.get_xaxis_transform()
    ax.plot(
        [x * shift for x in line.unknown], [0.03] * len(line.unknown), marker="s", ms=6, transform=at_bottom, **hollow
    )


def _columns(pairs: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    rows = list(pairs)
    return [x for x, _ in rows], [y for _, y in rows]


def _arrays(pairs: drawn.Pairs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    table = np.array(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _key(ax: Axes, *entries: tuple[str, str]) -> None:
    """Legend entries for marks that are drawn in many colours."""
    for marker, label in entries:
        ax.plot([], [], ls="", marker=marker, ms=8, mfc="none", mec=axes.ink(), label=label)


def _target(study: StudyAnalysis) -> str:
    """Metric and target; a dollar sign would open mathematics."""
    return f"{study.metric} {sign(study.direction)} {number(study.target, 6)}".replace("$", r"\$")


def _title(ax: Axes, title: str, study: StudyAnalysis) -> None:
    """Title, and under it in another colour what keeps the curve from being trusted."""
    fit = study.fit
    if fit is None:
        caveat = f"NO CURVE: {study.fit_reason}"
    elif fit.status != "ok":
        caveat = f"{NOT_OK[fit.status]}: {fit.reason}"
    else:
        ax.set_title(fill(title, TITLE_COLUMNS))
        return
    caveat = caveat.replace("$", r"\$")
    ax.set_title(f"{fill(title, TITLE_COLUMNS)}\n{fill(caveat, TITLE_COLUMNS)}", color=VERMILION)


def _empty(ax: Axes, message: str) -> Axes:
    ax.set_axis_off()
    ax.text(0.5, 0.5, message, ha="center", va="center", transform=ax.transAxes)
    return ax


Plot = Callable[[StudyAnalysis], Axes]
PLOTS: dict[str, tuple[Plot, Callable[[StudyAnalysis], bool]]] = {
    "steps_to_target": (plot_steps, lambda study: bool(study.runs)),
    "trade_off": (plot_trade_off, lambda study: bool(study.points)),
    "learning_rate": (plot_learning_rates, drawn.has_learning_rates),
    "noise_scale": (plot_noise, lambda study: bool(drawn.noise_lines(study))),
}
"""Name -> how it is drawn, and whether the study holds anything to draw."""


def figures(study: StudyAnalysis, *, dark: bool = False) -> dict[str, Figure]:
    """Every figure for which the study holds data, by name, on light or dark paper."""
    made: dict[str, Figure] = {}
    with axes.house_style(dark=dark):
        for name, (plot, holds) in PLOTS.items():
            if holds(study):
                figure = plot(study).get_figure(root=True)
                assert figure is not None
                made[name] = figure
    return made


def draw_all(study: StudyAnalysis, directory: Path) -> dict[str, Path]:
    """Write each figure as PNG and SVG into `directory` and return name -> PNG."""
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name, figure in figures(study).items():
        written[name] = directory / f"{name}.png"
        with axes.house_style():
            figure.savefig(written[name], dpi=PNG_DPI, metadata={"Software": None})
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    return written
