"""`fit` on curves and at equal samples: the same answer as from the study that they were logged by."""

from __future__ import annotations

import json

import jsonschema
import pytest

import analysis
from analysis.cli import main
from analysis.output import schema_of
from analysis.read import load
from scaleexp.errors import ConfigError
from tests.logged_elsewhere import evaluated, long_rows, write_csv, write_huggingface
from tests.study_factory import METRIC, write_study

TARGET = 1.0
EQUAL = ["--definition", "equal-samples", "--epsilon", "0.05"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "s", targets=(TARGET,))


@pytest.fixture(scope="module")
def long_table(root, tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("curves") / "long.csv", long_rows(evaluated(load(root), METRIC)))


def fits(capsys, *arguments, code=0):
    assert main(["fit", *map(str, arguments), "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema_of("fit"))
    return document["fits"]


def refusal(capsys, *arguments):
    assert main(["fit", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def same(a, b, names=("b_crit", "b_crit_interval", "s_min", "e_min", "status", "reason", "points", "unit", "target")):
    return {name: a[name] for name in names} == {name: b[name] for name in names}


def test_curves_give_the_fit_of_their_study(capsys, root, long_table, tmp_path):
    (of_study,) = fits(capsys, root, "--target", TARGET)
    (of_table,) = fits(capsys, long_table, "--unit", "example", "--target", TARGET)
    trainer = write_huggingface(tmp_path / "hf", evaluated(load(root), METRIC))
    (of_trainer,) = fits(capsys, trainer, "--unit", "example", "--metric", "eval_loss", "--target", TARGET)
    assert of_study["b_crit"] is not None
    numbers = ("b_crit", "b_crit_interval", "s_min", "e_min", "status", "reason", "unit", "target")
    assert same(of_study, of_table, numbers)
    assert same(of_study, of_trainer, numbers)
    assert of_table["provenance"]["files"][0]["kind"] == "table"


@pytest.mark.parametrize(
    ("source", "arguments"),
    [("root", []), ("root", ["--group-by", "dtype"]), ("long_table", ["--unit", "example"])],
)
def test_a_target_that_is_given_twice_does_not_count_its_runs_twice(capsys, request, source, arguments):
    arguments = [request.getfixturevalue(source), *arguments]
    once = fits(capsys, *arguments, "--target", TARGET)
    assert fits(capsys, *arguments, "--target", TARGET, "--target", f"{TARGET:.3f}") == once


def test_why_no_run_reached_is_told_with_what_was_left_out_of_them(capsys, tmp_path):
    head = "run,steps,batch_size,value,lr,seed,unit\n"
    rows = [(f"{B}", s, B, 3.0 - 0.01 * s) for B in (8, 16, 32) for s in range(0, 100, 5)]
    for name, write, says in (
        ("back.csv", lambda s, v: (-s, v), "57 evaluations in 3 of 3 runs (first: 8) do not say how far the run had"),
        ("lost.csv", lambda s, v: (s, "nan" if s else v), "0 of 3 runs reached the target (3 diverged), which gives 0"),
    ):
        lines = [f"{run},{write(s, v)[0]},{B},{write(s, v)[1]},0.1,0,example\n" for run, s, B, v in rows]
        (tmp_path / name).write_text(head + "".join(lines))
        assert main(["fit", str(tmp_path / name), "--target", "2.5"]) == 6
        assert says in capsys.readouterr().err


def test_event_files_without_a_scalar_are_said_to_hold_none(capsys, tmp_path):
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    said = refusal(capsys, tmp_path, "--target", 1, "--unit", "example", "--batch-size", 8)
    assert "hold no scalar: give those of a run that logged one" in said


def test_losses_at_equal_samples_are_those_of_the_study(capsys, root, long_table):
    (of_study,) = fits(capsys, root, *EQUAL)
    (of_table,) = fits(capsys, long_table, "--unit", "example", *EQUAL)
    assert of_study["equal_samples"] == of_table["equal_samples"]
    assert of_table["definition"] == "equal-samples"
    assert of_table["b_crit"] == of_table["equal_samples"]["batch"]
    assert of_table["s_min"] is None
    assert of_table["n_runs"] == of_study["n_runs"]
    for loss in of_table["equal_samples"]["losses"]:
        assert loss["gap"] >= 0.0
    assert main(["fit", str(root), *EQUAL]) == 0
    assert "in resamples" in capsys.readouterr().out


def test_a_tolerance_that_admits_more_never_gives_a_smaller_batch(capsys, root):
    (found,) = fits(capsys, root, *EQUAL)
    batches = [batch or 0 for _, batch, _ in found["equal_samples"]["sensitivity"]]
    assert batches == sorted(batches)


def test_groups_of_several_sources_are_compared_with_all_their_runs(capsys, root, long_table):
    (alone,) = fits(capsys, root, *EQUAL, "--group-by", "workload")
    (both,) = fits(
        capsys, root, write_study(root.parent / "again", targets=(TARGET,)), *EQUAL, "--group-by", "workload"
    )
    seeds = [[loss["seeds"] for loss in found["equal_samples"]["losses"]] for found in (alone, both)]
    assert seeds[1] == [2 * count for count in seeds[0]]


def test_runs_of_two_recipes_are_not_taken_for_seeds(capsys, root, tmp_path):
    rows = long_rows(evaluated(load(root), METRIC))
    twice = [{**row, "run": f"{row['run']}-{size}", "n_params": size} for size in (1, 2) for row in rows]
    table = write_csv(tmp_path / "two.csv", twice)
    assert "group by what differs between them (n_params)" in refusal(
        capsys, table, "--unit", "example", "--target", TARGET
    )
    assert len(fits(capsys, table, "--unit", "example", "--target", TARGET, "--group-by", "n_params")) == 2


def test_options_that_no_source_takes_are_refused(capsys, root, tmp_path):
    (points := tmp_path / "points.csv").write_text("batch_size,steps\n16,100\n32,60\n64,40\n")
    assert "no SOURCE holds any" in refusal(capsys, points, "--lr", "0.1")
    assert main(["scaling", str(root), "--against", "n_params", "--cost-column", "x"]) == 2
    assert "no SOURCE is one" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="there is no argument 'overhead'"):
        analysis.fit(points, overhead=0.3)
    with pytest.raises(ConfigError, match="already has its target"):
        analysis.fit(analysis.load(points), target=1.0)


def test_the_result_of_a_study_tells_how_it_was_fitted(root):
    found = analysis.fit(root, target=TARGET, aggregate="median", delta=0.5, reference_batch=64, seed=3).to_dict()
    (entry,) = found["fits"]
    assert (entry["aggregate"], entry["overhead"]["delta"], entry["overhead"]["reference_batch"]) == ("median", 0.5, 64)


def test_what_is_missing_is_asked_for(capsys, long_table, tmp_path):
    assert "give --target V" in refusal(capsys, long_table, "--unit", "example")
    assert "--unit" in refusal(capsys, long_table, "--target", TARGET)
    (points := tmp_path / "points.csv").write_text("batch_size,steps\n16,100\n32,60\n64,40\n")
    assert "a table of points does not hold them" in refusal(capsys, points, *EQUAL)
    assert "are of the curve" in refusal(capsys, long_table, "--unit", "example", *EQUAL, "--multiverse")
    assert "no SOURCE is one" in refusal(capsys, write_study(tmp_path / "other"), "--batch-size", "8")
