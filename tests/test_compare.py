"""`scaleexp-analysis compare`: the ratio of two curves, with its interval, or no ratio and why."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from analysis.cbs import fit_points
from analysis.cli import main
from analysis.compare import AGREES, compare, compared, ratio_of
from analysis.compare_text import compare_text
from analysis.output import schema_of
from analysis.study import analyse
from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.laws import steps_to_target
from tests.study_factory import write_study


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a: B_crit 256; b: 512, other seeds of noise; a2: as a, measured again."""
    root = tmp_path_factory.mktemp("studies")
    write_study(root / "a", noise=0.03)
    write_study(root / "b", noise=0.03, b_crit=512, rng_seed=1, batches=(16, 64, 256, 1024, 4096))
    write_study(root / "a2", noise=0.03, rng_seed=2)
    write_study(root / "small", noise=0.03, b_crit=5000, batches=(16, 64, 256), seeds=2)
    return root


def resolved(study: Path, **changes: Any) -> None:
    """Give a study's plan the fields that it was resolved from."""
    file = study / "plan" / "0001.json"
    fields = {"name": study.name, "workload": {"name": "synthetic"}, "optimizer": {"name": "sgd", "momentum": 0.0}}
    fields |= {"seeds": [0, 1, 2], "engine": "auto", "limits": {"samples": 100}}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"resolved": fields | changes}))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["compare", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    jsonschema.Draft202012Validator(schema_of("compare")).validate(document)
    return document


def test_a_critical_batch_size_twice_as_large_is_found_to_differ_by_two(studies, capsys):
    document = printed(capsys, studies / "a", studies / "b")
    found = document["ratios"]["b_crit"]
    assert found["ratio"] == pytest.approx(2.0, rel=0.15)
    assert found["interval"][0] < 2.0 < found["interval"][1]
    assert found["interval"][0] > 1.0
    assert found["ratio"] == document["b"]["b_crit"] / document["a"]["b_crit"]
    assert (document["verdict"], document["ratios"]["s_min"]["ratio"]) == ("differs", pytest.approx(1.0, rel=0.1))
    assert document["ratios"]["e_min"]["ratio"] == pytest.approx(2.0, rel=0.1)


def test_exchanging_the_studies_inverts_every_ratio_and_its_interval(studies):
    there, back = compare(studies / "a", studies / "b"), compare(studies / "b", studies / "a")
    for name, ratio in there.ratios.items():
        inverse = back.ratios[name]
        assert inverse.ratio == pytest.approx(1.0 / ratio.ratio)
        assert inverse.interval == pytest.approx(tuple(1.0 / end for end in reversed(ratio.interval)))


def test_steps_stand_side_by_side_where_both_have_the_batch(studies, capsys):
    document = printed(capsys, studies / "a", studies / "b")
    assert [row["batch_size"] for row in document["steps"]] == [16, 64, 256, 1024]
    for row in document["steps"]:
        truth = steps_to_target(row["batch_size"], 50, 512) / steps_to_target(row["batch_size"], 50, 256)
        assert row["ratio"] == row["b"] / row["a"] == pytest.approx(truth, rel=0.1)


def test_a_study_agrees_with_itself_exactly_and_with_its_repetition_within_a_share(studies, capsys):
    itself = printed(capsys, studies / "a", studies / "a")
    assert (itself["verdict"], itself["pairing"]["used"]) == ("agrees", True)
    assert itself["ratios"]["b_crit"] == {"ratio": 1.0, "interval": [1.0, 1.0]}
    assert itself["recipe"] == itself["grid"] == []
    again = printed(capsys, studies / "a", studies / "a2")
    low, high = again["ratios"]["b_crit"]["interval"]
    assert (again["verdict"], again["pairing"]["used"]) == ("agrees", False)
    assert low < 1.0 < high
    assert max(high, 1.0 / low) - 1.0 <= AGREES


def test_two_targets_of_one_study_share_their_runs_and_say_that_the_pairing_was_not_used(studies, capsys):
    document = printed(capsys, studies / "a", "--target", "1.5", "--target", "1.0")
    assert (document["a"]["target"], document["b"]["target"]) == (1.5, 1.0)
    assert document["ratios"]["s_min"]["ratio"] == pytest.approx(1.5, rel=0.01)
    assert document["pairing"]["shared_seeds"] == [0, 1, 2]
    assert "The pairing was not used" in document["pairing"]["sentence"]


def test_wide_intervals_do_not_say(studies):
    a = analyse(studies / "a")
    assert a.fit is not None
    wide = replace(a, fit=replace(a.fit, b_crit_interval=(a.fit.b_crit / 1.6, a.fit.b_crit * 1.6)), runs=a.runs[1:])
    found = compared(a, wide)
    assert found.verdict == "unknown"
    assert found.sentence.startswith("The data do not say whether B_crit differs")


def test_a_fit_that_is_not_ok_gives_no_ratio_and_says_which_and_why(studies, capsys):
    document = printed(capsys, studies / "a", studies / "small")
    assert (document["verdict"], document["ratios"]) == ("no_ratio", None)
    assert "the fit of B is not identified" in document["sentence"]
    assert len(document["steps"]) == 3
    a = analyse(studies / "a")
    without = compared(a, replace(a, fit=None, fit_reason="2 batch sizes gave a point."))
    assert without.sentence == "No ratio of B_crit is given, for B has no curve: 2 batch sizes gave a point."
    with pytest.raises(NotEnoughDataError, match="neither has a curve"):
        compared(without.b, without.b)


def test_a_target_that_one_side_never_reached_is_not_called_a_batch_size_that_was_not_measured(studies):
    a = analyse(studies / "a")
    never = replace(a, fit=None, fit_reason="0 of 3 runs reached it.", points=())
    assert "No batch size has steps to target in both." in compare_text(compared(a, never))


def test_intervals_of_the_ratio_cover_it_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    batches = np.repeat([16, 32, 64, 128, 256, 512, 1024, 2048], 3)
    seeds = np.tile([0, 1, 2], 8)
    covered = 0
    for _ in range(100):
        fits = []
        for b_crit in (128.0, 256.0):
            steps = steps_to_target(batches, 100.0, b_crit) * np.exp(0.08 * rng.standard_normal(batches.size))
            fits.append(fit_points(batches, steps * batches, seeds=seeds, confidence=0.9, resamples=100))
        a, b = fits
        low, high = ratio_of(a.b_crit, a.b_crit_interval, b.b_crit, b.b_crit_interval).interval
        covered += low <= 2.0 <= high
    assert 0.85 <= covered / 100 <= 0.98


def test_a_side_that_is_not_bounded_leaves_the_ratio_unbounded():
    assert ratio_of(1.0, (0.5, math.inf), 2.0, (1.0, 4.0)).interval == (0.0, pytest.approx(2.0 * math.exp(math.hypot(
        math.log(2.0), math.log(2.0)))))  # fmt: skip


def test_the_recipe_is_compared_in_its_frozen_fields_and_the_grid_apart(tmp_path, capsys):
    a, b = (write_study(tmp_path / name, noise=0.03, lrs_per_batch=1) for name in "ab")
    resolved(a)
    resolved(b, optimizer={"name": "sgd", "momentum": 0.9}, seeds=[0, 1, 2, 3], engine="ddp")
    document = printed(capsys, a, b)
    assert document["recipe"] == [{"field": "optimizer.momentum", "a": 0.0, "b": 0.9}]
    assert document["grid"] == [{"field": "seeds", "a": [0, 1, 2], "b": [0, 1, 2, 3]}]
    assert main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "optimizer.momentum  0.0  0.9" in out
    assert "engine" not in out


def test_other_data_are_another_recipe(tmp_path, studies, capsys):
    a = write_study(tmp_path / "a", noise=0.03, lrs_per_batch=1)
    for file in a.glob("trials/*/trial.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"data_sha256": "1" * 64}))
    fields = [row["field"] for row in printed(capsys, studies / "a", a)["recipe"]]
    assert "data_sha256" in fields


@pytest.mark.parametrize(
    ("changes", "arguments", "says"),
    [
        ({"unit": "token"}, [], "A counts its batch size in examples and B in tokens"),
        ({"metric": "accuracy"}, [], "A has its target for loss and B for accuracy"),
        ({"values": [1.25]}, [], "none of them in both: give --target"),
        ({}, ["--target", "1", "--target", "2", "--target", "3"], "got 3"),
        ({}, ["--confidence", "95"], "between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(tmp_path, studies, capsys, changes, arguments, says):
    b = write_study(tmp_path / "b", noise=0.03, batches=(16, 64, 256), lrs_per_batch=1, seeds=1)
    file = b / "plan" / "0001.json"
    plan = json.loads(file.read_text())
    plan["unit"] = changes.get("unit", plan["unit"])
    plan["targets"][0] |= {name: changes[name] for name in ("metric", "values") if name in changes}
    file.write_text(json.dumps(plan))
    assert main(["compare", str(studies / "a"), str(b), *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_one_study_alone_needs_two_targets(studies):
    for targets in ((), (1.0,), (1.0, 1.0)):
        with pytest.raises(ConfigError, match="give --target twice, with two values"):
            compare(studies / "a", targets=targets)


def test_the_verdict_comes_first_and_both_are_named(studies, capsys):
    assert main(["compare", str(studies / "a"), str(studies / "b")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("B_crit differs: that of B is ")
    assert any(line.startswith("A  synthetic, loss ≤ 1, 42 runs, fit ok") for line in lines)


def test_the_schema_refuses_other_documents():
    schema = schema_of("compare")
    jsonschema.Draft202012Validator.check_schema(schema)
    for wrong in ({}, {"schema_version": 2}, []):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
