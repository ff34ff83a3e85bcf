"""The words in a figure: symbols, target, B_crit as far as the data say it, doubts about the curve."""

from __future__ import annotations

from textwrap import fill

from matplotlib.axes import Axes

from analysis.axes import VERMILION
from analysis.cbs import CurveFit
from analysis.study import StudyAnalysis
from analysis.wording import brief, interval, level, number, sign

TITLE_COLUMNS = 60
B_CRIT, S_MIN, E_MIN = r"$B_\mathrm{crit}$", r"$S_\mathrm{min}$", r"$E_\mathrm{min}$"
LAW = r"$S = S_\mathrm{min}\,(1 + B_\mathrm{crit} / B)$"


def b_crit(fit: CurveFit) -> str:
    """Legend text of B_crit: its value only where the data identify it."""
    said = "not identified" if fit.status == "not_identified" else f"= {number(fit.b_crit)}{flag(fit)}"
    return f"{B_CRIT} {said} ({level(fit.confidence)}: {interval(*fit.b_crit_interval)})"


def flag(fit: CurveFit) -> str:
    """What follows a number that carries a doubt."""
    return "" if fit.status in ("ok", "not_identified") else f", {fit.status}"


def target(study: StudyAnalysis) -> str:
    """Metric and target; a dollar sign would open mathematics."""
    return f"{brief(study.metric)} {sign(study.direction)} {number(study.target, 6)}".replace("$", r"\$")


def title(ax: Axes, text: str) -> None:
    """Title over the left end of the axes, wrapped to their width."""
    ax.set_title(fill(text, TITLE_COLUMNS), loc="left")


def fit_title(ax: Axes, text: str, study: StudyAnalysis) -> None:
    """Title, and under it in another colour what keeps the curve from being trusted."""
    fit = study.fit
    if fit is None:
        caveat = f"NO CURVE: {study.fit_reason}"
    elif fit.status != "ok":
        caveat = f"{fit.status.replace('_', ' ').upper()}: {fit.reason}"
    else:
        ax.set_title(fill(text, TITLE_COLUMNS), loc="left")
        return
    caveat = caveat.replace("$", r"\$")
    ax.set_title(f"{fill(text, TITLE_COLUMNS)}\n{fill(caveat, TITLE_COLUMNS)}", color=VERMILION, loc="left")
