"""What the figures of a report show beside the answer comes back from logs that were written with it."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from itertools import combinations
from math import isnan, nan

import numpy as np
import pytest

from analysis import plots
from analysis.cli import main
from analysis.figure_data import Sheet, csv_text, sheets
from analysis.further import Further, further
from analysis.histories import histories
from analysis.near_target import TrueGradient, distance
from analysis.pictures import pictures
from analysis.plot_speed import plot_throughput
from analysis.plot_targets import plot_targets
from analysis.run_rows import run_rows
from analysis.runs_table import runs_table
from analysis.sources.curves import read_curves
from analysis.speed import seconds_to
from analysis.study import StudyAnalysis, analyse
from analysis.target_ladder import Rung, bounds, has_ladder
from scaleexp.errors import ConfigError
from tests import study_factory
from tests.analysis_examples import curve_fit, ok
from tests.study_factory import TR_SIGMA, write_study
from tests.test_plots import visible_texts

B_CRIT, S_MIN, B_SIMPLE = 256.0, 50.0, 100.0


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> StudyAnalysis:
    """A study whose metric is a held-out loss, 0.01 below the training loss at every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_factory, "METRIC", "val_loss")
        return analyse(
            write_study(
                tmp_path_factory.mktemp("further") / "study",
                b_crit=B_CRIT,
                s_min=S_MIN,
                b_simple=B_SIMPLE,
                noise=0.02,
                noise_cadence=1,
                targets=(2.0, 1.5, 1.0),
                distances=True,
            )
        )


@pytest.fixture(scope="module")
def data(read: StudyAnalysis) -> Further:
    return further(read)


def step_s(batch_size: int) -> float:
    return 0.002 + 1e-6 * batch_size


def test_every_run_has_one_row_with_what_the_log_says_of_it(read, data):
    logs = {t.key: t for t in read.log.trials}
    assert sorted(r.key for r in data.rows) == sorted(logs)
    for r in data.rows:
        commit = logs[r.key].commit
        assert (r.steps, r.samples, r.status) == (commit["step"], commit["samples"], commit["status"])
        again = 1.5 if logs[r.key].facts["realisation"] else 1.0
        assert r.seconds == pytest.approx(r.steps * step_s(r.batch_size) * again)
    assert {r.realised for r in data.rows} == {"packed", "ddp (ddp-2)"}
    assert [(r.batch_size, r.lr, r.seed) for r in data.rows] == sorted((r.batch_size, r.lr, r.seed) for r in data.rows)


def test_a_run_that_missed_the_target_has_no_samples_to_it(read, data):
    missed = {r.key for r in read.runs if not r.reached}
    assert missed
    assert all(isnan(r.to_target) == (r.key in missed) for r in data.rows if "@" not in r.key)
    table = runs_table(read, data.rows)
    assert {len(row) for row in (*table.rows, *table.keys)} == {len(table.head)}
    at = table.head.index("examples to target")
    assert sum(keys[at] is None for keys in table.keys) == sum(row[at] == "–" for row in table.rows) >= len(missed)


def test_time_to_target_is_steps_times_step_time_and_throughput_is_batch_over_it(read, data):
    steps = {r.key: r.steps for r in read.runs if r.reached}
    assert len([s for s in data.speeds if not isnan(s.seconds)]) >= len(steps)
    for s in data.speeds:
        again = 1.5 if "@" in s.key else 1.0
        assert s.samples_per_s == pytest.approx(s.batch_size / step_s(s.batch_size) / again)
        expected = steps.get(s.key.partition("@")[0], nan) * step_s(s.batch_size) * again
        assert s.seconds == pytest.approx(expected, nan_ok=True)
    assert {s.series for s in data.speeds} == {"packed on synthetic", "ddp on synthetic"}


def test_a_target_beyond_the_last_step_has_no_time():
    samples, seconds = np.array([10.0, 20.0]), np.array([1.0, 1.0])
    assert seconds_to(samples, seconds, 5.0) == 0.5
    assert isnan(seconds_to(samples, seconds, 21.0))
    assert isnan(seconds_to(samples, seconds, nan))
    assert isnan(seconds_to(np.empty(0), np.empty(0), 5.0))


