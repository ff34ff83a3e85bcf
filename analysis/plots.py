"""The figures of a study. `analysis.drawn` and `analysis.further` hold their numbers, the `plot_*` modules the ink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from analysis import axes, drawn
from analysis.further import Further, further
from analysis.own_axes import Plot
from analysis.plot_curve import plot_steps, plot_trade_off
from analysis.plot_losses import has_losses, plot_losses
from analysis.plot_lr_optimum import plot_lr_optimum
from analysis.plot_near_target import has_distances, has_gaps, has_gradients, plot_distances, plot_gap, plot_gradients
from analysis.plot_noise import plot_noise
from analysis.plot_rates import plot_learning_rates
from analysis.plot_speed import has_times, plot_throughput, plot_time
from analysis.plot_targets import plot_targets
from analysis.study import StudyAnalysis
from analysis.target_ladder import has_ladder
from scaleexp.errors import StorageError

__all__ = [
    "FURTHER_PLOTS",
    "PLOTS",
    "draw_all",
    "figures",
    "plot_distances",
    "plot_gap",
    "plot_gradients",
    "plot_learning_rates",
    "plot_losses",
    "plot_lr_optimum",
    "plot_noise",
    "plot_steps",
    "plot_targets",
    "plot_throughput",
    "plot_time",
    "plot_trade_off",
]

PNG_DPI = 200

PLOTS: dict[str, tuple[Plot[StudyAnalysis], Callable[[StudyAnalysis], bool]]] = {
    "steps_to_target": (plot_steps, lambda study: bool(study.runs)),
    "trade_off": (plot_trade_off, lambda study: bool(study.points)),
    "learning_rate": (plot_learning_rates, drawn.has_learning_rates),
    "lr_optimum": (plot_lr_optimum, drawn.has_learning_rates),
    "loss_against_lr": (plot_losses, has_losses),
    "noise_scale": (plot_noise, lambda study: bool(drawn.noise_lines(study))),
}
"""Name -> how it is drawn, and whether the study holds anything to draw."""

FURTHER_PLOTS: dict[str, tuple[Plot[Further], Callable[[Further], bool]]] = {
    "b_crit_against_target": (plot_targets, lambda data: has_ladder(data.rungs)),
    "generalisation_gap": (plot_gap, has_gaps),
    "gradient_norm": (plot_gradients, has_gradients),
    "distance_from_init": (plot_distances, has_distances),
    "throughput": (plot_throughput, lambda data: bool(data.speeds)),
    "time_to_target": (plot_time, has_times),
}
"""The same for figures that rest on more than the study's answer."""


def figures(study: StudyAnalysis, *, dark: bool = False, data: Further | None = None) -> dict[str, Figure]:
    """Every figure for which the study holds data, by name, on light or dark paper.

    Args:
        study: what to draw.
        dark: for dark paper.
        data: `further(study)`, where the caller has it already.
    """
    data = data or further(study)
    drawn_on = {name: plot(study, dark=dark) for name, (plot, holds) in PLOTS.items() if holds(study)}
    drawn_on |= {name: plot(data, dark=dark) for name, (plot, holds) in FURTHER_PLOTS.items() if holds(data)}
    made: dict[str, Figure] = {}
    for name, ax in drawn_on.items():
        figure = ax.get_figure(root=True)
        assert figure is not None
        made[name] = figure
    return made


def draw_all(study: StudyAnalysis, directory: Path) -> dict[str, Path]:
    """Write each figure as PNG and SVG into `directory` and return name -> PNG; the same study gives the same bytes.

    Raises:
        StorageError: a file cannot be written.
    """
    return save_figures(figures(study), directory)


def save_figures(drawings: Mapping[str, Figure], directory: Path) -> dict[str, Path]:
    """Write figures as PNG and SVG into `directory` and return name -> PNG.

    Raises:
        StorageError: a file cannot be written.
    """
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
