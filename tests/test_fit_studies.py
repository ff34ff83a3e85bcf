"""Studies as sources of `fit`: whole, several, grouped by what their logs say, and beside tables."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import analysis
from analysis.bootstrap import CONFIDENCE
from analysis.cli import main
from analysis.output import schema_of
from analysis.read import load
from analysis.sources import load_sweeps
from analysis.sources.points import Columns
from analysis.study import analyse
from tests.study_factory import write_study

SMALL: dict[str, Any] = {"noise": 0.03, "lrs_per_batch": 1, "seeds": 2, "diverged": False, "second_realisation": False}


def rewritten(study: Path, *, name: str, **facts: Any) -> Path:
    """A study under another name, whose trials state other facts."""
    plan = study / "plan" / "0001.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"study": name}))
    for file in study.glob("trials/*/trial.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))
    return study


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_study(tmp_path_factory.mktemp("studies") / "small", b_crit=64.0, **SMALL)
    return rewritten(path, name="small", n_parameters=1000)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_study(tmp_path_factory.mktemp("studies") / "large", b_crit=256.0, rng_seed=1, **SMALL)
    return rewritten(path, name="large", n_parameters=8000, optimizer={"name": "adamw", "beta1": 0.9})


def fitted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema_of("fit")).validate(document)
    fits: list[dict[str, Any]] = document["fits"]
    return fits


def test_several_studies_are_groups_by_their_name(small: Path, large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = fitted(capsys, small, large)
    assert [fit["group"] for fit in fits] == [{"study": "small"}, {"study": "large"}]
    assert [fit["b_crit"] for fit in fits] == pytest.approx([64, 256], rel=0.15)
    assert main(["fit", str(small), str(large)]) == 0
    assert capsys.readouterr().out.startswith("study small: The critical batch size for loss")
    assert {fit["confidence"] for fit in fits} == {CONFIDENCE}


def test_studies_of_one_name_are_told_apart_by_where_they_lie(small: Path, tmp_path: Path) -> None:
    other = rewritten(write_study(tmp_path / "again", **SMALL), name="small")
    groups = [fit.sweep.group["study"] for fit in analysis.fit(small, other).fits]
    assert groups == [str(small), str(other)]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("n_params", [1000, 8000]),
        ("n_parameters", [1000, 8000]),
        ("optimizer", ["sgd", "adamw"]),
        ("study", ["small", "large"]),
    ],
)
def test_studies_are_grouped_by_what_their_logs_say(
    small: Path, large: Path, capsys: pytest.CaptureFixture[str], column: str, values: list[object]
) -> None:
    fits = fitted(capsys, small, large, "--group-by", column)
    assert [fit["group"] for fit in fits] == [{column: value} for value in values]
    assert [fit["b_crit"] for fit in fits] == pytest.approx([64, 256], rel=0.15)


def test_a_group_of_several_studies_pools_their_runs_as_further_seeds(small: Path, tmp_path: Path) -> None:
    again = rewritten(
        write_study(tmp_path / "again", b_crit=64.0, rng_seed=7, **SMALL), name="again", n_parameters=1000
    )
    (one,) = load_sweeps([small], Columns(group_by=("n_params",)))
    (both,) = load_sweeps([small, again], Columns(group_by=("n_params",)))
    assert len(both.runs) == 2 * len(one.runs)
    assert {run.seed for run in both.runs} == {0, 1, 2, 3}
    assert both.provenance["pooled"] == [str(small), str(again)]


def test_a_grouped_study_has_the_curve_of_the_whole_one(small: Path) -> None:
    grouped = analysis.fit(small, group_by="workload").fits[0]
    assert grouped.sweep.group == {"workload": "synthetic"}
    assert grouped.curve == analysis.fit(small).fit


def test_a_study_and_a_table_of_its_runs_give_the_identical_curve(small: Path, tmp_path: Path) -> None:
    runs = analyse(small).runs
    lines = [f"{r.batch_size},{r.samples!r},{r.lr!r},{r.seed},{str(r.reached).lower()}" for r in runs]
    file = tmp_path / "t.csv"
    file.write_text("batch_size,samples,lr,seed,reached\n" + "\n".join(lines))
    (table,) = analysis.fit(file).fits
    study = analysis.fit(small).fit
    assert (table.b_crit, table.curve.s_min, table.curve.e_min) == (study.b_crit, study.s_min, study.e_min)
    # A table does not say how far apart the evaluations lie, by which the study's intervals are widened.
    assert table.b_crit_interval == pytest.approx(study.b_crit_interval, rel=0.02)
    assert table.b_crit_interval[1] - table.b_crit_interval[0] <= study.b_crit_interval[1] - study.b_crit_interval[0]
    both = analysis.fit(small, file, group_by=()).fits
    assert [fit.sweep.group for fit in both] == [{"study": "small"}, {"table": "t"}]


def test_a_column_that_no_log_has_is_refused_with_the_nearest_that_it_has(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(small), "--group-by", "n_layers"]) == 2
    said = capsys.readouterr().err
    assert "has no column 'n_layers' to group by; the nearest of its" in said
    assert "n_params" in said
    assert main(["fit", str(small), "--cost-column", "epochs"]) == 2
    assert "no SOURCE is one" in capsys.readouterr().err


def test_the_aggregate_reaches_the_points_and_the_overhead_its_reference(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fit,) = fitted(capsys, small, "--aggregate", "mean", "--overhead", "0.5", "--reference-batch", "64")
    assert fit["aggregate"] == "mean"
    runs = [run.steps for run in analyse(small).points[0].runs]
    assert fit["points"][0]["steps"] == pytest.approx(sum(runs) / len(runs), rel=1e-12)
    assert fit["overhead"]["batch"] == pytest.approx(96 + 0.5 * fit["b_crit"])
    assert main(["fit", str(small), "--overhead", "0.5"]) == 0
    assert "50 % more steps than linear scaling from B = 16" in capsys.readouterr().out


def test_a_fitted_study_shows_itself_and_is_loaded_as_its_log(small: Path) -> None:
    study = analysis.fit(small)
    assert study.to_dict()["fits"][0]["b_crit"] == study.fit.b_crit
    jsonschema.validate(study.to_dict(), schema_of("fit"))
    assert "The critical batch size for loss" in study._repr_html_()
    assert str(study).startswith("The critical batch size for loss")
    assert analysis.load(small) == load(small)
    assert analysis.fit(load(small)) == study