def test_the_gap_compares_the_same_model_on_both_losses(data):
    # A training loss that is taken after its update instead would be off by the fall of one step, 0.005 and more.
    assert data.held_out == "val_loss"
    assert {n.batch_size for n in data.near} == {16, 64, 256, 1024}
    np.testing.assert_allclose([n.gap for n in data.near], -0.01, atol=2e-4)


def test_the_gradient_of_a_batch_is_the_true_one_and_noise_that_falls_with_the_batch(data):
    # Over the last third before the crossing |G|^2 = tr / b_simple (4 - 3 x) has its mean at x = 5 / 6.
    truth = TR_SIGMA / B_SIMPLE * 1.5
    assert [g.batch_size for g in data.gradients if g.resolved] == [16, 64, 256, 1024]
    np.testing.assert_allclose([g.g_sq for g in data.gradients], truth, rtol=0.15)
    for batch in (16, 64, 256, 1024):
        measured = np.mean([n.grad_sq for n in data.near if n.batch_size == batch])
        assert measured == pytest.approx(truth + TR_SIGMA / batch, rel=0.1)


def test_the_distance_from_the_initialisation_is_that_at_the_crossing(data):
    crossing = {r.key: r.samples for r in data.study.runs}
    for n in data.near:
        assert n.distance == pytest.approx(1e-4 * crossing[n.key] * n.batch_size**-0.25, rel=1e-9)
    head, rows = (
        sheets(data.study, data)["distance_from_init"].head,
        sheets(data.study, data)["distance_from_init"].rows,
    )
    assert head[-1] == "distance_from_init"
    assert [row[-1] for row in rows] == [n.distance for n in data.near]


def test_a_distance_that_was_logged_from_half_way_on_is_none_before(read):
    history = histories(read.log)[next(r.key for r in read.runs if r.reached)]
    samples, values = history.evals["distance_from_init"]
    late = replace(history, evals={"distance_from_init": (samples[5:], values[5:])})
    assert isnan(distance(late, samples[4] - 1.0))
    assert distance(late, samples[6]) == values[6]
    assert isnan(distance(replace(history, evals={}), samples[6]))


def test_the_distance_is_neither_a_target_nor_a_held_out_loss(read, data, tmp_path):
    with pytest.raises(ConfigError, match="no target for the metric 'distance_from_init'; it has one for val_loss"):
        analyse(read.log, metric="distance_from_init")
    assert data.held_out == "val_loss"
    tables = tmp_path / "tables"
    assert main(["export", str(read.log.path), "--to", "csv", "--out", str(tables)]) == 0
    assert read_curves(tables / "evals.csv", unit="example", run_column="trial_id").metric == "val_loss"


def test_easier_targets_are_read_off_the_same_runs_from_the_easiest_to_the_hardest(read, data):
    targets = [r.target for r in data.rungs]
    assert targets == sorted(targets, reverse=True)
    assert targets[-1] == 1.0
    assert [r.target for r in data.rungs if r.planned] == [2.0, 1.5, 1.0]
    assert len(targets) > 4
    assert data.rungs[-1].fit is read.fit
    # This study's easier targets need fewer steps at every batch alike, which leaves B_crit where it is.
    for rung in data.rungs:
        assert rung.fit.b_crit == pytest.approx(B_CRIT, rel=0.15)


def test_a_misfit_or_an_interval_without_ends_says_nothing_of_b_crit():
    def rung(**changes):
        return Rung(target=1.0, planned=True, batches=8, fit=curve_fit(**changes))

    assert bounds(rung()) == (144.0, 225.0)
    assert bounds(rung(status="misfit")) is None
    assert bounds(rung(b_crit_interval=(0.0, np.inf), status="not_identified")) is None
    assert bounds(rung(b_crit_interval=(75.0, np.inf), status="not_identified")) == (75.0, np.inf)
    assert not has_ladder([rung(), rung(status="misfit")])
    assert has_ladder([rung(), rung()])


