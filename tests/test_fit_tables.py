"""Tables of points: published measurements through the command line, exact curves, and what is refused."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analysis
from analysis.cli import main
from analysis.fits import SweepFit
from analysis.output import schema_of
from analysis.sources.points import Columns, read_points
from scaleexp.errors import ConfigError

Fit = dict[str, Any]
MLPERF = ("--group-by", "benchmark", "--batch-column", "global_batch_size", "--cost-column", "to_converge")
BATCHES = (16, 64, 256, 1024)


def fitted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[Fit]:
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    jsonschema.Draft202012Validator(schema_of("fit")).validate(document)
    fits: list[Fit] = document["fits"]
    return fits


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 2) -> str:
    assert main(["fit", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def hyperbola(path: Path, *, cost: str = "samples", seeds: int = 1, noise: float = 0.0, e_min: float = 12800.0) -> Path:
    """A table of an exact curve with B_crit 256."""
    z = np.random.default_rng(0).standard_normal((len(BATCHES), seeds))
    rows = [
        (B, e_min * (1 + B / 256) * math.exp(noise * z[i, s]) / (B if cost == "steps" else 1))
        for i, B in enumerate(BATCHES)
        for s in range(seeds)
    ]
    return table(path, f"batch_size,{cost}\n" + "".join(f"{B},{c!r}\n" for B, c in rows))


# --- measurements by others -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(measurements: Path) -> dict[str, SweepFit]:
    fits = analysis.fit(
        measurements / "mlperf_rcp_fixture.csv",
        group_by="benchmark",
        batch_column="global_batch_size",
        cost_column="to_converge",
    )
    return {fit.sweep.group["benchmark"]: fit for fit in fits.fits}


def test_published_critical_batches_come_back_through_the_command_line(
    measurements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = {f["group"]["benchmark"]: f for f in fitted(capsys, measurements / "mlperf_rcp_fixture.csv", *MLPERF)}
    known = {"rgat": 115810, "resnet": 47066, "rnnt": 3702, "flux1": 2764, "llama31_8b": 83.9}
    for benchmark, b_crit in known.items():
        fit = fits[benchmark]
        assert fit["b_crit"] == pytest.approx(b_crit, rel=0.05)
        assert fit["b_crit_interval"][0] < b_crit < fit["b_crit_interval"][1]
        assert (fit["status"], fit["confidence"], fit["definition"]) == ("ok", 0.95, "curve")
    assert fits["deepseekv3_671b"]["status"] == "not_identified"
    gpt3 = fits["gpt3"]
    assert gpt3["b_crit"] == pytest.approx(16191, rel=0.1)
    assert any("11.4 times the median" in warning and "left out" in warning for warning in gpt3["warnings"])
    assert (fits["rgat"]["cost_unit"], fits["rgat"]["s_min"], gpt3["cost_unit"]) == ("epochs", None, "tokens")
    assert fits["flux1"]["s_min"] == pytest.approx(fits["flux1"]["e_min"] / fits["flux1"]["b_crit"])
    assert sum(f["n_runs"] for f in fits.values()) == 1197 == gpt3["provenance"]["rows"]


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_least_squares_made_elsewhere_is_reproduced_to_six_digits(measurements: Path, aggregate: str) -> None:
    expected = json.loads((measurements / "expected_fits.json").read_text())
    found = analysis.fit(
        measurements / "mlperf_rcp_fixture.csv",
        group_by=["benchmark"],
        batch_column="global_batch_size",
        cost_column="to_converge",
        aggregate=aggregate,
    )
    compared = 0
    for fit in found.fits:
        theirs = expected[fit.sweep.group["benchmark"]][f"{aggregate}_fit"]
        if theirs["Bcrit"] < 1.0:  # their solver stopped on the way to a flat curve; ours says that it is one
            assert fit.b_crit == 0.0
            continue
        assert fit.b_crit == pytest.approx(theirs["Bcrit"], rel=1e-6)
        assert fit.curve.e_min == pytest.approx(theirs["Emin"], rel=1e-6)
        compared += 1
    assert compared == {"mean": 10, "median": 9}[aggregate]


def test_an_outlier_that_the_aggregate_keeps_is_named_all_the_same(measurements: Path) -> None:
    fits = analysis.fit(
        measurements / "mlperf_rcp_fixture.csv",
        group_by="benchmark",
        batch_column="global_batch_size",
        cost_column="to_converge",
        aggregate="mean",
    )
    (gpt3,) = [fit for fit in fits.fits if fit.sweep.group["benchmark"] == "gpt3"]
    assert any("an outlier that the mean keeps" in warning for warning in gpt3.curve.warnings)
    assert gpt3.b_crit > 3 * 16191
    assert math.isinf(gpt3.b_crit_interval[1])  # resamples keep it too, and some are without it


def test_mixed_units_in_one_group_are_refused(measurements: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = measurements / "mlperf_rcp_fixture.csv"
    said = refused(capsys, file, *MLPERF[2:])
    assert "mixes 3 units: epochs, samples, tokens" in said
    assert "--group-by" in said
    said = refused(capsys, file, "--group-by", "version", *MLPERF[2:])
    assert "group version 5.1.0" in said
    assert "--unit epochs contradicts" in refused(capsys, file, *MLPERF, "--unit", "epochs")
    assert "has no column 'benchmarks'" in refused(capsys, file, *MLPERF[2:], "--group-by", "benchmarks")


# --- an exact curve ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", ["samples", "steps"])
def test_an_exact_hyperbola_is_returned_to_nine_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cost: str
) -> None:
    (fit,) = fitted(capsys, hyperbola(tmp_path / "t.csv", cost=cost))
    assert fit["b_crit"] == pytest.approx(256, rel=1e-9)
    assert fit["s_min"] == pytest.approx(50, rel=1e-9)
    assert fit["e_min"] == pytest.approx(12800, rel=1e-9)
    assert fit["rms_log_residual"] < 1e-12
    assert (fit["status"], fit["cost_unit"], fit["n_runs"]) == ("ok", "samples", 4)
    assert fit["shape_exponent"] == pytest.approx(1, rel=1e-6)
    assert fit["regimes"]["perfect_ends"] == pytest.approx(256 / 9)
    assert fit["regimes"]["maximal_begins"] is None  # 2,304 lies beyond the measured batches
    assert [point["steps"] for point in fit["points"]] == pytest.approx([850, 250, 100, 62.5])


def test_with_one_run_per_batch_the_reason_says_that_no_misfit_can_be_seen(tmp_path: Path) -> None:
    inside = analysis.fit(hyperbola(tmp_path / "t.csv")).fits[0]
    beyond = analysis.fit(table(tmp_path / "u.csv", "batch_size,steps\n16,850\n32,450\n64,250\n128,150\n")).fits[0]
    assert (inside.status, beyond.status) == ("ok", "extrapolated")
    for fit in (inside, beyond):
        assert "with one run per batch a misfit cannot be told from noise" in fit.reason


def test_a_cost_in_epochs_gives_the_same_critical_batch_and_no_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = hyperbola(tmp_path / "t.csv", cost="epochs", e_min=1.7)
    (fit,) = fitted(capsys, file, "--cost-column", "epochs", "--unit", "epochs")
    assert fit["b_crit"] == pytest.approx(256, rel=1e-9)
    assert fit["e_min"] == pytest.approx(1.7, rel=1e-9)
    assert (fit["s_min"], fit["s_min_interval"], fit["cost_unit"]) == (None, [None, None], "epochs")
    assert [point["steps"] for point in fit["points"]] == [None] * 4
    assert main(["fit", str(file), "--cost-column", "epochs", "--unit", "epochs"]) == 0
    out = capsys.readouterr().out
    assert "S_min   " not in out
    assert "twice the fewest epochs" in out.splitlines()[0]


def test_the_overhead_definition_takes_its_share_and_its_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = hyperbola(tmp_path / "t.csv", seeds=3, noise=0.05)
    (plain,) = fitted(capsys, file)
    assert (plain["overhead"]["delta"], plain["overhead"]["reference_batch"]) == (0.2, 16)
    (fit,) = fitted(capsys, file, "--overhead", "0.5", "--reference-batch", "64")
    assert fit["overhead"]["batch"] == pytest.approx(1.5 * 64 + 0.5 * fit["b_crit"])
    assert fit["overhead"]["interval"] == pytest.approx([1.5 * 64 + 0.5 * end for end in fit["b_crit_interval"]])


def test_csv_and_parquet_and_a_table_made_longer_give_the_identical_fit(tmp_path: Path) -> None:
    file = hyperbola(tmp_path / "t.csv", seeds=3, noise=0.05)
    rows = np.genfromtxt(file, delimiter=",", names=True)
    columns = {"batch_size": rows["batch_size"].astype(int), "samples": rows["samples"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    numbered = {**columns, "seed": np.tile([0, 1, 2], 4), "reached": np.ones(12, dtype=bool)}
    pq.write_table(pa.table(numbered), tmp_path / "s.parquet")
    plain, parquet, counted = (analysis.fit(tmp_path / name).fits[0] for name in ("t.csv", "t.parquet", "s.parquet"))
    assert plain.curve == parquet.curve == counted.curve


# --- what the columns mean --------------------------------------------------------------------------------------


def test_rows_of_one_batch_without_a_seed_are_several_runs(tmp_path: Path) -> None:
    (sweep,) = analysis.load(table(tmp_path / "t.csv", "batch_size,steps\n8,30\n8,31\n8,32\n16,20\n"))
    assert [(run.batch_size, run.seed) for run in sweep.runs] == [(8, 0), (8, 1), (8, 2), (16, 0)]
    assert sweep.runs[2].samples == 256


def test_the_best_lr_of_each_batch_is_chosen_and_its_edge_is_named(tmp_path: Path) -> None:
    rows = [
        (B, lr, 50 * (1 + 256 / B) * (1.0 if lr == 0.2 else 1.3)) for B in (16, 64, 256, 1024) for lr in (0.1, 0.2, 0.4)
    ]
    text = "batch_size,lr,steps\n" + "".join(f"{B},{lr},{S}\n" for B, lr, S in rows)
    fit = analysis.fit(table(tmp_path / "t.csv", text)).fits[0]
    assert [point.lr for point in fit.points] == [0.2] * 4
    assert fit.b_crit == pytest.approx(256, rel=1e-9)
    cut = "".join(line for line in text.splitlines(keepends=True) if ",0.4," not in line)
    edge = analysis.fit(table(tmp_path / "u.csv", cut)).fits[0]
    assert edge.status == "not_identified"
    assert "smallest or largest of its grid" in edge.reason


def test_a_run_that_had_not_reached_is_censored_and_never_dropped_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "batch_size,steps,reached\n" + "".join(
        f"{B},{50 * (1 + 256 / B) * f},{'false' if (B, f) == (64, 1.1) else 'true'}\n"
        for B in (16, 64, 256, 1024)
        for f in (0.9, 1.0, 1.1)
    )
    (fit,) = fitted(capsys, table(tmp_path / "t.csv", text))
    assert fit["n_censored"] == 1
    assert fit["points"][1]["n_censored"] == 1
    assert fit["points"][1]["steps"] == pytest.approx(250)
    assert "1 of 12 runs never reached the target" in fit["left_out"][0]
    (censored,) = [run for run in analysis.load(tmp_path / "t.csv")[0].runs if not run.reached]
    assert (censored.bracket, censored.status) == ((censored.samples, math.inf), "limit")
    lost = "".join(ln.replace("true", "false") if ln.startswith("1024,") else ln for ln in text.splitlines(True))
    (fit,) = fitted(capsys, table(tmp_path / "u.csv", lost))
    assert (fit["n_batches"], fit["n_censored"]) == (3, 4)
    assert any("batch 1024: no learning rate reached" in sentence for sentence in fit["left_out"])


def test_several_targets_of_one_group_are_refused_and_told_apart_by_grouping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "batch_size,steps,metric,target\n" + "".join(
        f"{B},{t * 50 * (1 + 256 / B)},loss,{t}\n" for B in (16, 64, 256, 1024) for t in (1, 2)
    )
    file = table(tmp_path / "t.csv", text)
    assert "mixes 2 targets: 1, 2" in refused(capsys, file)
    fits = fitted(capsys, file, "--group-by", "target")
    assert [(fit["metric"], fit["target"], fit["group"]) for fit in fits] == [
        ("loss", 1, {"target": 1}),
        ("loss", 2, {"target": 2}),
    ]


def test_what_is_not_identified_is_an_answer_and_too_few_batches_everywhere_are_exit_6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    close = table(tmp_path / "t.csv", "batch_size,steps\n100,50\n150,40\n200,35\n")
    (fit,) = fitted(capsys, close)
    assert fit["status"] == "not_identified"
    assert "within a factor 2" in fit["reason"]
    two = table(tmp_path / "u.csv", "size,batch_size,steps\na,16,50\na,64,40\nb,16,50\nb,64,40\nb,256,35\n")
    fits = fitted(capsys, two, "--group-by", "size")
    assert [fit["n_batches"] for fit in fits] == [2, 3]
    assert (fits[0]["status"], fits[0]["b_crit"], fits[0]["overhead"]) == ("not_identified", None, None)
    said = refused(capsys, table(tmp_path / "v.csv", "batch_size,steps\n16,50\n64,40\n"), code=6)
    assert "2 of the 3 batch sizes that a curve needs" in said


def test_an_unbounded_end_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fit,) = fitted(capsys, table(tmp_path / "t.csv", "batch_size,steps\n16,640\n64,160\n256,40\n1024,10\n"))
    assert fit["status"] == "not_identified"
    assert fit["b_crit"] is None
    assert fit["b_crit_interval"][1] is None
    assert fit["s_min"] is None


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        (
            "batch,steps\n1,2\n",
            [],
            "has no column 'batch_size'; its columns are batch, steps; name the batch size with",
        ),
        ("batch_size,loss\n1,2\n", [], "has neither a column 'steps' nor 'samples'; its columns are batch_size, loss"),
        ("batch_size,steps\n1,2\n2,abc\n", [], "'steps' of {file} must hold a positive number in every row; row 2 has"),
        ("batch_size,steps\n1,2\n2,-3\n", [], "row 2 has -3"),
        ("batch_size,steps\n1,2\n2,0\n", [], "row 2 has 0"),
        ("batch_size,steps\n1,2\n2,\n", [], "row 2 has nothing"),
        ("batch_size,steps\n1,2\n2,1_000\n", [], "row 2 has '1_000': write it without thousands separators"),
        ("batch_size,steps\n1,2\n2,nan\n", [], "row 2 has nan"),
        ("batch_size,steps\n1,2\n2,inf\n", [], "row 2 has inf"),
        ("batch_size,steps\n1,2\n2.5,3\n", [], "'batch_size' of {file} must hold a whole number above 0"),
        ("batch_size,steps\n1,2\n0,3\n", [], "row 2 has 0"),
        ("batch_size,steps\n1,2\nsmall,3\n", [], "a whole number above 0 in every row; row 2 has 'small'"),
        ("batch_size,steps,seed\n1,2,x\n", [], "'seed' of {file} must hold a whole number from 0 on"),
        ("batch_size,steps,lr\n1,2,0\n", [], "'lr' of {file} must hold a positive number"),
        ("batch_size,steps,reached\n1,2,maybe\n", [], "'reached' of {file} must hold true or false"),
        ("batch_size,steps,seed\n1,2,0\n1,3,0\n", [], "has batch 1, seed 0 twice (row 2)"),
        (
            "batch_size,steps,m\n1,2,a\n2,3,\n",
            ["--group-by", "m"],
            "'m' of {file} must hold a value in every row; row 2",
        ),
        ("batch_size,steps\n", [], "has no row"),
        ("", [], "cannot be read as CSV: the file is empty"),
        ("batch_size,steps\n1,2,3\n", [], "cannot be read as CSV"),
        ("batch_size;steps\n1;2,5\n", [], "separated by semicolons; save it with commas"),
        ("batch_size\tsteps\n1\t2\n", [], "separated by tabs; save it with commas"),
        ("batch_size,steps,steps \n1,2,3\n", [], "more than one column named 'steps'"),
        ("batch_size,steps,steps\n1,2,3\n", [], "more than one column named 'steps'"),
        ("batch_size,steps,samples\n10,5,900\n", [], "row 1 of {file} has 900 samples, which are not 5 steps of 10"),
        ("batch_size,epochs\n1,2\n", ["--cost-column", "epochs"], "needs to know what it counts"),
        ("batch_size,n\n1,2\n", ["--cost-column", "n", "--unit", "steps"], "name that column with --steps-column"),
        ("batch_size,n\n1,2\n", ["--cost-column", "n", "--unit", " "], "--unit is empty"),
        ("batch_size,steps\n1,2\n", ["--steps-column", "steps", "--cost-column", "x"], "give one of --steps-column"),
        ("batch_size,steps\n1,2\n", ["--target", "0.5"], "--target and --metric cannot choose one"),
        ("batch_size,samples,unit\n1,2,epochs\n", [], "counts samples in epochs: name that column with --cost-column"),
        ("batch_size,steps\n1,2\n1e200,1e200\n", [], "row 2 of {file} has 1e+200 steps of 1e+200"),
    ],
)
def test_a_table_that_cannot_be_meant_is_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, arguments: list[str], says: str
) -> None:
    file = table(tmp_path / "t.csv", text)
    assert says.format(file=file) in refused(capsys, file, *arguments)


@pytest.mark.parametrize(
    "write", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t.replace(",", " , ")]
)
def test_line_ends_a_byte_order_mark_and_blanks_around_commas_change_nothing(
    tmp_path: Path, write: Callable[[str], str]
) -> None:
    plain = hyperbola(tmp_path / "t.csv", seeds=2, noise=0.05)
    other = tmp_path / "o.csv"
    other.write_bytes(write(plain.read_text()).encode())
    assert read_points(other, Columns())[0].runs == read_points(plain, Columns())[0].runs


def test_what_no_side_bounds_is_not_printed_as_infinity_or_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(B, 1e6 * B**-1.5 * (1.0 + 0.01 * seed)) for B in BATCHES for seed in (0, 1)]
    falling = "batch_size,steps\n" + "".join(f"{B},{steps!r}\n" for B, steps in rows)
    assert main(["fit", str(table(tmp_path / "t.csv", falling))]) == 0
    said = capsys.readouterr().out
    assert "∞ or more" not in said
    assert "All they say" not in said


def test_numbers_of_any_type_of_a_parquet_table_are_numbers_and_a_name_twice_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batches, steps = [8, 16, 32], [30.0, 20.0, 15.0]
    plain, other, twice = (tmp_path / f"{name}.parquet" for name in ("plain", "other", "twice"))
    pq.write_table(pa.table({"batch_size": batches, "steps": steps}), plain)
    written = pa.array([Decimal(f"{n:.2f}") for n in steps]), pa.array(map(str, batches)).dictionary_encode()
    pq.write_table(pa.table({"steps": written[0], "batch_size": written[1]}), other)
    assert read_points(other, Columns())[0].runs == read_points(plain, Columns())[0].runs
    pq.write_table(pa.Table.from_arrays([pa.array(batches)] * 2, ["steps", "steps"]), twice)
    assert "more than one column named 'steps'" in refused(capsys, twice)


def test_groups_of_a_csv_are_the_numbers_or_the_names_that_they_are_in_parquet(tmp_path: Path) -> None:
    lines = "".join(
        f"8,{seed},30,{seed % 2 + 10},{0.5 if seed % 2 else 1},{'12e4' if seed % 2 else 'b'}\n"
        for seed in (2**60 + 1, 4)
    )
    text = table(tmp_path / "t.csv", "batch_size,seed,steps,n,share,name\n" + lines)
    first, second = read_points(text, Columns(group_by=("n", "share", "name")))
    assert (first.group, second.group) == (
        {"n": 11, "share": 0.5, "name": "12e4"},
        {"n": 10, "share": 1.0, "name": "b"},
    )
    assert [type(value) for value in first.group.values()] == [int, float, str]
    assert first.runs[0].seed == 2**60 + 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_that_is_not_in_utf_8_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("batch_size,steps,größe\n1,2,3\n", encoding=encoding)
    assert "it is not in UTF-8; save it as CSV in UTF-8" in refused(capsys, file)


def test_a_source_that_is_neither_study_nor_table_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is neither a study nor a table" in refused(capsys, table(tmp_path / "notes.txt", "hello"))
    assert "cannot be read: there is no such file" in refused(capsys, tmp_path / "none.csv")
    assert "cannot be read as Parquet" in refused(capsys, table(tmp_path / "t.parquet", "no parquet"))
    assert "no such directory" in refused(capsys, tmp_path / "none", code=5)
    assert "copy it here first" in refused(capsys, "s3://bucket/points.csv")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--overhead", "-0.2"], "--overhead must be a share above 0"),
        (["--overhead", "nan"], "--overhead must be a share above 0"),
        (["--half-life", "9"], "--half-life smooths curves of branches: it needs --definition branched"),
        (["--confidence", "95"], "--confidence must lie between 0 and 1, got 95; 0.95 is usual"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in refused(capsys, hyperbola(tmp_path / "t.csv"), *arguments)


@pytest.mark.parametrize(("confidence", "says"), [("0.995", "99.5 % interval"), ("0.999", "99.9 % interval")])
def test_the_confidence_of_an_interval_is_never_rounded_to_certainty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], confidence: str, says: str
) -> None:
    assert main(["fit", str(hyperbola(tmp_path / "t.csv", seeds=3, noise=0.05)), "--confidence", confidence]) == 0
    out = capsys.readouterr().out
    assert says in out
    assert "100 % interval" not in out


def test_several_tables_are_pooled_by_group_and_their_seeds_kept_apart(tmp_path: Path) -> None:
    first = table(tmp_path / "a.csv", "m,batch_size,steps,seed\nx,8,30,0\nx,8,31,1\n")
    second = table(tmp_path / "b.csv", "m,batch_size,steps,seed\nx,8,29,0\ny,8,40,0\n")
    from analysis.sources import load_sweeps

    x, y = load_sweeps([first, second], Columns(group_by=("m",)))
    assert [run.seed for run in x.runs] == [0, 1, 2]
    assert x.provenance["pooled"] == [str(first), str(second)]
    assert y.group == {"m": "y"}
    alone = table(tmp_path / "d.csv", "batch_size,steps\n8,40\n")
    assert [sweep.group for sweep in load_sweeps([first, alone])] == [{"table": "a"}, {"table": "d"}]
    epochs = table(tmp_path / "c.csv", "m,batch_size,cost,unit\nx,8,29,epochs\n")
    with pytest.raises(ConfigError, match="has neither a column 'steps'"):
        load_sweeps([first, epochs], Columns(group_by=("m",)))
    assert read_points(epochs, Columns(cost="cost"))[0].cost_unit == "epochs"


def test_a_copy_of_a_table_beside_it_is_refused_because_its_runs_would_count_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = table(tmp_path / "a.csv", "m,batch_size,steps\nx,8,30\nx,16,20\nx,32,15\n")
    copied = table(tmp_path / "b.csv", first.read_text())
    assert "holds the same bytes as" in refused(capsys, first, copied, "--group-by", "m")


def test_a_fit_of_a_table_shows_itself_in_a_notebook_and_is_frozen(tmp_path: Path) -> None:
    fits = analysis.fit(hyperbola(tmp_path / "t.csv", seeds=3, noise=0.05))
    assert "<th>B_crit</th>" in fits._repr_html_()
    assert str(fits).startswith("The critical batch size is 267 samples")
    assert fits.to_dict()["fits"] == [fit.to_dict() for fit in fits.fits]
    jsonschema.validate(fits.to_dict(), schema_of("fit"))
    with pytest.raises(AttributeError):
        fits.fits[0].answer = ""
    (sweep,) = analysis.load(tmp_path / "t.csv")
    assert analysis.fit(sweep).to_dict() == fits.fits[0].to_dict()


@pytest.mark.parametrize("loss", ["linear", "huber", "weighted"])
def test_that_the_free_exponent_is_plain_least_squares_under_every_loss_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    file = hyperbola(tmp_path / "t.csv", seeds=3, noise=0.05)
    (plain,), (fit,) = fitted(capsys, file), fitted(capsys, file, "--loss", loss)
    assert fit["shape_exponent"] == plain["shape_exponent"]
    assert any("the free exponent is by plain least squares" in said for said in fit["warnings"]) == (loss != "linear")


def test_a_smallest_batch_that_no_run_reached_from_is_no_reference_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(B, 12800 * (1 + B / 256), "true") for B in (16, 64, 256, 1024)] + [(4, 90000, "false")]
    lines = "".join(f"{b},{c},{r},1\n" for b, c, r in rows)
    file = table(tmp_path / "t.csv", "batch_size,samples,reached,n\n" + lines)
    (fit,) = fitted(capsys, file)
    assert fit["overhead"] is None
    assert main(["fit", str(file), "--multiverse"]) == 0
    assert "overhead is" not in capsys.readouterr().out
    assert any("from the smallest measured batch, 4, which has no steps to target" in line for line in fit["left_out"])
    (named,) = fitted(capsys, file, "--reference-batch", "16")
    assert named["overhead"]["reference_batch"] == 16
    assert not any("smallest measured" in line for line in named["left_out"])
    assert main(["scaling", str(file), "--against", "n", "--definition", "overhead"]) == 2
    assert "no run at the smallest measured batch, 4, reached the target" in capsys.readouterr().err
