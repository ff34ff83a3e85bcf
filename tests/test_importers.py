"""Training curves from other tools: the same study gives the same fit, and what is missing is asked for."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tensorboardX import SummaryWriter

from analysis.cbs import fit_curve
from analysis.read import load
from analysis.sources.curves import read_curves, runs_against, split, unconfirmed
from analysis.sources.files import holds_curves
from analysis.sources.tfevents import masked_crc32c, scalars
from analysis.targets import batch_points, runs_to_target
from scaleexp.errors import ConfigError, ScaleexpError, StorageError
from tests.logged_elsewhere import (
    PATTERN,
    Evaluated,
    config,
    evaluated,
    history,
    long_rows,
    trainer_state,
    write_csv,
    write_double_events,
    write_events,
    write_huggingface,
    write_parquet,
)
from tests.study_factory import METRIC, parquet_bytes, sha256, write_study

HARDEST, EASIER = 1.0, 1.5
TORCH = Path(__file__).with_name("golden") / "torch.tfevents"


def lose(trial: Path) -> None:
    """Make the last evaluation of a diverged trial the lost one that a script would log."""
    file = trial / "commits" / "0002.json"
    commit = json.loads(file.read_text())
    for segment in commit["segments"]:
        if segment["file"].endswith("evals-0002.parquet"):
            table = pq.read_table(trial / segment["file"])
            values = table["value"].to_numpy().copy()
            values[-1] = math.nan
            at = table.schema.get_field_index("value")
            data = parquet_bytes(table.set_column(at, table.schema.field(at), [values]))
            (trial / segment["file"]).write_bytes(data)
            segment["sha256"] = sha256(data)
    file.write_text(json.dumps(commit))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with noise, an LR grid, three seeds, runs that met their limit and one that diverged."""
    path = write_study(tmp_path_factory.mktemp("study") / "s", targets=(EASIER, HARDEST))
    for file in path.glob("trials/*/commits/0002.json"):
        if json.loads(file.read_text())["status"] == "diverged":
            lose(file.parents[1])
    return load(path)


@pytest.fixture(scope="module")
def logged(study):
    return evaluated(study, METRIC)


def by_name(runs):
    return sorted((replace(run, key="") for run in runs), key=lambda run: (run.batch_size, run.lr, run.seed))


def fitted(runs):
    points, _ = batch_points(runs)
    return fit_curve(points, runs, resamples=200)


def as_long_csv(root, logged):
    return read_curves(write_csv(root / "long.csv", long_rows(logged)), unit="example")


def as_long_csv_of_steps(root, logged):
    names = ["run", "step", "batch_size", "lr", "seed", "value"]
    return read_curves(write_csv(root / "steps.csv", long_rows(logged), names), unit="example")


def as_long_parquet(root, logged):
    return read_curves(write_parquet(root / "long.parquet", long_rows(logged)), unit="example")


def as_trainer_state(root, logged):
    return read_curves(write_huggingface(root / "hf", logged), metric="eval_loss", unit="example")


def as_double_events(root, logged):
    return read_curves(write_double_events(root / "tb", logged), unit="example", run_pattern=PATTERN)


def as_history_csv_of_each_run(root, logged):
    paths = []
    for run in logged:
        (root / run.name).mkdir()
        names = ["", "_step", "_runtime", "_timestamp", "train/global_step", "train/loss", "eval/loss", "eval/runtime"]
        paths.append(write_csv(root / run.name / "history.csv", history(run), names))
    return read_curves(paths, metric="eval/loss", unit="example", run_pattern=PATTERN)


def as_history_jsonl(root, logged):
    lines = []
    for run in logged:
        nested = {name.partition(".")[2]: value for name, value in config(run).items() if "." in name}
        # W&B writes a value that is no number as text.
        for row in history(run, run=run.key, config=nested):
            lines.append(json.dumps(row).replace("NaN", '"NaN"') + "\n")
    (root / "history.jsonl").write_text("".join(lines))
    return read_curves(root / "history.jsonl", metric="eval/loss", unit="example")


