"""`scaleexp-analysis`: the answer on stdout, one sentence on stderr, an exit code that means something."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import analysis
from analysis.cli import cli, main
from analysis.output import schema_of
from analysis.read import load
from analysis.study import analyse, answer
from analysis.target_ladder import target_ladder
from tests.logged_elsewhere import evaluated, long_rows, write_csv
from tests.study_factory import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies") / "s", noise=0.03)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    jsonschema.Draft202012Validator(schema_of(arguments[0])).validate(document)
    return document


COMMANDS = ("fit", "plot", "report", "scaling", "compare", "export", "page")


def open_objects(schema: object, at: str = "") -> list[str]:
    """Where a schema lets an object hold anything."""
    if isinstance(schema, list):
        return [found for i, each in enumerate(schema) for found in open_objects(each, f"{at}/{i}")]
    if not isinstance(schema, dict):
        return []
    kinds = schema.get("type", [])
    is_object = "object" in ([kinds] if isinstance(kinds, str) else kinds)
    own = [at] if is_object and schema.get("additionalProperties", True) is True else []
    return own + [found for key, each in schema.items() for found in open_objects(each, f"{at}/{key}")]


def test_every_command_that_prints_json_has_a_schema() -> None:
    with_json = {name for name, command in cli.commands.items() if any(p.name == "as_json" for p in command.params)}
    assert with_json == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_object_of_a_schema_may_hold_anything(command: str) -> None:
    assert open_objects(schema_of(command)) == []


def test_every_json_that_a_command_prints_is_that_of_its_schema(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(n, b, 100 * (1 + n / b)) for n in (50, 100, 200, 400) for b in (8, 32, 128, 512, 2048)]
    points = tmp_path / "points.csv"
    points.write_text("n,batch_size,steps\n" + "".join(f"{n},{b},{steps}\n" for n, b, steps in rows))
    curves = write_csv(tmp_path / "curves.csv", long_rows(evaluated(load(study), "loss")))
    for arguments in (
        ("fit", study, "--multiverse", "--methods"),
        ("fit", study, "--definition", "equal-samples"),
        ("fit", study, "--group-by", "optimizer", "--loss", "huber"),
        ("fit", points, "--group-by", "n", "--multiverse"),
        ("fit", curves, "--unit", "example", "--target", "1.0", "--multiverse"),
        ("fit", curves, "--unit", "example", "--definition", "equal-samples"),
        ("scaling", points, "--against", "n"),
        ("scaling", points, "--against", "n", "--definition", "overhead"),
        ("compare", study, study),
        ("export", study, "--to", "csv", "--out", tmp_path / "csv"),
        ("export", study, "--to", "parquet", "--out", tmp_path / "parquet"),
    ):
        printed(capsys, *map(str, arguments))


def test_the_law_of_the_learning_rate_is_in_the_json_of_a_study_alone(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law = printed(capsys, "fit", str(study))["lr_law"]
    assert law["exponent"] == pytest.approx(0.5, abs=0.1)  # the study is made so
    assert law["exponent_interval"][0] < law["exponent"] < law["exponent_interval"][1]
    assert (law["status"], law["confidence"]) == ("ok", 0.95)
    assert printed(capsys, "fit", str(study), "--group-by", "optimizer")["lr_law"] is None


def test_the_seed_and_the_confidence_reach_the_other_targets_of_a_report(study: Path) -> None:
    ladders = [target_ladder(analyse(study, seed=seed, confidence=0.8)) for seed in (0, 0, 1)]
    fits = [[rung.fit for rung in ladder if rung.fit] for ladder in ladders]
    assert fits[0] == fits[1]
    assert {fit.confidence for fit in fits[0]} == {0.8}
    for a, b in zip(fits[0], fits[2], strict=True):
        assert (a.b_crit, a.b_crit_interval != b.b_crit_interval) == (b.b_crit, True)
    lost = replace(analyse(study, confidence=0.8), fit=None)
    assert {rung.fit.confidence for rung in target_ladder(lost) if rung.fit} == {0.8}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_json_has_a_valid_schema_that_refuses_other_documents(command: str) -> None:
    schema = schema_of(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    for wrong in ({}, {"schema_version": 2}, []):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_fit_prints_the_curve_that_the_study_was_written_from(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, "fit", str(study))
    (fit,) = document["fits"]
    assert fit["b_crit"] == pytest.approx(256, rel=0.1)
    assert fit["b_crit_interval"][0] < 256 < fit["b_crit_interval"][1]
    assert fit["s_min"] == pytest.approx(50, rel=0.1)
    assert (fit["status"], fit["target"], fit["unit"], fit["definition"]) == ("ok", 1.0, "example", "curve")
    assert (fit["n_batches"], len(fit["points"])) == (4, 4)
    assert fit["n_censored"] == 7
    assert {rule["rule"] for rule in document["rules"]} == {"none", "sqrt", "linear"}
    assert document["agreements"][0]["loss_difference"] == pytest.approx(1e-12, rel=0.01)
    assert fit["answer"] == answer(analysis.fit(study))
    other = fit["overhead"]
    assert (other["delta"], other["reference_batch"]) == (0.2, 16)
    assert other["batch"] == pytest.approx(1.2 * 16 + 0.2 * fit["b_crit"])
    assert other["interval"] == pytest.approx([1.2 * 16 + 0.2 * end for end in fit["b_crit_interval"]])


def test_several_targets_give_several_fits(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, "fit", str(study), "--target", "1.5", "--target", "1.0")
    assert [fit["target"] for fit in document["fits"]] == [1.5, 1.0]
    # The metric falls on a straight line from 2.5: 1.5 is two thirds of the way to 1.0.
    assert document["fits"][0]["s_min"] / document["fits"][1]["s_min"] == pytest.approx(2 / 3, rel=0.02)


def test_a_target_without_a_fit_beside_one_with_a_fit_is_in_the_json(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = printed(capsys, "fit", str(study), "--target", "0.3", "--target", "1.0")["fits"]
    assert [fit["status"] for fit in fits] == ["not_identified", "ok"]
    assert fits[0]["b_crit"] is None
    assert fits[0]["overhead"] is None


def test_what_the_data_do_not_bound_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "s", b_crit=1e6, s_min=0.05, batches=(16, 32, 64), noise=0.1, diverged=False)
    (fit,) = printed(capsys, "fit", str(study))["fits"]
    assert fit["status"] == "not_identified"
    assert fit["b_crit_interval"][1] is None
    assert fit["overhead"]["interval"][1] is None
    assert main(["fit", str(study)]) == 0
    assert "The data do not say" in capsys.readouterr().out


def test_the_card_gives_the_answer_first_and_keeps_the_noise_scale_apart(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(study)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == answer(analysis.fit(study))
    assert "not the same thing as the critical batch size" in out
    assert "sqrt: within 10 %" in out
    assert "1 of 42 runs diverged" in out
    assert err == ""


def test_nothing_to_fit_is_exit_6_with_what_was_seen_and_what_to_do(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(study), "--target", "0.3"]) == 6
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: 0 of 42 runs reached loss ≤ 0.3 (1 diverged)")
    assert "the best value seen was 0.8" in err
    assert "take the easier target 1, which enough runs reached" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--metric", "accuracy"], 2, "no target for the metric 'accuracy'"),
        (["--target", "3"], 2, "already met before the first step"),
        (["--target", "nan"], 2, "a target must be a finite value of loss, got nan"),
        (["--target", "inf"], 2, "a target must be a finite value of loss, got inf"),
        (["--confidence", "90"], 2, "between 0 and 1"),
        (["--seed", "-1"], 2, "--seed"),
    ],
)
def test_arguments_that_cannot_be_meant_are_exit_2(
    study: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    assert main(["fit", str(study), *arguments]) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "plot", "report"])
def test_a_study_without_a_target_is_exit_2_and_says_where_one_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    study = write_study(tmp_path / "s", batches=(16, 64), lrs_per_batch=1, seeds=1)
    plan = json.loads((study / "plan" / "0001.json").read_text())
    (study / "plan" / "0001.json").write_text(json.dumps(plan | {"targets": []}))
    assert main([command, str(study)]) == 2
    assert "add one under `targets` in the study file" in capsys.readouterr().err


def test_what_is_no_study_is_exit_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(tmp_path)]) == 5
    assert capsys.readouterr().err.startswith("error: ")


def test_a_corrupt_trial_is_named_in_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "s", noise=0.03)
    next(study.glob("trials/*/segments/evals-0002.parquet")).write_bytes(b"")
    (fit,) = printed(capsys, "fit", str(study))["fits"]
    assert "Its commit 0001 is used instead" in fit["left_out"][0]
    assert fit["status"] == "ok"


def test_figures_and_report_are_written_where_they_are_said_to_be(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = printed(capsys, "plot", str(study), "--out", str(tmp_path / "figures"))["figures"]
    assert figures
    assert all(Path(file).is_file() for file in figures.values())
    written = printed(capsys, "report", str(study), "--out", str(tmp_path / "r.html"))["report"]
    assert written == str(tmp_path / "r.html")
    assert answer(analysis.fit(study)).split(" examples")[0] in Path(written).read_text()


def test_help_and_import_wait_for_no_heavy_library() -> None:
    heavy = "{'ray', 'torch', 'matplotlib', 'scipy', 'pyarrow.parquet', 'obstore'}"
    code = (
        "import sys, analysis\nfrom analysis.cli import main\nmain(['fit', '--help'])\n"
        f"assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_whole_fit_needs_neither_ray_nor_torch_nor_matplotlib(study: Path) -> None:
    code = (
        f"import sys\nfrom analysis.cli import main\nassert main(['fit', {str(study)!r}]) == 0\n"
        "assert not {'ray', 'torch', 'matplotlib', 'obstore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_fit_does_not_wait_for_pandas_which_pyarrow_imports_where_it_is_installed(tmp_path: Path) -> None:
    plain = write_study(tmp_path / "s", second_realisation=False)
    code = (
        f"import sys\nfrom analysis.cli import main\nassert main(['fit', {str(plain)!r}]) == 0\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_package_offers_load_and_fit(study: Path) -> None:
    assert analysis.fit(analysis.load(study)) == analysis.fit(study)
    with pytest.raises(AttributeError, match="no attribute 'plot_everything'"):
        analysis.plot_everything  # noqa: B018
