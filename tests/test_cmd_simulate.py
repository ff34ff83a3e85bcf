"""`scaleexp simulate` as a user meets it: answers by their schemas, nonsense in one sentence."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import validate

from scaleexp.cli import cli
from scaleexp.errors import ConfigError, NotEnoughDataError, ScaleexpError, StorageError
from scaleexp.simulate.sources import read_source
from scaleexp.simulate.step_time import StepTimeModel

HEADER = "workers,nodes,worker_batch,step_time_s"
TRUTH = StepTimeModel.by_hand(compute_fixed_s=0.05, compute_per_sample_s=0.01, transfer_s=0.1)


def run(*arguments):
    """Output of a command; an error of ours is raised, as `main` would turn it into a sentence."""
    result = CliRunner().invoke(cli, ["simulate", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    return result.stdout


def checked(name, text):
    document = json.loads(text)
    validate(document, json.loads((files("scaleexp") / "schemas" / f"simulate-{name}.json").read_text()))
    return document


def write(path, rows, header=HEADER):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    sizes = [(1, 1), (2, 1), (4, 1), (4, 2), (8, 2), (6, 3), (12, 3), (8, 4), (16, 4)]
    rows = [
        (p, n, b, float(TRUTH.predict(p, n, b).step_time_s) * speed, name)
        for name, speed in (("bert", 1.0), ("vgg", 3.0))
        for p, n in sizes
        for b in (8, 32)
    ]
    return write(tmp_path_factory.mktemp("table") / "steps.csv", rows, HEADER + ",model")


@pytest.fixture(scope="module")
def model(table):
    run("fit", "--measurements", table, "--group-by", "model", "--out", table.with_name("model.json"))
    return table.with_name("model.json")


def test_fitted_groups_are_predicted_each_by_its_own(table, tmp_path):
    out = tmp_path / "model.json"
    fit = checked("fit", run("fit", "--measurements", table, "--group-by", "model", "--out", out, "--json"))
    assert fit == json.loads(out.read_text())
    where = "workers=8,nodes=2,worker_batch=8"
    at = [word for model in ("bert", "vgg") for word in ("--at", f"{where},model={model}")]
    found = checked("predict", run("predict", "--model", out, *at, "--json"))["predictions"]
    assert [p["group"] for p in found] == ["bert", "vgg"]
    assert found[1]["step_time_s"] == pytest.approx(3 * found[0]["step_time_s"], rel=0.05)
    assert found[0]["step_time_s"] == pytest.approx(TRUTH.predict(8, 2, 8).step_time_s.item(), rel=0.1)
    assert found[0]["status"] == "interpolated"


def test_predictions_of_a_table_are_those_of_its_rows_and_a_refused_one_is_null(model, tmp_path):
    out = model
    asked = write(tmp_path / "asked.csv", [(8, 2, 8, "vgg"), (4096, 8, 8, "vgg")], "workers,nodes,worker_batch,model")
    found = checked("predict", run("predict", "--model", out, "--csv", asked, "--json"))["predictions"]
    assert found[0]["interval"][0] < found[0]["step_time_s"] < found[0]["interval"][1]
    assert found[1]["status"] == "refused"
    assert found[1]["step_time_s"] is None
    assert "4096 workers" in found[1]["reason"]
    text = run("predict", "--model", out, "--csv", asked)
    assert "refused: more than 16 times" in text
    assert "90 % interval" in text


def test_validation_tells_of_every_group_and_of_all_beside_what_needs_no_model(table):
    where = ("validate", "--measurements", table, "--group-by", "model", "--train", "nodes<=3", "--test", "workers>8")
    found = checked("validate", run(*where, "--json"))["errors"]
    assert [e["group"] for e in found] == ["bert", "vgg", "all"]
    assert found[2]["rows_predicted"] == sum(e["rows_predicted"] for e in found[:2]) == 4
    assert found[2]["mean_error"] < 0.1
    assert set(found[2]["baselines"]) == {"linear scaling", "computation alone"}
    assert "linear scaling" in run(*where)
    fraction = run("validate", "--measurements", table, "--group-by", "model", "--fraction", "0.5", "--json")
    assert checked("validate", fraction)["errors"][-1]["rows_fitted"] == 18


def test_a_fraction_is_drawn_by_its_seed(table):
    drawn = [
        run("validate", "--measurements", table, "--fraction", "0.6", "--seed", seed, "--json") for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_throughput_becomes_seconds_a_step_and_empty_cells_are_passed_over(tmp_path):
    rows = [("1", 32, 2, 640), ("4", 32, "", 1280), ("8", 32, "", "")]
    found = read_source(str(write(tmp_path / "t.csv", rows, "gpus,batch_per_gpu,grad_accum,throughput")))
    assert [row.numbers["step_time_s"] for row in found] == [0.1, 0.1]
    assert [row.numbers["worker_batch"] for row in found] == [64, 32]
    assert [row.numbers["accumulation_steps"] for row in found] == [2, 1]


def test_measurements_in_json_are_those_of_a_table(tmp_path):
    entry = {"workers": 2, "nodes": 1, "worker_batch": 8, "step_time_s": 0.1}
    (tmp_path / "m.json").write_text(json.dumps({"measurements": [entry]}))
    assert read_source(str(tmp_path / "m.json"))[0].numbers == {**entry, "accumulation_steps": 1}


def test_virtual_workers_do_not_count_and_a_study_of_real_ones_does(tmp_path, monkeypatch):
    golden = Path(__file__).parent / "golden" / "study-v1"
    study = tmp_path / "study"
    shutil.copytree(golden, study)
    with pytest.raises(NotEnoughDataError, match="real workers"):
        read_source(str(study))
    from scaleexp.simulate import study_rows

    original = study_rows.last_commits

    def as_if_real(store, keys):
        planned = {t["trial_id"]: t["workers"] for t in study_rows.newest_plan(store)[1]["trials"]}
        found = original(store, keys)
        for key, commit in found.items():
            commit["realisation"] |= {"engine": "ddp", "processes": planned[key.partition("@")[0]]}
        return found

    monkeypatch.setattr(study_rows, "last_commits", as_if_real)
    monkeypatch.setattr(study_rows, "_WARM", 1)
    rows = read_source(str(study))
    assert rows
    assert all(row.numbers["step_time_s"] > 0 and row.numbers["nodes"] == 1 for row in rows)


GOOD = (2, 1, 8, 0.1)


@pytest.mark.parametrize(
    ("rows", "header", "error", "said"),
    [
        ([GOOD, (2, 1, 8, -0.1)], HEADER, ConfigError, "step_time_s in row 3 .* is -0.1: it must be positive"),
        ([(0, 1, 8, 0.1)], HEADER, ConfigError, "workers in row 2 .* is 0: it must be 1 or more"),
        ([(2, 4, 8, 0.1)], HEADER, ConfigError, "row 2 .* has 4 nodes for 2 workers"),
        ([(2.5, 1, 8, 0.1)], HEADER, ConfigError, "whole number"),
        ([(2, 1, "many", 0.1)], HEADER, ConfigError, "worker_batch in row 2 .* is 'many', not a number"),
        ([(2, 1, 8, "nan")], HEADER, ConfigError, "positive"),
        ([(2, 1, 8)], "workers,nodes,worker_batch", ConfigError, "no column step_time_s; its columns are workers"),
        ([(*GOOD, "zero3")], HEADER + ",parallelism", ConfigError, "ddp and fsdp are known"),
        ([(*GOOD, -1)], HEADER + ",sync_time_s", ConfigError, "sync_time_s in row 2"),
        ([], HEADER, NotEnoughDataError, "has no rows"),
        ([], "", NotEnoughDataError, "has no rows"),
        ([GOOD], HEADER, NotEnoughDataError, "two configurations or more, got 1 in 1 row"),
    ],
)
def test_nonsense_gets_one_sentence(rows, header, error, said, tmp_path):
    path = write(tmp_path / "bad.csv", rows, header)
    with pytest.raises(error, match=said) as told:
        run("fit", "--measurements", path, "--out", tmp_path / "m.json")
    assert told.value.exit_code == (6 if error is NotEnoughDataError else 2)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--model", "MODEL"], "say where"),
        (["predict", "--model", "MODEL", "--at", "workers=2"], "does not say nodes, worker_batch"),
        (["predict", "--model", "MODEL", "--at", "workers=2,nodes=1,worker_batch=8"], "does not say which model"),
        (["predict", "--model", "MODEL", "--at", "workers=2,nodes=1,worker_batch=8,model=x"], "bert, vgg"),
        (["predict", "--model", "MODEL", "--at", "workers=2,nodes=4,worker_batch=8,model=vgg"], "4 nodes for 2"),
        (["predict", "--model", "MODEL", "--at", "wokers=2"], "names wokers"),
        (["predict", "--model", "MODEL", "--at", "8"], "write workers=32"),
        (["predict", "--model", "absent.json", "--at", "workers=2,nodes=1,worker_batch=8"], "no model at absent.json"),
        (["predict", "--model", "TABLE", "--at", "workers=2,nodes=1,worker_batch=8"], "is no model of step times"),
        (["validate", "--measurements", "TABLE"], "say which rows to fit"),
        (["validate", "--measurements", "TABLE", "--train", "nodes"], "no condition"),
        (["validate", "--measurements", "TABLE", "--train", "gpus<=4"], "no column gpus"),
        (["validate", "--measurements", "TABLE", "--train", "model<=4"], "only = and != do"),
        (["fit", "--measurements", "absent.csv", "--out", "m.json"], "cannot be read"),
        (["fit", "--measurements", "TABLE", "--group-by", "modle", "--out", "m.json"], "no column modle"),
    ],
)
def test_arguments_that_cannot_be_meant_get_one_sentence(arguments, said, table, model):
    places = {"MODEL": model, "TABLE": table}
    with pytest.raises(ConfigError, match=said) as told:
        run(*(places.get(word, word) for word in arguments))
    assert "\n" not in str(told.value)


def test_what_is_left_out_of_both_sides_is_too_little(table):
    with pytest.raises(NotEnoughDataError, match="0 to predict"):
        run("validate", "--measurements", table, "--train", "nodes<=99")
    with pytest.raises(NotEnoughDataError, match="fit of vgg"):
        run("validate", "--measurements", table, "--group-by", "model", "--train", "model=bert")


def test_a_directory_that_is_no_study_is_named(tmp_path):
    with pytest.raises(StorageError, match="not a study directory"):
        read_source(str(tmp_path))


def test_a_model_with_numbers_out_of_bounds_is_not_read(model, tmp_path):
    out = tmp_path / "model.json"
    held = json.loads(model.read_text())
    for spoil in (
        lambda h: h["groups"][0]["forms"][0]["parameters"].update(overlap=2.0),
        lambda h: h["groups"][0]["forms"][0].update(form="star"),
        lambda h: h["groups"][0]["forms"][0].update(weight=7.0),
        lambda h: h.update(schema_version=9),
        lambda h: h.pop("groups"),
    ):
        spoilt = json.loads(json.dumps(held))
        spoil(spoilt)
        out.write_text(json.dumps(spoilt))
        with pytest.raises(ScaleexpError, match="no model of step times"):
            StepTimeModel.load(out)


def test_the_fitted_model_is_the_same_every_time(table, model, tmp_path):
    run("fit", "--measurements", table, "--group-by", "model", "--out", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == model.read_bytes()


def test_the_links_of_a_profile_tell_of_workers_that_were_not_measured(tmp_path):
    rows = [(1, 1, b, 0.01 + 0.001 * b, 6e9) for b in (8, 16, 32)]
    source = write(tmp_path / "steps.csv", rows, f"{HEADER},grad_bytes")
    told, untold = tmp_path / "told.json", tmp_path / "untold.json"
    checked("fit", run("fit", "--measurements", source, "--hardware", "a100-40gb", "--out", told, "--json"))
    run("fit", "--measurements", source, "--out", untold)
    steps = [StepTimeModel.load(path).predict(8, 1, 16).step_time_s.item() for path in (told, untold)]
    assert steps[0] > 2 * steps[1]
    bare = write(tmp_path / "bare.csv", [row[:4] for row in rows])
    with pytest.raises(ConfigError, match="column grad_bytes"):
        run("fit", "--measurements", bare, "--hardware", "a100-40gb", "--out", told)
