"""Other choices and the methods paragraph, from the command: the same runs at every target, and what was used."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

import analysis
from analysis.choices import multiverse_of, runs_at
from analysis.cli import main
from analysis.fit_methods import used_by
from analysis.fits import SweepFit, fit_sweep
from analysis.multiverse import CROSSINGS, multiverse
from analysis.multiverse_text import levels, multiverse_lines
from analysis.near_targets import neighbouring_targets, runs_of_traces
from analysis.output import schema_of
from analysis.read import load
from analysis.sources import load_sweeps
from analysis.sources.points import Columns
from analysis.sweep import pooled
from analysis.targets import runs_to_target
from tests.logged_elsewhere import evaluated, long_rows, write_csv
from tests.study_factory import write_study

SMALL: dict[str, Any] = {"noise": 0.03, "lrs_per_batch": 1, "seeds": 2, "diverged": False, "second_realisation": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("choices") / "study", b_crit=64.0, **SMALL)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run per batch: B_crit 256, and one batch that took half as long again."""
    path = tmp_path_factory.mktemp("choices") / "points.csv"
    rows = [f"{b},{5000 * (1 + b / 256) * (1.5 if b == 64 else 1.0)}" for b in (16, 64, 256, 1024, 4096)]
    path.write_text("\n".join(["batch_size,samples", *rows]))
    return path


def fitted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema_of("fit")).validate(document)
    fits: list[dict[str, Any]] = document["fits"]
    return fits


def test_a_study_is_varied_over_all_its_planned_targets(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, study, "--multiverse")
    found, planned = fit["multiverse"], load(study).plan["targets"][0]["values"]
    assert list(dict.fromkeys(row["target"] for row in found["rows"])) == planned
    assert {row["crossing"] for row in found["rows"]} == set(CROSSINGS)
    (plain,) = [
        row["batch"]
        for row in found["rows"]
        if (row["target"], row["crossing"], row["aggregate"], row["loss"], row["definition"])
        == (fit["target"], "interpolated", "robust", "linear", "b_crit")
    ]
    assert plain == pytest.approx(fit["b_crit"], rel=1e-9)
    assert found["factors"]["target"] >= 1.0


def test_a_target_that_was_asked_for_is_varied_beside_the_planned_ones(study: Path) -> None:
    found = analysis.fit(study, target=1.2, group_by="optimizer").fits[0]
    targets = {row.target for row in multiverse_of(found, [load(study)]).rows}
    assert targets == {1.2, *load(study).plan["targets"][0]["values"]}


def test_a_target_that_is_met_before_the_first_step_is_left_out_by_name(study: Path) -> None:
    log = load(study)
    (target,) = log.plan["targets"]
    easy = replace(log, plan={**log.plan, "targets": [{**target, "values": [9.0, *target["values"]]}]})
    found = multiverse_of(analysis.fit(study, group_by="optimizer").fits[0], [easy])
    assert [(target, "already met" in reason) for target, _, reason in found.left_out] == [(9.0, True)]
    assert 9.0 not in {row.target for row in found.rows}


