"""The figures of a study. `analysis.drawn` holds their numbers, the `plot_*` modules the ink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from analysis import axes, drawn
from analysis.own_axes import Plot
from analysis.plot_curve import plot_steps, plot_trade_off
from analysis.plot_losses import has_losses, plot_losses
from analysis.plot_noise import plot_noise
from analysis.plot_rates import plot_learning_rates
from analysis.study import StudyAnalysis
from scaleexp.errors import StorageError

__all__ = [
    "PLOTS",
    "draw_all",
    "figures",
    "plot_learning_rates",
    "plot_losses",
    "plot_noise",
    "plot_steps",
    "plot_trade_off",
]

PNG_DPI = 200

PLOTS: dict[str, tuple[Plot, Callable[[StudyAnalysis], bool]]] = {
    "steps_to_target": (plot_steps, lambda study: bool(study.runs)),
    "trade_off": (plot_trade_off, lambda study: bool(study.points)),
    "learning_rate": (plot_learning_rates, drawn.has_learning_rates),
    "loss_against_lr": (plot_losses, has_losses),
    "noise_scale": (plot_noise, lambda study: bool(drawn.noise_lines(study))),
}
"""Name -> how it is drawn, and whether the study holds anything to draw."""


def figures(study: StudyAnalysis, *, dark: bool = False) -> dict[str, Figure]:
    """Every figure for which the study holds data, by name, on light or dark paper."""
    made: dict[str, Figure] = {}
    for name, (plot, holds) in PLOTS.items():
        if holds(study):
            figure = plot(study, dark=dark).get_figure(root=True)
            assert figure is not None
            made[name] = figure
    return made


def draw_all(study: StudyAnalysis, directory: Path) -> dict[str, Path]:
    """Write each figure as PNG and SVG into `directory` and return name -> PNG; the same study gives the same bytes.

    Raises:
        StorageError: a file cannot be written.
    """
    drawings = figures(study)
    written = {name: directory / f"{name}.png" for name in drawings}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with axes.house_style():
            for name, figure in drawings.items():
                figure.savefig(written[name], dpi=PNG_DPI, metadata={"Software": None})
                figure.savefig(written[name].with_suffix(".svg"), metadata={"Date": None})
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write figures to {directory}: {reason}. Choose a writable directory.") from error
    return written
