"""The command `scaling`: tables of points, tables of fits, laws apart and together, JSON by its schema."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from analysis.cli import main
from analysis.output import schema_of
from tests.study_factory import write_study

SIZES = (10_000_000, 40_000_000, 160_000_000, 640_000_000)
BATCHES = (8, 32, 128, 512, 2048, 8192)


def b_crit(n: float) -> float:
    return 300.0 * (n / 1e8) ** 0.62


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def points(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    rows = [
        (n, b, seed, 2000.0 * (1 + b_crit(n) / b) * math.exp(0.02 * rng.standard_normal()))
        for n in SIZES
        for b in BATCHES
        for seed in range(3)
    ]
    return write(tmp_path / "points.csv", ["n_params", "batch_size", "seed", "steps"], rows)


@pytest.fixture
def fits(tmp_path: Path) -> str:
    rows = [(n, 20 * n, b_crit(n), 0.8 * b_crit(n), 1.3 * b_crit(n)) for n in SIZES]
    return write(tmp_path / "fits.csv", ["n_params", "samples", "b_crit", "b_crit_low", "b_crit_high"], rows)


def laws(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["scaling", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema_of("scaling"))
    return list(document["laws"])


def test_points_of_every_model_size_give_the_law_they_were_made_by(
    points: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (law,) = laws(capsys, points, "--group-by", "n_params", "--against", "n_params")
    assert law["exponent"] == pytest.approx(0.62, abs=0.03)
    assert law["exponent_interval"][0] < law["exponent"] < law["exponent_interval"][1]
    assert (law["n_groups"], law["status"], law["definition"]) == (4, "ok", "b_crit")
    assert [g["regressors"]["n_params"] for g in law["groups"]] == list(SIZES)


def test_a_table_of_fits_gives_the_law_exactly(fits: str, capsys: pytest.CaptureFixture[str]) -> None:
    (law,) = laws(capsys, fits, "--against", "n_params")
    assert law["exponent"] == pytest.approx(0.62, abs=1e-9)
    assert law["coefficient"] == pytest.approx(300.0 / 1e8**0.62, rel=1e-9)
    assert law["propagated_intervals"]["n_params"][0] < 0.62
    assert "more closely than they are known" in law["warnings"][0]


def test_the_definition_moves_the_exponent_and_is_named(fits: str, capsys: pytest.CaptureFixture[str]) -> None:
    (law,) = laws(capsys, fits, "--against", "n_params", "--definition", "overhead", "--reference-batch", "256")
    assert law["exponent"] < 0.4
    assert (law["definition"], law["overhead"]) == ("overhead", {"delta": 0.2, "reference_batch": 256.0})
    assert law["groups"][0]["batch"] == pytest.approx(1.2 * 256 + 0.2 * b_crit(SIZES[0]))


def test_the_overhead_definition_takes_one_reference_batch_for_all_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every group measured from another smallest batch on.
    rows = [(n, b * 2**i, 2000.0 * (1 + b_crit(n) / (b * 2**i))) for i, n in enumerate(SIZES) for b in BATCHES]
    path = write(tmp_path / "points.csv", ["n_params", "batch_size", "steps"], rows)
    (law,) = laws(capsys, path, "--against", "n_params", "--definition", "overhead")
    assert law["overhead"]["reference_batch"] == 8
    for group, n in zip(law["groups"], SIZES, strict=True):
        assert group["batch"] == pytest.approx(1.2 * 8 + 0.2 * b_crit(n), rel=1e-6)


def test_a_table_of_fits_holds_no_reference_batch(fits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling", fits, "--against", "n_params", "--definition", "overhead"]) == 2
    assert "--reference-batch" in capsys.readouterr().err


def test_collinear_regressors_are_refused_with_the_number(fits: str, capsys: pytest.CaptureFixture[str]) -> None:
    (law,) = laws(capsys, fits, "--against", "n_params,samples")
    assert law["status"] == "not_identified"
    assert "collinear" in law["reason"]
    assert "correlation of their logs 1;" in law["reason"]
    assert law["exponent"] is None


def test_two_regressors_that_vary_apart_have_two_exponents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(n, d, 2.0 * n**0.1 * d**0.4) for n in (1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    path = write(tmp_path / "fits.csv", ["n_params", "samples", "b_crit"], rows)
    (law,) = laws(capsys, path, "--against", "n_params,samples")
    assert law["exponents"] == pytest.approx({"n_params": 0.1, "samples": 0.4}, abs=1e-9)
    assert law["propagated_intervals"] is None


def test_the_targets_of_a_study_are_a_regressor_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every metric falls on a straight line in samples, so that B_crit is the same at every target.
    path = str(write_study(tmp_path / "s", noise=0.0, diverged=False, second_realisation=False))
    targets = [word for target in ("1.0", "1.5", "2.2") for word in ("--target", target)]
    (law,) = laws(capsys, path, "--against", "target", *targets)
    assert [g["regressors"]["target"] for g in law["groups"]] == [1.0, 1.5, 2.2]
    assert law["exponent"] == pytest.approx(0.0, abs=1e-6)
    assert "share their noise" in law["warnings"][-1]


def test_what_groups_have_in_common_gives_a_law_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(o, n, n**p) for o, p in (("sgd", 0.3), ("adam", 0.5)) for n in SIZES]
    path = write(tmp_path / "fits.csv", ["optimizer", "n_params", "b_crit"], rows)
    both = laws(capsys, path, "--against", "n_params", "--group-by", "optimizer,n_params")
    assert [(law["group"], round(law["exponent"], 6)) for law in both] == [
        ({"optimizer": "sgd"}, 0.3),
        ({"optimizer": "adam"}, 0.5),
    ]


def test_a_fit_that_is_not_ok_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(n, n**0.5, "ok") for n in SIZES] + [(1e6, 1e9, "extrapolated")]
    path = write(tmp_path / "fits.csv", ["n_params", "b_crit", "status"], rows)
    (law,) = laws(capsys, path, "--against", "n_params")
    assert law["exponent"] == pytest.approx(0.5)
    assert law["left_out"] == [{"group": "n_params 1e+06", "reason": "its fit is extrapolated."}]


def test_three_groups_have_an_interval_of_one_degree_of_freedom_and_are_not_ok(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = (1e7, 1e8, 1e9)
    path = write(tmp_path / "fits.csv", ["n_params", "b_crit"], [(n[0], 30.0), (n[1], 100.0), (n[2], 280.0)])
    (law,) = laws(capsys, path, "--against", "n_params")
    assert law["status"] == "not_identified"
    assert "rests on 1 degree of freedom (3 groups, 2 parameters)" in law["reason"]
    assert "12.7 standard errors" in law["reason"]
    x, y = np.log(n), np.log([30.0, 100.0, 280.0])
    slope, level = np.polyfit(x, y, 1)
    error = math.sqrt(((y - level - slope * x) ** 2).sum() / ((x - x.mean()) ** 2).sum())
    assert law["exponent"] == pytest.approx(slope)
    assert law["exponent_interval"] == pytest.approx([slope - 12.7062 * error, slope + 12.7062 * error], rel=1e-4)
    assert main(["scaling", path, "--against", "n_params"]) == 0
    said = capsys.readouterr().out
    assert "n_params^0.485" in said
    assert "not identified: the exponent rests on 1 degree of freedom" in said


@pytest.mark.parametrize("nothing", ["", "null", "nan"])
def test_groups_without_a_critical_batch_are_left_out_by_name_and_the_rest_is_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing: str
) -> None:
    header = ["n_params", "b_crit", "b_crit_low", "b_crit_high", "status"]
    rows = [(n, n**0.5, 0.9 * n**0.5, 1.1 * n**0.5, "ok") for n in SIZES]
    path = write(tmp_path / "fits.csv", header, [*rows, (1e6, nothing, nothing, 900.0, "not_identified")])
    (law,) = laws(capsys, path, "--against", "n_params")
    assert law["exponent"] == pytest.approx(0.5)
    assert "left out, n_params 1e+06: the table holds no b_crit for it." in law["warnings"]
    assert [g["batch"] for g in law["groups"] if g["status"] != "ok"] == [None]
    few = write(tmp_path / "few.csv", header, [*rows[:2], (1e6, nothing, nothing, nothing, "not_identified")])
    assert main(["scaling", few, "--against", "n_params"]) == 6
    err = capsys.readouterr().err
    assert "needs 3 groups whose fit is ok, got 2; left out: n_params 1e+06" in err
    assert len(err.splitlines()) == 1


def test_two_groups_are_an_answer_without_a_law(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "fits.csv", ["n_params", "b_crit"], [(1e7, 30.0), (1e8, 90.0)])
    (law,) = laws(capsys, path, "--against", "n_params")
    assert (law["status"], law["exponent"]) == ("not_identified", None)
    assert main(["scaling", path, "--against", "n_params"]) == 0
    assert "no law: a power law in n_params needs 3 groups" in capsys.readouterr().out


def test_the_text_says_law_definition_interval_and_what_it_rests_on(
    fits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scaling", fits, "--against", "n_params"]) == 0
    text = capsys.readouterr().out
    for said in ("n_params^0.620", "B_crit of the curve", "95 % interval from the residuals", "4 groups"):
        assert said in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "width"], "has no column 'width'"),
        (["--against", "a,b,c"], "has no column"),
        (["--against", "n_params", "--confidence", "95"], "--confidence must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    fits: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scaling", fits, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_regressor_outside_the_groups_is_refused(points: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling", points, "--group-by", "seed", "--against", "n_params"]) == 2
    assert "must be one of the columns of --group-by" in capsys.readouterr().err


def test_a_target_that_the_table_does_not_say_is_named(points: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling", points, "--group-by", "n_params", "--against", "target"]) == 2
    assert "the source does not say the target of its runs; add a column 'target'" in capsys.readouterr().err


def test_points_without_a_curve_are_too_few_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "p.csv", ["n_params", "batch_size", "steps"], [(n, 8, 100) for n in SIZES])
    assert main(["scaling", path, "--against", "n_params"]) == 6