def test_the_runs_of_a_group_at_another_target_are_its_own_and_keep_their_seeds(study: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", b_crit=256.0, rng_seed=1, **SMALL)
    logs = [load(study), load(other)]
    (pooled,) = load_sweeps(logs, Columns(group_by=("optimizer",)))
    assert pooled.target is not None
    assert runs_at(pooled, logs, pooled.target) == pooled.runs
    apart = load_sweeps(logs)
    for sweep, log in zip(apart, logs, strict=True):
        fit = fit_sweep(sweep)
        alone = multiverse_of(fit, logs)
        values = log.plan["targets"][0]["values"]
        expected = multiverse({v: runs_to_target(log, "loss", v, "min") for v in values})
        assert [row.batch for row in alone.rows] == [row.batch for row in expected.rows]


def test_a_table_is_varied_over_aggregates_losses_and_definitions(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fit,) = fitted(capsys, table, "--multiverse")
    assert {(row["target"], row["crossing"]) for row in fit["multiverse"]["rows"]} == {(None, "interpolated")}
    assert set(fit["multiverse"]["factors"]) == {"aggregate", "loss", "definition"}
    assert fit["multiverse"]["factors"]["aggregate"] == pytest.approx(1.0)
    assert fit["multiverse"]["factors"]["loss"] > 1.01


def test_neither_is_there_unless_asked_for(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, table)
    assert (fit["multiverse"], fit["methods"]) == (None, None)
    assert main(["fit", str(table)]) == 0
    said = capsys.readouterr().out
    assert "choices of the analysis" not in said
    assert "BibTeX" not in said


def test_the_table_of_choices_is_the_rows_told_by_level(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = analysis.fit(table).fits[0]
    found = multiverse_of(fit)
    (huber,) = [row for row in levels(found) if row.level == "huber"]
    values = sorted(row.batch for row in found.rows if (row.loss, row.definition) == ("huber", "b_crit"))
    assert (huber.low, huber.median, huber.high, huber.fits) == (values[0], values[1], values[-1], 3)
    assert main(["fit", str(table), "--multiverse"]) == 0
    said = capsys.readouterr().out
    assert "The loss moves it most: by up to " in said
    assert f"in {sum(row.definition == 'b_crit' for row in found.rows)} combinations." in said
    assert "overhead is 20 % over linear scaling from B = 16." in said


def test_where_no_choice_matters_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "perfect.csv"
    path.write_text("batch_size,samples\n16,13600\n64,16000\n256,25600\n1024,64000\n")
    fit = analysis.fit(path).fits[0]
    lines = multiverse_lines(multiverse_of(fit), fit)
    assert "B_crit is 256 in all of 9 combinations." in lines
    assert "None of these choices moves it." in lines


def test_what_decides_whether_there_is_a_number_moves_it_most(table: Path) -> None:
    fit = analysis.fit(table).fits[0]
    found = multiverse_of(fit)
    flat = tuple(replace(row, batch=0.0) if row.aggregate == "median" else row for row in found.rows)
    lines = multiverse_lines(replace(found, rows=flat, unbounded=7), fit)
    assert "The aggregate moves it most: by itself it makes a bounded curve flat (0) or linear (∞)." in lines
    assert "In 7 of 21 the curve is flat (0) or linear (∞)." in lines


def test_overhead_comes_with_its_other_choices(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, table, "--overhead", "0.3", "--reference-batch", "40")
    cells = {(c["delta"], c["reference_batch"]): c for c in fit["overhead"]["sensitivity"]}
    assert {reference for _, reference in cells} == {16, 40, 64, 256}
    assert {delta for delta, _ in cells} == {0.05, 0.1, 0.2, 0.3, 0.5, 1.0}
    for (delta, reference), cell in cells.items():
        assert cell["batch"] == pytest.approx((1 + delta) * reference + delta * fit["b_crit"])
    own = cells[0.3, 40]
    assert (own["batch"], own["interval"]) == (fit["overhead"]["batch"], fit["overhead"]["interval"])


def test_the_methods_of_a_study_say_how_it_was_measured(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, study, "--methods", "--multiverse", "--aggregate", "median", "--overhead", "0.3")
    text = fit["methods"]["text"]
    assert f"{fit['n_runs']} runs at {fit['n_batches']} batch sizes took to the target loss 1 were interpolated" in text
    assert "resamples of the seeds" in text
    assert "from B_ref = 16 by 30 %" in text
    assert "is the median of its runs" in text
    assert f"varied in {len(fit['multiverse']['rows'])} combinations" in text
    assert "@book{efron1982," in fit["methods"]["bibtex"]


def test_the_methods_of_a_table_claim_no_seeds_and_no_crossing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, table, "--methods")
    assert "taken as given" in fit["methods"]["text"]
    assert "resamples of the residuals" in fit["methods"]["text"]
    assert "learning rate" not in fit["methods"]["text"]
    assert "efron1982" not in fit["methods"]["bibtex"]
    assert "birge1932" not in fit["methods"]["bibtex"]


def test_costs_in_epochs_are_epochs_in_the_methods(table: Path) -> None:
    sweep = replace(analysis.load(table)[0], cost_unit="epochs")  # type: ignore[arg-type]
    assert used_by(fit_sweep(sweep)).unit == "epoch"


def test_a_scatter_that_widened_the_intervals_is_told_with_its_factor(measurements: Path) -> None:
    file = measurements / "mlperf_rcp_fixture.csv"
    names = {"batch_column": "global_batch_size", "cost_column": "to_converge", "group_by": "benchmark"}
    fits: list[SweepFit] = [f for f in analysis.fit(file, **names).fits if f.sweep.group["benchmark"] == "resnet"]  # type: ignore[arg-type]
    assert f"scatter {used_by(fits[0]).birge:.1f} times as far as seeds explain" in " ".join(fits[0].curve.warnings)  # type: ignore[union-attr]


def test_several_groups_have_a_paragraph_each_and_every_reference_once(
    study: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(study), str(table), "--methods"]) == 0
    said = capsys.readouterr().out
    assert said.count("Analyses were run with scaleexp") == 2
    assert said.count("@article{mccandlish2018,") == 1
    assert said.index("references (BibTeX)") > said.rindex("Analyses were run")


