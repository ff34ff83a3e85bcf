"""Only what a commit binds exists, and only while its bytes are the bytes that were committed."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.evaluations import evaluations
from analysis.read import load, read_evals, read_steps
from scaleexp import schema, segment
from scaleexp.errors import CorruptError, StorageError
from tests.study_factory import METRIC, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", batches=(64, 256), lrs_per_batch=1, seeds=2)


def a_trial(study: Path) -> Path:
    return sorted((study / schema.TRIALS_DIR).iterdir())[0]


def test_every_planned_trial_is_read_with_its_last_commit(study: Path) -> None:
    log = load(study)
    assert len(log.trials) == len(log.plan["trials"])
    assert {trial.commit["number"] for trial in log.trials if trial.commit} == {2}
    assert log.problems == ()


def test_rows_of_a_segment_outside_the_last_commit_do_not_exist(study: Path) -> None:
    rows = read_steps(load(study), ["step"]).num_rows
    trial = a_trial(study)
    (trial / "segments" / "steps-0003.parquet").write_bytes((trial / "segments" / "steps-0002.parquet").read_bytes())
    assert read_steps(load(study), ["step"]).num_rows == rows


def test_the_commit_with_the_highest_number_counts_beyond_four_digits(study: Path) -> None:
    commits = a_trial(study) / "commits"
    last = json.loads((commits / "0002.json").read_text())
    for number in (9999, 10000):
        (commits / f"{number:04d}.json").write_text(json.dumps({**last, "number": number}))
    log = load(study)
    assert next(t for t in log.trials if t.key == a_trial(study).name).commit["number"] == 10000


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_segment_takes_its_trial_back_to_the_commit_before_and_is_named(study: Path, damage: str) -> None:
    file = a_trial(study) / "segments" / "steps-0002.parquet"
    data = file.read_bytes()
    if damage == "flip":
        file.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    log = load(study)
    (trial,) = (trial for trial in log.trials if trial.key == a_trial(study).name)
    assert trial.commit
    assert trial.commit["number"] == 1
    assert read_steps(log, ["step"], keys=[trial.key]).num_rows == trial.commit["step"]
    (problem,) = log.problems
    assert all(said in problem for said in (trial.key, str(file), "Its commit 0001 is used instead"))


def test_a_trial_of_which_no_commit_is_whole_is_left_out_and_named(study: Path) -> None:
    file = a_trial(study) / "segments" / "steps-0001.parquet"
    file.write_bytes(b"")
    log = load(study)
    assert a_trial(study).name not in {trial.key for trial in log.trials}
    (problem,) = log.problems
    assert f"trial {a_trial(study).name} is left out" in problem
    assert str(file) in problem or "segments/steps" in problem


def test_a_corrupt_plan_is_replaced_by_the_one_before_it(study: Path) -> None:
    plan = (study / "plan" / "0001.json").read_text()
    (study / "plan" / "0002.json").write_text(plan[:-9])
    log = load(study)
    assert log.plan == json.loads(plan)
    (problem,) = log.problems
    assert "0002.json cannot be decoded" in problem
    assert "Plan 0001 is used instead" in problem


def test_a_segment_with_renamed_columns_is_found_out(study: Path) -> None:
    file = a_trial(study) / "segments" / "evals-0002.parquet"
    table = pq.read_table(file)
    pq.write_table(table.rename_columns(["seconds" if n == "eval_s" else n for n in table.column_names]), file)
    assert "not what was committed" in load(study).problems[0]


def test_a_segment_that_changes_after_load_is_refused(study: Path) -> None:
    log = load(study)
    (a_trial(study) / "segments" / "evals-0002.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match="not what was committed"):
        read_evals(log)


@pytest.mark.parametrize("file", ["plan/0001.json", "trial.json", "commits/0002.json"])
def test_a_log_of_a_newer_version_is_refused_with_a_hint(study: Path, file: str) -> None:
    path = study / file if file.startswith("plan") else a_trial(study) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(StorageError, match=r"version 99.*upgrade") as caught:
        load(study)
    assert caught.value.exit_code == 5
    assert not isinstance(caught.value, CorruptError)


def test_what_is_not_a_study_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no such directory.*scaleexp run"):
        load(tmp_path / "nothing")
    with pytest.raises(StorageError, match=r"holds no plan"):
        load(tmp_path)


def test_a_plan_without_a_commit_is_not_an_empty_result(study: Path) -> None:
    for commit in study.glob("trials/*/commits/*.json"):
        commit.unlink()
    with pytest.raises(StorageError, match="no committed trial yet"):
        load(study)


def test_a_study_whose_every_trial_is_corrupt_is_corrupt(study: Path) -> None:
    for file in study.glob("trials/*/segments/*.parquet"):
        file.write_bytes(b"")
    with pytest.raises(CorruptError, match="no trial of"):
        load(study)


def test_an_undecodable_plan_is_corrupt(study: Path) -> None:
    (study / "plan" / "0001.json").write_text("{")
    with pytest.raises(CorruptError, match="cannot be decoded"):
        load(study)


def test_trials_that_have_not_begun_are_counted(study: Path) -> None:
    (a_trial(study) / "trial.json").unlink()
    assert "1 of" in load(study).problems[0]


def test_tables_follow_the_contract(study: Path) -> None:
    log = load(study)
    evals = read_evals(log, METRIC)
    assert evals.schema.names == [c.name for c in schema.EVALS]
    assert evals["samples"].to_pylist().count(0) == len(log.trials)
    assert read_evals(log, "no such metric").num_rows == 0
    key = log.trials[0].key
    steps = read_steps(log, ["trial_id", "loss"], keys=[key])
    assert steps.schema.names == ["trial_id", "loss"]
    assert set(steps["trial_id"].to_pylist()) == {key}
    with pytest.raises(StorageError, match="no column lossy"):
        read_steps(log, ["lossy"])


def test_a_nullable_column_that_an_older_writer_did_not_know_is_null(study: Path) -> None:
    import hashlib

    trial = a_trial(study)
    file = trial / "segments" / "evals-0002.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["eval_s"]), file)
    commit_file = trial / "commits" / "0002.json"
    commit = json.loads(commit_file.read_text())
    next(s for s in commit["segments"] if s["file"].endswith("evals-0002.parquet"))["sha256"] = hashlib.sha256(
        file.read_bytes()
    ).hexdigest()
    commit_file.write_text(json.dumps(commit))
    evals = read_evals(load(study))
    assert evals["eval_s"].null_count > 0
    assert pa.types.is_float64(evals["eval_s"].type)


def test_a_table_in_the_place_of_a_study_is_named_with_the_commands_that_take_it(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("batch_size,steps\n")
    with pytest.raises(StorageError, match=r"is a file, not a study directory.*tables of points are for `fit`"):
        load(tmp_path / "points.csv")


def test_evaluations_decoded_with_the_checks_are_those_that_are_read_when_asked_for(study: Path) -> None:
    log, again = load(study), load(study, "another_metric")
    assert list(log.decoded) == [METRIC]
    assert list(again.decoded) == ["another_metric"]
    assert all(not samples.size for _, (samples, _) in again.decoded["another_metric"])
    ahead, asked = evaluations(log, METRIC), evaluations(again, METRIC)
    for name in ("trial", "samples", "values"):
        assert getattr(ahead, name).tolist() == getattr(asked, name).tolist()
    assert len(set(ahead.trial.tolist())) == len(log.trials)


def test_evaluations_that_cannot_be_decoded_are_told_to_who_asks_for_them(study: Path, monkeypatch) -> None:
    expected = evaluations(load(study), METRIC).values.tolist()

    def broken(*arguments: object) -> pa.Table:
        raise CorruptError("evals.parquet is no readable Parquet file: restore it from a copy.")

    with monkeypatch.context() as patch:
        patch.setattr(segment, "rows", broken)
        log = load(study)
        assert log.decoded == {}
        with pytest.raises(CorruptError, match="no readable Parquet"):
            evaluations(log, METRIC)
    assert evaluations(log, METRIC).values.tolist() == expected
