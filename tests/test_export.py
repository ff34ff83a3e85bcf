"""`scaleexp-analysis export`: the rows of the log, exactly, once each, whatever is exported to."""

import importlib.util
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import analysis
from analysis.cli import main
from analysis.export import FORMATS, export, mlflow, place, rows, tables
from analysis.export.events import scalar_frames, version_frame
from analysis.export.facts import facts_row
from analysis.export.tensorboard import directory_name
from analysis.output import schema_of
from analysis.read import read_evals, read_table
from scaleexp import schema
from scaleexp.errors import ConfigError, CorruptError
from tests.study_factory import write_study

GOLDEN = Path(__file__).parent / "golden" / "events.out.tfevents.golden"
has_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
EVERY = [pytest.param(to, marks=has_mlflow if to == "mlflow" else ()) for to in FORMATS]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(
        tmp_path_factory.mktemp("studies") / "s", batches=(64, 256, 1024), lrs_per_batch=1, seeds=2, evals_per_e_min=10
    )


@pytest.fixture
def young(study: Path, tmp_path: Path) -> Path:
    """The same study when some trials had not begun and others had half of their rows."""
    copy = Path(shutil.copytree(study, tmp_path / "young"))
    trials = sorted((copy / "trials").iterdir())
    for trial in trials[::3]:
        shutil.rmtree(trial)
    for trial in trials[1::3]:
        (trial / "commits" / "0002.json").unlink()
    return copy


def grow(young: Path, study: Path) -> None:
    shutil.copytree(study / "trials", young / "trials", dirs_exist_ok=True)


def every_row(study: Path, name: schema.Table) -> pa.Table:
    return read_table(analysis.load(study), name, [c.name for c in schema.TABLES[name]], None)


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protocol buffer's fields."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if not message[at - 1] & 0x80:
                return value, at

    at = 0
    while at < len(message):
        key, at = varint(at)
        kind = key & 7
        if kind == 0:
            value, at = varint(at)
            yield key >> 3, value
            continue
        size, at = varint(at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        content, at = message[at : at + size], at + size
        yield key >> 3, struct.unpack({1: "<d", 5: "<f"}[kind], content)[0] if kind != 2 else content


def events(file: Path) -> Iterator[tuple[float, int, dict[str, float]]]:
    """(wall time, step, scalars) of every event of a file, all checksums verified."""
    data = file.read_bytes()

    def verified(start: int, end: int) -> bytes:
        crc = crc32c(data[start:end])
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert struct.unpack("<I", data[end : end + 4])[0] == masked
        return data[start:end]

    at, first = 0, True
    while at < len(data):
        (size,) = struct.unpack("<Q", verified(at, at + 8))
        event = dict(fields(verified(at + 12, at + 12 + size)))
        at += 16 + size
        if first:
            assert event[3] == b"brain.Event:2"
            first = False
            continue
        values = [dict(fields(value)) for _, value in fields(event[5])]
        yield event[1], event[2], {value[1].decode(): value[2] for value in values}


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) in all event files of a trial, in the order of the files."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(directory.glob("*tfevents*")):
        for _, step, values in events(file):
            for tag, value in values.items():
                found.setdefault(tag, []).append((step, value))
    return found


def content(out: Path, to: str) -> Any:
    """What an export holds, however many files it took."""
    if to in ("csv", "parquet"):
        return {file.name: file.read_bytes() for file in sorted(out.iterdir()) if file.name != place.MARKER}
    if to == "tensorboard":
        return {d.name: sorted(scalars(d).items()) for d in sorted(out.iterdir()) if d.is_dir()}
    runs: dict[str, dict[str, str]] = {}
    for run in (meta.parent for meta in out.glob("*/*/meta.yaml")):
        files = sorted(file for part in ("metrics", "params", "tags") for file in (run / part).rglob("*"))
        said = {str(file.relative_to(run)): file.read_text() for file in files if file.is_file()}
        assert runs.setdefault(said[f"tags/{mlflow.TRIAL_TAG}"], said) is said
    return sorted(runs.items())