def test_curves_are_varied_over_targets_that_all_their_runs_met(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(tmp_path / "curves.csv", long_rows(evaluated(load(study), "loss")))
    (fit,) = fitted(capsys, table, "--unit", "example", "--target", "1.2", "--multiverse")
    rows = fit["multiverse"]["rows"]
    targets = list(dict.fromkeys(row["target"] for row in rows))
    assert 1.2 in targets
    assert len(targets) >= 3
    assert targets == sorted(targets, reverse=True)
    met = {run.key for run in runs_to_target(load(study), "loss", 1.2, "min") if run.reached}
    for target in targets:
        runs = runs_to_target(load(study), "loss", target, "min")
        assert met <= {run.key for run in runs if run.reached}
        expected = [row.batch for row in multiverse({target: runs}).rows if row.definition == "b_crit"]
        found = [row["batch"] for row in rows if (row["target"], row["definition"]) == (target, "b_crit")]
        assert found == pytest.approx(expected, rel=1e-6)
    assert "target" in fit["multiverse"]["factors"]
    assert fit["multiverse"]["notes"] == []


def test_a_table_of_points_says_that_it_has_one_target(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, table, "--multiverse")
    assert fit["multiverse"]["notes"] == ["one target: a table of points holds what its runs took to a single one."]
    assert main(["fit", str(table), "--multiverse"]) == 0
    assert "a table of points holds what its runs took to a single one" in capsys.readouterr().out


def test_runs_that_a_log_does_not_hold_are_not_looked_for_in_it(study: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", b_crit=256.0, rng_seed=1, **SMALL)
    (pooled,) = load_sweeps([load(study), load(other)], Columns(group_by=("optimizer",)))
    found = multiverse_of(fit_sweep(pooled), [load(study)])
    assert {row.target for row in found.rows} == {pooled.target}
    with pytest.raises(AssertionError, match="is in no log of its sweep"):
        runs_at(pooled, [load(study)], 2.0)


@pytest.mark.parametrize("direction", ["min", "max"])
def test_neighbouring_targets_are_those_that_every_run_met(tmp_path: Path, direction: Literal["min", "max"]) -> None:
    sign = 1 if direction == "min" else -1
    curves = {"a": (4.0, 3.0, 2.0, 1.0, 0.5, 0.5), "b": (4.0, 2.5, 1.5, 0.9, 0.8, 0.8), "c": (4.0, 3.9, 3.8, 3.7, 3.6)}
    rows = [
        f"{run},{16 * 2**k},{step},{sign * value}"
        for k, (run, values) in enumerate(curves.items())
        for step, value in enumerate(values)
    ]
    (table := tmp_path / "c.csv").write_text("run,batch_size,steps,value\n" + "\n".join(rows) + "\n")
    (sweep,) = load_sweeps([table], Columns(unit="example", direction=direction), targets=[sign * 1.0])
    found = [sign * value for value in neighbouring_targets(sweep)]
    assert found == pytest.approx([1.75, 1.38, 0.9, 0.82], abs=0.011)  # b starts at 2.5 and ends at 0.8; c met none


def test_curves_taken_to_the_target_of_their_sweep_are_its_runs(tmp_path: Path) -> None:
    losses = {"a": (4.0, 2.0, 1.0, 0.5, 0.4), "b": (4.0, 3.0, 2.0, 0.9, 0.8), "c": (4.0, 3.9, "nan", "nan", "nan")}
    rows = [
        f"{run},{16 * 2**k},{2**k},{0.1 / 2**k},{step},{loss}"
        for k, (run, values) in enumerate(losses.items())
        for step, loss in enumerate(values)
    ]
    (table := tmp_path / "c.csv").write_text("\n".join(["run,batch_size,workers,lr,steps,value", *rows]))
    (first,) = load_sweeps([table], Columns(unit="example"), targets=[1.5])
    (sweep,) = pooled([first, first])
    again = runs_of_traces(sweep, 1.5)
    assert again == sweep.runs
    assert {run.workers for run in again} == {1, 2, 4}
    assert {(run.status, run.reached) for run in again} == {("reached", True), ("diverged", False)}
    assert {run.seed for run in again} == {0, 1}