def test_a_target_that_is_not_identified_is_drawn_as_bounds_without_a_value(data):
    open_ = curve_fit(b_crit=951.0, b_crit_interval=(75.0, np.inf), status="not_identified")
    hurt = replace(data, rungs=(replace(data.rungs[0], fit=open_), *data.rungs[1:]))
    ax = plot_targets(hurt)
    heights = [y for x in ax.get_lines() for y in np.atleast_1d(x.get_ydata())]
    assert 951.0 not in heights
    assert 75.0 in heights
    assert sum(x.get_marker() == "^" for x in ax.get_lines()) == 1  # the side without an end
    (row,) = [r for r in sheets(hurt.study, hurt)["b_crit_against_target"].rows if r[0] == hurt.rungs[0].target]
    assert row[3:] == (None, 75.0, np.inf, "not_identified")


def test_a_study_that_logged_nothing_of_this_gets_no_axes():
    example = ok()
    nothing = further(example)
    assert not nothing.speeds
    assert not nothing.gradients
    assert plots.figures(example, data=nothing).keys() == plots.PLOTS.keys()


def test_medians_of_machines_are_where_the_numbers_are(data):
    lines = {str(x.get_label()): np.array(x.get_data()) for x in plot_throughput(data).get_lines()}
    batches, rates = lines["packed on synthetic: median"]
    np.testing.assert_allclose(rates, [b / step_s(b) for b in batches])
    assert lines["ddp on synthetic: median"].shape == (2, 1)


def test_a_gradient_lost_in_the_noise_is_in_the_numbers_and_not_in_the_figure(data):
    lost = replace(data, gradients=(TrueGradient(batch_size=16, g_sq=-1.0, resolved=False),))
    labels = [x.get_label() for x in plots.plot_gradients(lost).get_lines()]
    assert not [label for label in labels if "unbiased" in str(label)]
    assert ("unresolved", 16, None, -1.0) in sheets(lost.study, lost)["gradient_norm"].rows


@pytest.mark.parametrize("name", plots.FURTHER_PLOTS)
@pytest.mark.parametrize("dark", [False, True])
def test_no_label_of_these_figures_is_cut_off_or_lies_on_another(data, name, dark):
    figure = plots.FURTHER_PLOTS[name][0](data, dark=dark).get_figure(root=True)
    figure.draw_without_rendering()
    boxes = [(t.get_text(), t.get_window_extent()) for t in visible_texts(figure) if t.get_visible() and t.get_text()]
    assert len(boxes) > 6
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{name}: {text!r} is cut off"
    for (text, box), (other, other_box) in combinations(boxes, 2):
        assert not box.overlaps(other_box), f"{name}: {text!r} lies on {other!r}"


def test_numbers_survive_the_way_through_a_csv(read, data):
    for name, sheet in sheets(read, data).items():
        head, *rows = list(csv.reader(StringIO(csv_text(sheet), newline="")))
        assert tuple(head) == sheet.head
        for cells, row in zip(rows, sheet.rows, strict=True):
            for cell, value in zip(cells, row, strict=True):
                if isinstance(value, str):
                    assert cell == value
                elif value is None or isnan(value):
                    assert cell == "", name
                else:
                    assert float(cell) == value, name


def test_a_study_with_everything_has_every_picture_and_each_says_what_it_shows(read, data):
    made = pictures(read, data)
    assert [p.number for p in made.values()] == list(range(1, 13))
    assert all(len(p.alt) > 60 for p in made.values())
    assert len({p.alt for p in made.values()}) == len(made)


def test_rows_come_from_the_log_and_not_from_the_analysis_of_it(read):
    assert run_rows(read, {}) == ()
    assert csv_text(Sheet(head=("a",), rows=())) == "a\r\n"


def test_the_power_law_of_the_learning_rate_runs_through_the_optima(read):
    from analysis.drawn import lr_law

    law, path = lr_law(read)
    assert law.exponent == pytest.approx(0.5, abs=0.1)  # the study's optima grow with the root of the batch
    for batch, lr in path:
        assert lr == pytest.approx(0.1 * (batch / 256) ** 0.5, rel=0.15)
    ax = plots.plot_lr_optimum(read)
    (line,) = [x for x in ax.get_lines() if str(x.get_label()).startswith("fit:")]
    np.testing.assert_array_equal(np.array(line.get_data()).T, path)
    edges = tuple(replace(p, lr_optimum=None, lr_edge="low") for p in read.points)
    assert lr_law(replace(read, points=edges)) is None
    labels = [str(x.get_label()) for x in plots.plot_lr_optimum(replace(read, points=edges)).get_lines()]
    assert not [x for x in labels if x.startswith("fit:")]
