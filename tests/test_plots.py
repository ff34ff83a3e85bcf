"""Figures show the numbers of the study, say when not to trust them, and cut no label off."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from math import inf, log
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import axes, drawn, plots
from scaleexp.errors import StorageError
from tests.analysis_examples import B_CRIT, BATCHES, CASES, S_MIN, WORKER_BATCH, curve_fit, not_identified, ok, study

NOT_OK = {"misfit", "extrapolated", "not_identified", "perfect_scaling", "no_fit", "no_points"}


def line(ax: Axes, label: str) -> np.ndarray:
    """Data of the one line whose label starts so, shape (2, N)."""
    (found,) = [x for x in ax.get_lines() if str(x.get_label()).startswith(label)]
    return np.asarray(found.get_data(), dtype=float)


def marks(ax: Axes, label: str) -> np.ndarray:
    (found,) = [x for x in ax.collections if x.get_label() == label]
    return np.asarray(found.get_offsets(), dtype=float)


def legend(ax: Axes) -> str:
    found = ax.get_legend()
    return "\n".join(t.get_text() for t in found.get_texts()) if found else ""


def test_every_point_of_the_drawn_curve_lies_on_the_hyperbola():
    curve = drawn.fitted_curve(ok())
    steps, samples = np.array(curve.trade_off).T
    batches = np.array(curve.steps)[:, 0]
    np.testing.assert_allclose((steps / S_MIN - 1) * (samples / (S_MIN * B_CRIT) - 1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(samples / steps, batches, rtol=1e-12)


def test_the_curve_reaches_b_crit_when_it_is_extrapolated_but_not_absurdly_far():
    near = drawn.fitted_curve(CASES["extrapolated"]())
    assert near.steps[-1][0] > B_CRIT > near.measured[1] == 64
    far = drawn.fitted_curve(replace(CASES["extrapolated"](), fit=curve_fit(b_crit=1e9, status="not_identified")))
    assert far.steps[-1][0] < 100


def test_each_run_at_the_best_lr_is_drawn_once_and_by_what_became_of_it():
    example = CASES["censored"]()
    data = drawn.steps_figure(example)
    assert len(data.censored) == len(data.diverged) == 1
    assert data.never == ((BATCHES[-1], 70.0),)
    shown = [*data.reached, *data.outliers, *data.censored, *data.diverged]
    assert sorted(shown) == sorted((r.batch_size, r.steps) for p in example.points for r in p.runs)


def test_runs_at_other_learning_rates_that_reached_are_drawn_behind_the_others():
    full = ok()
    other = replace(full.runs[0], key="other", lr=2 * full.runs[0].lr, samples=3 * full.runs[0].samples)
    lost = replace(other, key="lost", reached=False, status="limit")
    example = replace(full, runs=(*full.runs, other, lost))
    assert drawn.steps_figure(example).others == ((other.batch_size, other.steps),)
    ax = plots.plot_steps(example)
    np.testing.assert_allclose(marks(ax, "at another learning rate"), [(other.batch_size, other.steps)])
    order = {str(c.get_label()): c.get_zorder() for c in ax.collections}
    assert order["at another learning rate"] < order["run that reached the target"]
    assert "at another learning rate" not in legend(plots.plot_steps(full))


def test_an_outlier_is_told_from_the_runs_of_the_aggregate():
    full = ok()
    slow = replace(full.points[0].runs[0], samples=full.points[0].runs[1].samples * 11)
    hurt = replace(full.points[0], runs=(slow, *full.points[0].runs[1:]))
    data = drawn.steps_figure(replace(full, points=(hurt, *full.points[1:])))
    assert data.outliers == ((slow.batch_size, slow.steps),)
    assert data.outliers[0] not in data.reached


def test_a_diverged_run_is_no_bound_on_a_batch_that_never_reached():
    example = CASES["no_points"]()
    diverged = tuple(replace(r, status="diverged", samples=r.samples * 2) for r in example.runs[:1])
    data = drawn.steps_figure(replace(example, runs=(*diverged, *example.runs[1:])))
    assert data.never == ((16, 5000.0), (64, 1250.0))


def test_ink_is_where_the_numbers_are():
    example = ok()
    ax = plots.plot_steps(example)
    b, s = line(ax, "perfect scaling")
    np.testing.assert_allclose(s * b, S_MIN * B_CRIT)
    assert set(line(ax, r"$S_\mathrm{min}$")[1]) == {S_MIN}
    assert set(line(ax, r"$B_\mathrm{crit}$")[0]) == {B_CRIT}
    assert "180 (90 %: 144 to 225)" in legend(ax)
    np.testing.assert_allclose(marks(ax, "aggregate over seeds"), [(p.batch_size, p.steps) for p in example.points])
    b, s = line(ax, "fit:")
    assert (b.min(), b.max()) == pytest.approx((BATCHES[0], BATCHES[-1]), rel=0.05)
    np.testing.assert_allclose(s, S_MIN * (1 + B_CRIT / b))
    star = line(plots.plot_trade_off(example), r"$B_\mathrm{crit}$")
    np.testing.assert_allclose(star[:, 0], [2 * S_MIN, 2 * S_MIN * B_CRIT])


def test_workers_are_shown_only_where_batch_size_counts_them():
    ax = plots.plot_steps(ok())
    (top,) = ax.child_axes
    np.testing.assert_allclose(top.get_xticks(), np.array(BATCHES) / WORKER_BATCH)
    full = ok()
    odd = replace(full, runs=(replace(full.runs[0], workers=2), *full.runs[1:]))
    assert drawn.constant_worker_batch(odd) is None
    assert plots.plot_steps(odd).child_axes == []


@pytest.mark.parametrize("case", CASES)
def test_a_title_says_when_the_curve_is_not_to_be_trusted(case):
    example = CASES[case]()
    for plot in (plots.plot_steps, plots.plot_trade_off):
        if plot is plots.plot_trade_off and not example.points:
            continue
        title = plot(example).get_title(loc="left")
        reason = example.fit.reason if example.fit else example.fit_reason
        assert (reason in title.replace("\n", " ")) == (case in NOT_OK)


def test_a_b_crit_that_the_data_do_not_identify_gets_neither_line_nor_value():
    ax = plots.plot_steps(not_identified())
    assert not [x for x in ax.get_lines() if "crit" in str(x.get_label()) and "not identified" in str(x.get_label())]
    assert "not identified (90 %: 75 or more)" in legend(ax)
    for text in (legend(ax), legend(plots.plot_trade_off(not_identified()))):
        assert "950" not in text


@pytest.mark.parametrize("status", ["ok", "misfit", "extrapolated", "not_identified"])
def test_a_solid_line_is_a_curve_that_may_be_trusted(status):
    ax = plots.plot_steps(study(fit=curve_fit(status=status)))
    (fit,) = [x for x in ax.get_lines() if "(1 +" in str(x.get_label())]
    assert (fit.get_linestyle() == "-") == (status == "ok")


def test_learning_rates_that_missed_the_target_are_marked_above_all_steps():
    example = ok()
    lines = drawn.lr_lines(example)
    assert sum(len(x.missed) for x in lines) == sum(s == inf for p in example.points for _, s, _, _ in p.lr_curve) > 0
    ax = plots.plot_learning_rates(example)
    highest = max(s for x in lines for _, s in x.reached)
    crosses = [x for x in ax.get_lines() if x.get_marker() == "x"]
    assert all(y > highest for x in crosses for y in x.get_ydata())
    assert "not\nreached" in [t.get_text() for t in ax.get_yticklabels()]


def test_each_rule_runs_through_its_own_points():
    example = ok()
    ax = plots.plot_learning_rates(example)
    for verdict in example.rules:
        lr, steps = line(ax, f"rule: {verdict.rule}")
        np.testing.assert_allclose(lr, [p.lr for p in verdict.points])
        met = [(i, p.steps) for i, p in enumerate(verdict.points) if p.steps < inf]
        np.testing.assert_allclose([steps[i] for i, _ in met], [s for _, s in met])


def test_the_edge_of_the_grid_has_its_own_mark():
    marked = [x.get_marker() for x in plots.plot_learning_rates(CASES["lr_edge"]()).get_lines()]
    assert marked.count("D") == 3  # lowest batch, highest batch, legend
    assert "D" not in [x.get_marker() for x in plots.plot_learning_rates(ok()).get_lines()]


def test_the_metric_against_lr_shows_each_median_and_marks_what_diverged():
    example = ok()
    ax = plots.plot_losses(example)
    top = max(p.value for c in example.loss_curves for p in c.points if p.seeds)
    for curve in example.loss_curves:
        lr, value = line(ax, f"B = {curve.batch_size:,} (n = {curve.samples:,.0f})")
        kept = [(p.lr, p.value) for p in curve.points if p.seeds]
        np.testing.assert_allclose(np.transpose([lr, value]), kept)
    crosses = [x for x in ax.get_lines() if x.get_marker() == "x"]
    assert sum(len(x.get_xdata()) for x in crosses) == len(example.loss_curves)
    assert all(y > top for x in crosses for y in x.get_ydata())
    assert set(line(ax, "target")[1]) == {example.target}
    for verdict in example.rules:
        assert len(line(ax, f"rule: {verdict.rule}")[0]) == len(verdict.points)


def test_values_that_are_not_positive_get_a_linear_axis_and_a_shelf_all_the_same():
    full = ok()
    shifted = tuple(
        replace(c, points=tuple(replace(p, value=p.value - 1.0) for p in c.points)) for c in full.loss_curves
    )
    ax = plots.plot_losses(replace(full, loss_curves=shifted, direction="max"))
    assert ax.get_yscale() == "linear"
    lowest = min(p.value for c in shifted for p in c.points if p.seeds)
    crosses = [x for x in ax.get_lines() if x.get_marker() == "x"]
    assert all(ax.get_ylim()[0] < y < lowest for x in crosses for y in x.get_ydata())  # the worse end of a maximum


def test_unresolved_windows_are_bounds_and_never_values():
    for series, noise in zip(ok().noise_series, drawn.noise_lines(ok()), strict=True):
        resolved = [w.b_simple for w in series.windows if w.status == "ok"]
        assert [value for _, value, _, _ in noise.resolved] == resolved
        assert len(noise.resolved) + len(noise.bounds) + len(noise.unknown) == len(series.windows)
        assert len(noise.bounds) == len(noise.unknown) == 1


def test_b_crit_is_drawn_beside_the_noise_scale_as_another_quantity_or_not_at_all():
    assert "different quantity" in legend(plots.plot_noise(ok()))
    assert "quantity" not in legend(plots.plot_noise(not_identified()))


def test_a_study_draws_what_it_holds():
    every = {"steps_to_target", "trade_off", "learning_rate", "lr_optimum", "loss_against_lr", "noise_scale"}
    assert plots.figures(ok()).keys() == every
    assert plots.figures(CASES["no_noise"]()).keys() == every - {"noise_scale"}
    assert plots.figures(CASES["no_points"]()).keys() == {"steps_to_target", "loss_against_lr"}
    points_only = replace(ok(), points=tuple(replace(p, lr_curve=((0.0, p.steps, 3, 3),)) for p in ok().points))
    assert plots.figures(points_only).keys() == every - {"learning_rate", "lr_optimum"}


def visible_texts(figure: Figure):
    for ax in (a for top in figure.axes for a in (top, *top.child_axes)):
        yield from (t for axis in (ax.xaxis, ax.yaxis) for t in (*ticks_inside(axis), axis.label))
        yield from (*ax.texts, ax.title, ax._left_title, ax._right_title)
        if ax.get_legend():
            yield from ax.get_legend().get_texts()


def ticks_inside(axis):
    low, high = sorted(axis.get_view_interval())
    return [
        t.label2 if t.label2.get_visible() else t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high
    ]


@pytest.mark.parametrize("case", CASES)
def test_no_label_is_cut_off_or_lies_on_another(case):
    for name, figure in plots.figures(CASES[case]()).items():
        figure.draw_without_rendering()
        texts = [t for t in visible_texts(figure) if t.get_visible() and t.get_text()]
        assert len(texts) > 8
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
        for text, box in boxes:
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert inside, f"{name}: {text!r} is cut off"
        for (text, box), (other, other_box) in combinations(boxes, 2):
            assert not box.overlaps(other_box), f"{name}: {text!r} lies on {other!r}"


def test_metric_names_are_text_and_not_mathematics():
    strange = study(metric="cost $x_{")
    for figure in plots.figures(strange).values():
        figure.draw_without_rendering()


def test_drawing_leaves_no_trace_in_global_settings(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.draw_all(ok(), tmp_path)
    plots.figures(ok(), dark=True)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("dark", [False, True])
def test_ink_stands_out_from_the_paper(dark):
    for figure in plots.figures(ok(), dark=dark).values():
        paper = np.mean(matplotlib.colors.to_rgb(figure.get_facecolor()))
        figure.draw_without_rendering()
        inks = [np.mean(matplotlib.colors.to_rgb(t.get_color())) for t in figure.axes[0].get_xticklabels()]
        assert all((ink > paper) == dark and abs(ink - paper) > 0.6 for ink in inks)


def test_files_are_png_and_svg_and_the_same_bytes_each_time(tmp_path: Path):
    first, second = plots.draw_all(ok(), tmp_path / "a"), plots.draw_all(ok(), tmp_path / "b" / "c")
    assert first.keys() == plots.PLOTS.keys()
    for name, path in first.items():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in path.with_suffix(".svg").read_bytes()[:600]
        for suffix in (".png", ".svg"):
            assert path.with_suffix(suffix).read_bytes() == second[name].with_suffix(suffix).read_bytes()


def test_a_place_that_cannot_be_drawn_in_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write figures to .*file"):
        plots.draw_all(CASES["no_points"](), tmp_path / "file")


def test_axes_that_are_passed_in_are_drawn_on():
    mine = Figure(figsize=(12, 10)).subplots(2, 2).ravel()
    for ax, plot in zip(
        mine, (plots.plot_steps, plots.plot_trade_off, plots.plot_learning_rates, plots.plot_noise), strict=True
    ):
        assert plot(ok(), ax=ax) is ax
        assert ax.get_xlabel()


def test_figures_need_no_window_and_no_training_library():
    code = (
        "import sys, analysis.plots, analysis.report;"
        "print([m for m in ('torch', 'ray', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.floats(-6, 9), st.floats(0.05, 9))
def test_ticks_are_few_round_and_inside(start, decades):
    low, high = 10.0**start, 10.0 ** (start + decades)
    ticks = axes.log_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0] <= ticks[-1] <= high


@given(st.lists(st.integers(0, 16), min_size=1, max_size=17, unique=True), st.floats(1.0, 40.0))
def test_batch_ticks_stay_apart(powers, margin):
    measured = sorted(2.0**p for p in powers)
    low, high = measured[0] / margin, measured[-1] * margin * 1.01
    ticks = axes.batch_ticks(measured, low, high, most=9)
    assert 1 <= len(ticks) <= 10
    assert all(low <= t <= high for t in ticks)
    assert all(log(b / a) >= 0.99 * log(high / low) / 9 for a, b in pairwise(ticks))