def as_history_parquet(root, logged):
    rows = [row for run in logged for row in history(run, **config(run))]
    return read_curves(write_parquet(root / "history.parquet", rows), metric="eval/loss", unit="example")


EXACT = [
    as_long_csv,
    as_long_csv_of_steps,
    as_long_parquet,
    as_trainer_state,
    as_double_events,
    as_history_csv_of_each_run,
    as_history_jsonl,
    as_history_parquet,
]


@pytest.mark.parametrize("imported", EXACT, ids=lambda f: f.__name__)
def test_a_study_and_its_curves_in_another_format_give_the_identical_runs_and_fit(tmp_path, study, logged, imported):
    runs = runs_to_target(study, METRIC, HARDEST, "min")
    curves = imported(tmp_path, logged)
    again = runs_against(curves, HARDEST)
    assert {run.status for run in runs} == {"reached", "limit", "diverged"}
    assert by_name(again) == by_name(runs)
    assert fitted(again) == fitted(runs)
    assert fitted(again).b_crit == pytest.approx(256.0, rel=0.3)
    assert sum(file.rows for file in curves.provenance) >= sum(len(run.evals) for run in logged)


def test_at_an_easier_target_only_the_word_for_how_a_run_ended_differs(tmp_path, study, logged):
    runs = [replace(run, status="") for run in by_name(runs_to_target(study, METRIC, EASIER, "min"))]
    again = [replace(run, status="") for run in by_name(runs_against(as_long_csv(tmp_path, logged), EASIER))]
    assert again == runs


def test_scalars_of_single_precision_give_the_fit_of_the_values_rounded_to_it(tmp_path, study, logged):
    rounded = [replace(run, evals=tuple((s, float(np.float32(v))) for s, v in run.evals)) for run in logged]
    same = runs_against(as_long_csv(tmp_path, rounded), HARDEST)
    curves = read_curves(write_events(tmp_path / "tb", logged), metric="eval/loss", unit="example", run_pattern=PATTERN)
    again = runs_against(curves, HARDEST)
    assert by_name(again) == by_name(same)
    assert fitted(again) == fitted(same)
    true = fitted(runs_to_target(study, METRIC, HARDEST, "min"))
    assert fitted(again) != true
    assert fitted(again).b_crit == pytest.approx(true.b_crit, rel=1e-5)


def test_the_chart_that_wandb_exports_gives_the_identical_fit_run_by_run(tmp_path, study, logged):
    paths = []
    for run in logged:
        column = f"{run.name} - eval/loss"
        rows = [{"train/global_step": s, column: v, f"{column}__MIN": v, f"{column}__MAX": v} for s, v in run.evals]
        paths.append(write_csv(tmp_path / f"{run.key}.csv", rows))
    curves = read_curves(paths, unit="example", run_pattern=PATTERN)
    assert curves.metric == "eval/loss"
    assert by_name(runs_against(curves, HARDEST)) == by_name(runs_to_target(study, METRIC, HARDEST, "min"))


def test_points_of_a_chart_that_average_over_several_are_told(tmp_path):
    rows = [{"Step": s, "a - loss": 1.0 / (s + 1), "a - loss__MIN": 0.1, "a - loss__MAX": 2.0} for s in range(4)]
    curves = read_curves(write_csv(tmp_path / "c.csv", rows), unit="token", batch_size=8)
    assert any("4 points of this chart are averages" in problem for problem in curves.problems)


def test_the_table_of_what_was_read_is_read_back_to_the_same(tmp_path, logged):
    curves = as_history_parquet(tmp_path, logged)
    first = replace(curves.runs[0], workers=4, status="stopped", group={**curves.runs[0].group, "depth": "deep"})
    curves = replace(
        curves, runs=(first, replace(curves.runs[1], group={"optimizer": "adamw", "depth": 3}), *curves.runs[2:])
    )
    pq.write_table(curves.table(), tmp_path / "again.parquet")
    again = read_curves(tmp_path / "again.parquet", metric="eval/loss")
    assert runs_against(again, HARDEST) == runs_against(curves, HARDEST)
    assert again.runs[0].group == first.group
    assert [group for group, _ in split(again, ["optimizer"])] == [{"optimizer": "adamw"}]