def test_parquet_holds_the_rows_of_the_log_exactly_with_their_units(study: Path, tmp_path: Path) -> None:
    export(analysis.load(study), "parquet", tmp_path / "out")
    for name in ("steps", "evals"):
        table = pq.read_table(tmp_path / "out" / f"{name}.parquet")
        # NaN differs from itself, so that losses that were lost are compared by their bytes.
        assert json.dumps(table.to_pylist()) == json.dumps(every_row(study, name).to_pylist())
        assert table.schema == schema.arrow_schema(name)
        assert table.schema.field("samples").metadata[b"unit"] == b"samples"
    assert pq.read_schema(tmp_path / "out" / "trials.parquet").field("elapsed_s").metadata == {b"unit": b"seconds"}


def test_csv_gives_back_every_bit_of_every_number(study: Path, tmp_path: Path) -> None:
    export(analysis.load(study), "csv", tmp_path / "out")
    for name in ("steps", "evals"):
        arrow = schema.arrow_schema(name)
        options = pyarrow.csv.ConvertOptions(
            column_types=arrow, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
        )
        table = pyarrow.csv.read_csv(tmp_path / "out" / f"{name}.csv", convert_options=options)
        assert json.dumps(table.to_pylist()) == json.dumps(every_row(study, name).to_pylist())
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- `samples` [samples]: samples eaten" in text


def test_extreme_numbers_survive_csv(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan, 1 / 3, 1e22, None]
    table = pa.table({"x": pa.array(values, pa.float64())})
    tables._write_rows(iter([table]), table.schema, "csv", tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text().splitlines()[1:]
    assert repr([float(line) if line else None for line in lines]) == repr(values)


def test_trials_have_their_facts_status_and_realisation_in_columns(study: Path, tmp_path: Path) -> None:
    export(analysis.load(study), "parquet", tmp_path)
    trials = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert len(trials) == len(list((study / "trials").iterdir()))
    second = next(row for row in trials if row["realisation"])
    assert (second["realisation.engine"], second["optimizer.name"], second["workers"]) == ("ddp", "sgd", 2)
    assert {row["status"] for row in trials} == {"reached", "diverged"}
    assert "is nan at step" in next(row["cause"] for row in trials if row["status"] == "diverged")


def test_event_files_hold_each_step_of_the_log_at_its_own_step(study: Path, tmp_path: Path) -> None:
    log = analysis.load(study)
    export(log, "tensorboard", tmp_path)
    for trial in log.trials:
        found = scalars(tmp_path / directory_name(trial))
        alone = replace(log, trials=(trial,))
        steps = read_table(alone, "steps", [c.name for c in schema.STEPS], None)
        for tag, column in (("loss", "loss"), ("lr", "step_lr"), ("samples", "samples"), ("step_s", "step_s")):
            expected = [(r["step"], float(np.float32(r[column]))) for r in steps.to_pylist()]
            assert repr(found[f"train/{tag}"]) == repr(expected)
        measured = steps.filter(pc.is_valid(steps["grad_sq_big"])).to_pylist()
        assert found["train/grad_norm"] == [(r["step"], float(np.float32(r["grad_sq_big"] ** 0.5))) for r in measured]
        evals = [(r["step"], float(np.float32(r["value"]))) for r in read_evals(alone).to_pylist()]
        assert found["eval/loss"] == evals
        assert found["eval/loss"][0][0] == 0


def test_the_clock_of_an_event_is_when_the_trial_began_plus_what_its_steps_took(study: Path, tmp_path: Path) -> None:
    log = analysis.load(study)
    export(log, "tensorboard", tmp_path)
    trial = log.trials[0]
    (file,) = (tmp_path / directory_name(trial)).iterdir()
    took = read_table(replace(log, trials=(trial,)), "steps", ["step_s"], None)["step_s"].to_numpy().cumsum()
    walls = [wall for wall, _, values in events(file) if "train/loss" in values]
    assert walls == pytest.approx(1735689600.0 + took, abs=1e-6)


def golden_events() -> bytes:
    """Steps whose numbers take one to four bytes, and values at the edges of a 32-bit float."""
    steps = np.array([0, 1, 127, 128, 16383, 16384, 2097152], dtype=np.int64)
    values = np.array([0.0, -1.5, math.nan, math.inf, 1e300, 1e-300, 0.1])
    wall = 1735689600.0 + np.arange(7) / 8
    frames = scalar_frames(steps, wall, {"train/loss": values, "eval/" + "long" * 40: values[::-1]})
    return version_frame(1735689600.0) + b"".join(frames)


def test_the_bytes_of_an_event_file_are_those_that_tensorboard_was_seen_to_read() -> None:
    assert golden_events() == GOLDEN.read_bytes()
    read = list(events(GOLDEN))
    assert [step for _, step, _ in read] == [0, 1, 127, 128, 16383, 16384, 2097152]
    losses = [values["train/loss"] for _, _, values in read]
    assert repr(losses) == repr([0.0, -1.5, math.nan, math.inf, math.inf, 0.0, float(np.float32(0.1))])


def test_tensorboard_reads_what_was_written(study: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    read = accumulator(str(GOLDEN)).Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [0, 1, 127, 128, 16383, 16384, 2097152]
    log = analysis.load(study)
    export(log, "tensorboard", tmp_path)
    for trial in log.trials:
        directory = tmp_path / directory_name(trial)
        read = accumulator(str(directory), size_guidance={"scalars": 0}).Reload()
        own = scalars(directory)
        assert set(read.Tags()["scalars"]) == set(own)
        for tag, expected in own.items():
            assert repr([(event.step, event.value) for event in read.Scalars(tag)]) == repr(expected)


@has_mlflow
def test_mlflow_reads_one_run_per_trial_with_every_value_of_every_step(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = analysis.load(study)
    export(log, "mlflow", tmp_path / "runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = importlib.import_module("mlflow").MlflowClient((tmp_path / "runs").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("synthetic").experiment_id])
    by_key = {run.data.tags[mlflow.TRIAL_TAG]: run for run in runs}
    assert set(by_key) == {trial.key for trial in log.trials}
    assert len(runs) == len(log.trials)
    for trial in log.trials:
        run = by_key[trial.key]
        steps = read_table(replace(log, trials=(trial,)), "steps", ["step", "loss"], None).to_pylist()
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert repr([(m.step, m.value) for m in history]) == repr([(r["step"], r["loss"]) for r in steps])
        evals = read_evals(replace(log, trials=(trial,))).to_pylist()
        history = client.get_metric_history(run.info.run_id, "eval/loss")
        assert [(m.step, m.value) for m in history] == [(r["step"], r["value"]) for r in evals]
        assert (run.data.params["batch_size"], run.info.status) == (str(trial.facts["batch_size"]), "FINISHED")
        assert run.info.artifact_uri.startswith((tmp_path / "runs").as_uri())


def test_without_mlflow_one_sentence_says_what_to_install(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(mlflow, "import_module", absent)
    assert main(["export", str(study), "--to", "mlflow", "--out", str(tmp_path / "m")]) == 2
    assert "pip install 'scaleexp[export]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", EVERY)
def test_exporting_twice_adds_nothing_and_touches_no_file(study: Path, tmp_path: Path, to: Any) -> None:
    first = export(analysis.load(study), to, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    second = export(analysis.load(study), to, tmp_path / "out")
    assert first.added == first.rows
    assert set(second.added.values()) == {0}
    assert second.files == ()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("to", EVERY)
def test_a_study_that_has_grown_ends_as_if_it_were_exported_once(
    study: Path, young: Path, tmp_path: Path, to: Any
) -> None:
    early = export(analysis.load(young), to, tmp_path / "out")
    assert 0 < early.rows["steps"] == early.added["steps"]
    grow(young, study)
    late = export(analysis.load(young), to, tmp_path / "out")
    assert late.added == {table: n - early.rows[table] for table, n in late.rows.items()}
    export(analysis.load(study), to, tmp_path / "once")
    assert repr(content(tmp_path / "out", to)) == repr(content(tmp_path / "once", to))
    assert not [file for file in tmp_path.rglob("*.tmp") if file.name.startswith(".")]


@pytest.mark.parametrize("to", EVERY)
def test_an_export_that_was_killed_anywhere_is_done_again_to_the_same_end(
    study: Path, young: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    export(analysis.load(young), to, tmp_path / "out")
    grow(young, study)
    real = Path.replace
    for last in (0, 1, 2, 5):
        calls = iter(range(100))

        def killed(self: Path, target: Any, last: int = last, calls: Iterator[int] = calls) -> Any:
            if next(calls) >= last:
                raise KeyboardInterrupt
            return real(self, target)

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            export(analysis.load(young), to, tmp_path / "out")
        monkeypatch.setattr(Path, "replace", real)
    export(analysis.load(young), to, tmp_path / "out")
    export(analysis.load(study), to, tmp_path / "once")
    assert repr(content(tmp_path / "out", to)) == repr(content(tmp_path / "once", to))


@pytest.mark.parametrize("to", ["csv", "parquet", "tensorboard"])
def test_a_segment_that_changes_meanwhile_leaves_nothing_half_written(study: Path, tmp_path: Path, to: Any) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "s"))
    log = analysis.load(copy)
    sorted(copy.glob("trials/*/segments/evals-0002.parquet"))[0].write_bytes(b"other")
    with pytest.raises(CorruptError):
        export(log, to, tmp_path / "out")
    left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not [file for file in left if file.name.endswith(".tmp") or file.suffix in (".csv", ".parquet")]
    assert all(list(events(file)) for file in left if "tfevents" in file.name)


@pytest.mark.parametrize("to", EVERY)
def test_files_of_others_are_refused_in_one_sentence_and_stay(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: Any
) -> None:
    (tmp_path / "steps.csv").write_text("mine")
    assert main(["export", str(study), "--to", to, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["steps.csv"]
    assert (tmp_path / "steps.csv").read_text() == "mine"


def test_a_table_that_was_edited_is_not_overwritten(study: Path, young: Path, tmp_path: Path) -> None:
    export(analysis.load(young), "csv", tmp_path / "out")
    (tmp_path / "out" / "evals.csv").write_text("edited")
    grow(young, study)
    with pytest.raises(ConfigError, match=r"evals\.csv was changed after it was exported"):
        export(analysis.load(young), "csv", tmp_path / "out")
    assert (tmp_path / "out" / "evals.csv").read_text() == "edited"


@pytest.mark.parametrize("to", ["csv", "tensorboard"])
def test_another_study_or_another_format_is_refused_the_same_directory(study: Path, tmp_path: Path, to: Any) -> None:
    export(analysis.load(study), to, tmp_path / "out")
    other = write_study(tmp_path / "other", batches=(32, 128), lrs_per_batch=1, seeds=1)
    with pytest.raises(ConfigError, match="export of another study"):
        export(analysis.load(other), to, tmp_path / "out")
    with pytest.raises(ConfigError, match=f"holds the {to} export of .*, and one of parquet is wanted"):
        export(analysis.load(study), "parquet", tmp_path / "out")


def test_secrets_reach_no_export(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "s"))
    monkeypatch.setenv("HF_TOKEN", "abcdefgh12345678")
    for file in copy.glob("trials/*/trial.json"):
        facts = json.loads(file.read_text())
        facts["workload"] |= {"api_key": "hunter2hunter2", "data": "s3://me:pass@host/x", "note": "abcdefgh12345678"}
        file.write_text(json.dumps(facts))
    log = analysis.load(copy)
    row = facts_row(log.trials[0])
    assert (row["workload.api_key"], row["workload.data"]) == ("***", "s3://***@host/x")
    for to in ("csv", "tensorboard"):
        export(log, to, tmp_path / to)  # type: ignore[arg-type]
    for file in (f for to in ("csv", "tensorboard") for f in (tmp_path / to).rglob("*") if f.is_file()):
        for secret in (b"hunter2", b"me:pass", b"abcdefgh12345678"):
            assert secret not in file.read_bytes(), file


def test_no_more_than_a_block_and_a_segment_is_in_memory(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK_ROWS", 50)
    log = analysis.load(study)
    sizes = [block.num_rows for block in rows.blocks(log, "steps")]
    largest = max(bound["rows"] for trial in log.trials for bound in rows.segments(trial, "steps"))
    assert sum(sizes) == rows.rows_of(log, "steps")
    assert max(sizes) < 50 + largest
    assert min(sizes[:-1]) >= 50


@pytest.mark.parametrize("to", EVERY)
def test_the_command_says_what_it_wrote_and_its_json_has_a_schema(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: Any
) -> None:
    arguments = ["export", str(study), "--to", to, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema_of("export"))
    jsonschema.Draft202012Validator(schema_of("export")).validate(document)
    assert document["added"] == document["rows"]
    assert all((tmp_path / "out" / file).exists() for file in document["files"])
    assert main(arguments) == 0
    assert "nothing new" in capsys.readouterr().out.splitlines()[0]
    for wrong in ({}, {"schema_version": 2}, []):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema_of("export"))


def test_an_export_needs_neither_ray_nor_torch(study: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        f"import sys\nfrom analysis.cli import main\nassert main(['export', {str(study)!r}, '--to', 'tensorboard', "
        f"'--out', {str(tmp_path / 'out')!r}]) == 0\n"
        "assert not {'ray', 'torch', 'matplotlib', 'tensorboard', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