# what each file may be without

ROWS = [
    {"run": run, "steps": step, "batch_size": 64, "value": value}
    for run in ("a", "b")
    for step, value in ((10, 3.0), (20, 2.0), (30, 1.0), (40, 0.5))
]


def without(*names):
    return [{name: cell for name, cell in row.items() if name not in names} for row in ROWS]


def sentence(error) -> str:
    """The message, which is one sentence."""
    text = str(error.value)
    assert text.endswith(".")
    assert text.count(". ") == 0, text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def changed(**cells):
    return [*ROWS[:-1], {**ROWS[-1], **cells}]


REFUSALS = {
    "no batch": (
        without("batch_size"),
        {"unit": "example"},
        "global batch size of run a.*--batch-size.*--batch-column",
    ),
    "no unit": (ROWS, {}, "what the batch size of run a counts: give --unit"),
    "no count": (without("steps"), {"unit": "example"}, "no column samples or steps.*--steps-column"),
    "no run": (without("run"), {"unit": "example"}, "no column 'run' for --run-column"),
    "no value": (without("value"), {"unit": "example"}, "no metric.*--metric"),
    "no such column": (ROWS, {"unit": "example", "batch_column": "B"}, "no column 'B' for --batch-column"),
    "a changing batch": (changed(batch_size=128), {"unit": "example"}, "batch_size changes within one run"),
    "a changing lr": ([{**r, "lr": i} for i, r in enumerate(ROWS)], {"unit": "example"}, "lr changes within one run"),
    "half a batch": ([{**r, "batch_size": 6.5} for r in ROWS], {"unit": "example"}, "whole number, got 6.5"),
    "batch zero": ([{**r, "batch_size": 0} for r in ROWS], {"unit": "example"}, "at least 1, got 0"),
    "two batches": (ROWS, {"unit": "example", "batch_size": 128}, r"said differently \(128 by --batch-size, 64 by"),
    "two units": (
        [{**r, "unit": "token" if r["run"] == "a" else "example"} for r in ROWS],
        {},
        "the runs count examples and tokens",
    ),
    "a unit against the log's": ([{**r, "unit": "tokens"} for r in ROWS], {"unit": "example"}, "unit of run a is said"),
    "words for values": (changed(value="low"), {"unit": "example"}, "column value should hold numbers.*'low'"),
    "no such metric": (
        [{**r, "metric": "loss"} for r in ROWS],
        {"unit": "example", "metric": "accuracy"},
        r"no run logged 'accuracy'.*\(loss\)",
    ),
    "several metrics": (
        [{**r, "metric": m} for r in ROWS for m in ("loss", "accuracy")],
        {"unit": "example"},
        r"several metrics.*\(accuracy, loss\)",
    ),
    "a pattern that fits not": (ROWS, {"unit": "example", "run_pattern": r"bs(?P<n>\d+)"}, "does not match run 'a'"),
    "a broken pattern": (ROWS, {"unit": "example", "run_pattern": "("}, "no regular expression"),
    "an lr of words": ([{**r, "lr": "high"} for r in ROWS], {"unit": "example"}, "lr of run a is 'high'"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_missing_or_contradicts_itself_is_asked_for_in_one_sentence(tmp_path, what):
    rows, options, message = REFUSALS[what]
    path = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(ConfigError, match=message) as error:
        read_curves(path, **options)
    sentence(error)


def test_the_metrics_of_a_wide_table_are_listed_and_its_constants_are_not(tmp_path):
    rows = [{**r, "loss": r["value"], "top1": -r["value"], "n_params": 7, "note": "x"} for r in ROWS]
    path = write_csv(tmp_path / "t.csv", [{k: v for k, v in r.items() if k != "value"} for r in rows])
    with pytest.raises(ConfigError, match=r"choose one by --metric \(loss, top1\)"):
        read_curves(path, unit="example")
    curves = read_curves(path, unit="example", metric="top1")
    assert [group for group, _ in split(curves, ["n_params"])] == [{"n_params": 7}]
    with pytest.raises(ConfigError, match="no 'depth' to group by: name one of n_params, note"):
        split(curves, ["depth"])


def test_a_batch_of_one_process_is_not_taken_for_the_global_one(tmp_path, logged):
    root = write_huggingface(tmp_path / "hf", logged[:1])
    card = root / logged[0].key / "README.md"
    lines = card.read_text().splitlines()
    for gone in ("total_train_batch_size", "train_batch_size"):
        card.write_text("\n".join(line for line in lines if f"- {gone}" not in line))
        with pytest.raises(ConfigError, match="train_batch_size of 4 is that of one process") as error:
            read_curves(root, metric="eval_loss", unit="example")
        sentence(error)
    card.write_text("\n".join(line for line in lines if "num_" not in line and "accum" not in line))
    assert read_curves(root, metric="eval_loss", unit="example").runs[0].batch_size == logged[0].batch_size
    card.unlink()
    given = read_curves(root, metric="eval_loss", unit="example", batch_size=logged[0].batch_size)
    assert given.runs[0].lr == logged[0].lr


WARMED_UP = (0.0, 0.25, 0.5, 0.375, 0.25, 0.125)
"""A schedule of learning rates that rises to its peak and decays: neither the first nor the last is the largest."""


def as_a_trainer_logs_it(root, run):
    state = trainer_state(run, run.batch_size)
    records = [r for r in state["log_history"] if "learning_rate" in r]
    for record, share in zip(records, WARMED_UP, strict=False):
        record["learning_rate"] = 2 * share * run.lr
    root.mkdir()
    (root / "trainer_state.json").write_text(json.dumps(state))
    return root, {"metric": "eval_loss"}


def as_tensorboard_logs_it(root, run, tag="train/learning_rate"):
    with SummaryWriter(str(root)) as writer:
        for (step, value), share in zip(run.evals, WARMED_UP, strict=False):
            writer.add_scalar("eval/loss", value, step)
            writer.add_scalar(tag, 2 * share * run.lr, step)
    return root, {"metric": "eval/loss"}


def as_lightning_logs_it(root, run):
    return as_tensorboard_logs_it(root, run, "lr-AdamW/pg1")


def as_wandb_logs_it(root, run, column="train/learning_rate"):
    rows = [r for r in history(run) if "train/loss" in r or "eval/loss" in r]
    for row in rows:
        row.pop("train/learning_rate", None)
    for row, share in zip([r for r in rows if "train/loss" in r], WARMED_UP, strict=False):
        row[column] = 2 * share * run.lr
    return write_parquet(root.with_suffix(".parquet"), rows), {"metric": "eval/loss"}


def as_wandb_logs_it_under_our_name(root, run):
    return as_wandb_logs_it(root, run, "lr")


@pytest.mark.parametrize(
    "logs",
    [
        as_a_trainer_logs_it,
        as_tensorboard_logs_it,
        as_lightning_logs_it,
        as_wandb_logs_it,
        as_wandb_logs_it_under_our_name,
    ],
)
def test_of_a_learning_rate_that_rises_and_decays_the_largest_is_the_peak_and_that_is_said(tmp_path, logged, logs):
    run = next(r for r in logged if len(r.evals) > len(WARMED_UP))
    path, named = logs(tmp_path / "run", run)
    curves = read_curves(path, unit="example", batch_size=16, **named)
    assert [curve.lr for curve in curves.runs] == [pytest.approx(run.lr, rel=1e-6)]
    (said,) = [problem for problem in curves.problems if "taken for the peak" in problem]
    assert said == (
        f"the largest learning rate that 1 run (run, {run.lr:g}) logged is taken for the peak: give --lr, or a group "
        "(?P<lr>...) in --run-pattern, where it was another."
    )
    stated = read_curves(path, unit="example", batch_size=16, lr=0.3, **named)
    assert [curve.lr for curve in stated.runs] == [0.3]
    assert not any("peak" in problem for problem in stated.problems)


def test_a_constant_learning_rate_that_was_logged_is_taken_without_a_word(tmp_path, logged):
    runs = logged[:3]
    curves = read_curves(write_events(tmp_path / "tb", runs), metric="eval/loss", unit="example", batch_size=16)
    assert sorted(curve.lr for curve in curves.runs) == pytest.approx(sorted(run.lr for run in runs), rel=1e-6)
    assert curves.problems == ()


def test_the_peak_of_a_run_in_two_files_is_that_of_both(tmp_path):
    halves = []
    for name, steps in (("a", (1, 2)), ("b", (3, 4))):
        rows = [{"run": "x", "_step": s, "loss": 1.0 / s, "lr": 0.1 * s, "batch_size": 8} for s in steps]
        halves.append(write_csv(tmp_path / f"{name}.csv", rows))
    (curve,) = read_curves(halves, metric="loss", unit="example").runs
    assert curve.lr == pytest.approx(0.4)


def test_a_column_named_for_a_file_without_columns_is_refused(tmp_path, logged):
    for path, metric in ((write_huggingface(tmp_path / "hf", logged[:1]), "eval_loss"), (TORCH, "eval/loss")):
        with pytest.raises(ConfigError, match=r"--batch-column names a column, and .* has none") as error:
            read_curves(path, metric=metric, unit="example", batch_column="B")
        sentence(error)


def test_a_batch_column_of_another_name_is_the_batch_and_no_group(tmp_path):
    rows = [{"B" if name == "batch_size" else name: cell for name, cell in row.items()} for row in ROWS]
    (curve, _) = read_curves(write_csv(tmp_path / "t.csv", rows), unit="token", batch_column="B").runs
    assert (curve.batch_size, dict(curve.group)) == (64, {})


def test_of_several_checkpoints_the_newest_is_the_run(tmp_path, logged):
    run = logged[0]
    for steps in (3, len(run.evals)):
        directory = tmp_path / "run" / f"checkpoint-{run.evals[steps - 1][0]}"
        directory.mkdir(parents=True)
        state = trainer_state(replace(run, evals=run.evals[:steps]), 4)
        (directory / "trainer_state.json").write_text(json.dumps(state))
    (curve,) = read_curves(tmp_path / "run", metric="eval_loss", unit="example", batch_size=16).runs
    assert curve.run == "run"
    assert curve.values.tolist() == [value for _, value in run.evals]
    assert curve.samples.tolist() == [16 * step for step, _ in run.evals]


def test_a_count_of_log_calls_is_told_and_never_preferred_to_that_of_steps(tmp_path, logged):
    rows = history(logged[0], **config(logged[0]))
    path = write_parquet(tmp_path / "h.parquet", rows)
    counted = read_curves(path, metric="eval/loss", unit="example")
    assert counted.runs[0].samples.tolist() == [step * logged[0].batch_size for step, _ in logged[0].evals]
    write_parquet(path, [{k: v for k, v in row.items() if k != "train/global_step"} for row in rows])
    taken = read_curves(path, metric="eval/loss", unit="example")
    assert any("_step is taken for optimizer steps" in problem for problem in taken.problems)


def test_a_row_that_was_logged_again_counts_as_it_was_logged_last(tmp_path):
    rows = [*ROWS, {"run": "a", "steps": 20, "batch_size": 64, "value": 2.5}]
    curves = read_curves(write_csv(tmp_path / "t.csv", rows), unit="example")
    assert curves.runs[0].values.tolist() == [3.0, 2.5, 1.0, 0.5]
    assert curves.runs[0].samples.tolist() == [640, 1280, 1920, 2560]
    assert any("1 evaluations in 1 of 2 runs (first: a) were logged again" in problem for problem in curves.problems)


@pytest.mark.parametrize("lost", ["nan", "NaN", "inf", "-Infinity", ""])
def test_a_run_that_lost_its_value_never_counts_as_reached(tmp_path, lost):
    path = write_csv(tmp_path / "t.csv", changed(value=lost))
    curves = read_curves(path, unit="example")
    assert [run.status for run in runs_against(curves, 2.0)] == ["reached", "diverged"]
    assert [run.reached for run in runs_against(curves, 2.0)] == [True, False]


def test_a_script_that_stops_at_its_target_is_told_that_nothing_confirms_it(tmp_path):
    curves = read_curves(write_csv(tmp_path / "t.csv", ROWS), unit="example")
    assert [run.reached for run in runs_against(curves, 0.5)] == [False, False]
    assert "2 of 2 runs (first: a) end at their first evaluation with value ≤ 0.5" in (unconfirmed(curves, 0.5) or "")
    assert unconfirmed(curves, 1.5) is None


def test_a_target_that_is_met_before_the_first_step_is_refused(tmp_path):
    rows = [{**row, "steps": row["steps"] - 10} for row in ROWS]
    with pytest.raises(ConfigError, match="already met before the first step in 2 of 2 runs"):
        runs_against(read_curves(write_csv(tmp_path / "t.csv", rows), unit="example"), 3.5)


def test_a_metric_that_rises_is_read_the_other_way_round(tmp_path):
    rows = [{**row, "value": -row["value"]} for row in ROWS]
    (run, _) = runs_against(read_curves(write_csv(tmp_path / "t.csv", rows), unit="example"), -1.5, "max")
    assert (run.samples, run.bracket) == (25 * 64, (20 * 64, 30 * 64))


# files that are not whole

EVENT_FILE = "events.out.tfevents.1700000000.host"


def values_read(curves):
    return {(curve.run, s): v for curve in curves.runs for s, v in zip(curve.samples, curve.values, strict=True)}


def whole_and_cut(tmp_path, write, name, **options):
    """What is read from a file cut at 150 places, against what is read from the whole of it."""
    path = write(tmp_path)
    truth = values_read(read_curves(path, **options))
    content = (path / name if name else path).read_bytes()
    for cut in range(0, len(content), max(1, len(content) // 150)):
        (path / name if name else path).write_bytes(content[:cut])
        try:
            curves = read_curves(path, **options)
        except ScaleexpError as error:
            yield cut, None, truth, str(error)
        else:
            yield cut, values_read(curves), truth, "\n".join(curves.problems)


CUT = {
    "csv": (lambda root: write_csv(root / "t.csv", ROWS), "", {"unit": "example"}),
    "jsonl": (
        lambda root: _jsonl(root / "t.jsonl"),
        "",
        {"unit": "example", "metric": "loss"},
    ),
    "events": (
        lambda root: _one_run(write_events, root),
        EVENT_FILE,
        {"unit": "example", "metric": "eval/loss", "batch_size": 16},
    ),
    "trainer state": (
        lambda root: _one_run(write_huggingface, root),
        "trainer_state.json",
        {"unit": "example", "metric": "eval_loss", "batch_size": 16},
    ),
}
"""How to write a file, its name in what was written, how it is read."""


def _jsonl(path):
    rows = [{"run": r["run"], "_step": r["steps"], "loss": r["value"], "config": {"batch_size": 64}} for r in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _one_run(write, root):
    run = Evaluated(key="k", batch_size=16, lr=0.1, seed=0, evals=tuple((i, 1.0 / (i + 1)) for i in range(12)))
    (directory,) = write(root / "runs", [run]).iterdir()
    for file in directory.glob("*tfevents*"):
        file.rename(directory / EVENT_FILE)
    return directory


def record_ends(tmp_path, kind):
    """Where a cut file cannot be told from a shorter one."""
    again = tmp_path / "again"
    again.mkdir()
    write, name, _ = CUT[kind]
    path = write(again)
    content = (path / name if name else path).read_bytes()
    if kind == "events":
        ends = [0]
        while ends[-1] < len(content):
            ends.append(ends[-1] + 16 + struct.unpack_from("<Q", content, ends[-1])[0])
        return set(ends)
    if kind == "trainer state":
        return set()
    # The line break behind a JSON record is not needed to see that it is whole.
    return {
        at + past for at, byte in enumerate(content) if byte == ord("\n") for past in (1, *(0,) * (kind == "jsonl"))
    }


@pytest.mark.parametrize("kind", CUT)
def test_a_cut_file_keeps_its_whole_records_and_says_so(tmp_path, kind):
    write, name, options = CUT[kind]
    kept, ends = 0, set()
    for cut, found, truth, said in whole_and_cut(tmp_path, write, name, **options):
        if found is None:
            assert said.endswith("."), (cut, said)
            continue
        assert found.items() <= truth.items(), cut
        kept += len(found) < len(truth)
        if len(found) < len(truth) and not said:
            ends.add(cut)
    assert kept > 10
    assert ends <= record_ends(tmp_path, kind)


def test_a_cut_parquet_file_is_refused_in_one_sentence(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match="not whole") as error:
        read_curves(path, unit="example")
    sentence(error)


def test_an_event_file_with_a_wrong_byte_anywhere_never_gives_a_wrong_value(tmp_path):
    directory = _one_run(write_events, tmp_path)
    content = (directory / EVENT_FILE).read_bytes()
    truth = set(scalars(content)[0])
    for at in range(len(content)):
        flipped = content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :]
        found, _, problems = scalars(flipped)
        assert set(found) <= truth, at
        assert problems, at


def test_damage_in_one_record_leaves_those_after_it(tmp_path):
    content = (_one_run(write_events, tmp_path) / EVENT_FILE).read_bytes()
    whole, records, _ = scalars(content)
    at = content.index(b"eval/loss", len(content) // 2)
    found, fewer, problems = scalars(content[:at] + b"X" + content[at + 1 :])
    assert (len(found), fewer) == (len(whole) - 1, records - 1)
    assert problems == ["1 of its records are damaged and left out"]


def test_bytes_of_no_known_kind_are_refused_in_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    for length in (0, 1, 30, 5000):
        (tmp_path / "x").write_bytes(rng.bytes(length))
        with pytest.raises(ScaleexpError) as error:
            read_curves(tmp_path / "x", unit="example")
        sentence(error)
    for content in (b"{", b"[]", b'{"log_history": []}', b"a,b\n", b"\n\n", b"[1, 2]", b'{"a": 1}', b"PAR1"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ScaleexpError) as error:
            read_curves(tmp_path / "x", unit="example")
        sentence(error)


def test_a_place_without_curves_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere.csv", tmp_path / "empty", []):
        with pytest.raises(ScaleexpError) as error:
            read_curves(path, unit="example")
        sentence(error)


def test_curves_are_told_from_points_by_their_content(tmp_path, logged):
    points = write_csv(tmp_path / "p.csv", [{"run": r, "batch_size": 64, "steps": 9} for r in "abc"])
    assert not holds_curves(points)
    assert holds_curves(write_csv(tmp_path / "t.csv", ROWS))
    assert holds_curves(write_parquet(tmp_path / "h.parquet", history(logged[0])))
    assert holds_curves(write_huggingface(tmp_path / "hf", logged[:1]))
    assert holds_curves(TORCH)
    assert not holds_curves(Path(__file__).with_name("golden") / "study-v1")


def test_two_kinds_at_once_are_refused(tmp_path, logged):
    table = write_csv(tmp_path / "t.csv", ROWS)
    state = write_huggingface(tmp_path / "hf", logged[:1])
    with pytest.raises(ConfigError, match="several kinds") as error:
        read_curves([table, state], unit="example")
    sentence(error)


def test_the_checksum_is_the_one_of_the_format():
    # RFC 3720, appendix B.4: 32 bytes of zeros, of ones, ascending.
    for data, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)):
        assert masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_file_that_torch_wrote_has_the_values_that_it_was_given():
    """By torch 2.13 with tensorboard 2.21: `eval/loss` as tensors of double precision, `train/loss` in single."""
    given = [2.5 / (1 + i / 3) for i in range(5)]
    for metric, values in (("eval/loss", given), ("train/loss", np.float32(given).tolist())):
        (curve,) = read_curves(TORCH, metric=metric, unit="example", batch_size=32).runs
        assert curve.samples.tolist() == [3200.0 * i for i in range(5)]
        assert curve.values.tolist() == values
    with pytest.raises(ConfigError, match=r"choose one by --metric \(eval/loss, train/loss\)"):
        read_curves(TORCH, unit="example", batch_size=32)
