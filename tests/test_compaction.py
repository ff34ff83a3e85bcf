"""A trial that has ended is one file per table, and what was committed is in reach all the way there."""

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import analysis.read
from scaleexp import lease, schema, trial_files
from scaleexp.errors import MissingError, StorageError
from scaleexp.integrity import newest_whole
from scaleexp.launch.runner import run_study
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.tidying import merged_twice
from scaleexp.verify import verify, whole
from tests.faults.small_study import Interrupted, prepared, run
from tests.one_log import evaluated, log

DRIVER = {"host": "elsewhere", "pid": 1, "space": "elsewhere", "started": "1", "ttl_s": 0.0}


def committed(root):
    """Steps of the evaluations that the last commit binds."""
    commit = last_commit(Store(root), "t")
    files = [root / "trials" / "t" / s["file"] for s in commit["segments"]]
    return [step for file in files for step in ds.dataset(file).to_table()["step"].to_pylist()]


def parquet_files(root):
    return sorted(str(file.relative_to(root / "trials" / "t")) for file in root.glob("trials/t/**/*.parquet"))


def test_an_ended_trial_is_one_file_per_table_that_other_tools_find_by_one_pattern(tmp_path):
    study = prepared()
    run(study, tmp_path / "study", commit_after=(1, 2, 4))
    for table in ("steps", "evals"):
        files = sorted((tmp_path / "study").glob(f"trials/*/{table}*.parquet"))
        assert [file.name for file in files] == [f"{table}.parquet"] * len(study.plan.trials)
        theirs = ds.dataset(files).to_table()
        names = [c.name for c in schema.TABLES[table]]
        ours = analysis.read.read_table(analysis.read.load(tmp_path / "study"), table, names, None)
        assert theirs.select(names).to_pylist() == ours.to_pylist()
        assert theirs.schema.equals(schema.arrow_schema(table), check_metadata=True)
    assert not list((tmp_path / "study").glob("trials/*/segments/*"))
    assert verify(Store(tmp_path / "study")) == []


def test_rows_of_before_and_after_an_interruption_are_in_it_once(tmp_path):
    study = prepared()
    with pytest.raises(Interrupted):
        run(study, tmp_path / "study", commit_after=(1, 2), dies_at=4)
    assert list((tmp_path / "study").glob("trials/*/segments/*"))
    run(study, tmp_path / "study", commit_after=(1,))
    (file,) = (tmp_path / "study").glob("trials/*/steps*.parquet")
    assert ds.dataset(file).to_table()["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert verify(Store(tmp_path / "study")) == []


def test_a_trial_that_is_extended_is_one_file_again(tmp_path):
    for limit in (96, 160):
        run(prepared(f"limits.samples={limit}"), tmp_path / "study", commit_after=(1, 3))
    (file,) = (tmp_path / "study").glob("trials/*/steps*.parquet")
    assert file.name == "steps-a001.parquet"
    assert ds.dataset(file).to_table()["step"].to_pylist() == list(range(1, 11))
    assert verify(Store(tmp_path / "study")) == []


def test_a_trial_that_begins_anew_for_want_of_a_state_is_one_file_again(tmp_path):
    for limit in (96, 160):
        run(prepared(f"limits.samples={limit}", "checkpoint.keep_finished=false"), tmp_path / "study")
    (file,) = (tmp_path / "study").glob("trials/*/steps*.parquet")
    assert ds.dataset(file).to_table()["step"].to_pylist() == list(range(1, 11))
    assert verify(Store(tmp_path / "study")) == []


def test_what_an_earlier_attempt_left_without_a_commit_goes_when_the_trial_ends(tmp_path):
    first = log(tmp_path)
    evaluated(first, 1)
    first.commit(step=1, samples=4, status="running")
    (tmp_path / "trials" / "t" / "evals.parquet").write_bytes(b"of a writer that was killed before it could commit")
    (tmp_path / "trials" / "t" / "segments" / "a000-0002-evals.parquet").write_bytes(b"likewise")
    second = log(tmp_path, last=last_commit(Store(tmp_path), "t"))
    evaluated(second, 2, 3)
    second.commit(step=3, samples=12, status="limit")
    assert parquet_files(tmp_path) == ["evals-a001.parquet"]
    assert committed(tmp_path) == [1, 2, 3]


def test_a_file_that_a_killed_writer_left_beside_the_merged_one_is_told_and_goes_with_the_next_run(tmp_path):
    root = tmp_path / "study"
    run(prepared(), root)
    (first,) = root.glob("trials/*/steps.parquet")
    kept = first.read_bytes()
    run(prepared("limits.samples=160"), root)
    first.write_bytes(kept)  # as if it had been killed before
    (told,) = verify(Store(root))
    assert (told.kind, told.file.rpartition("/")[2], whole([told])) == ("twice", "steps.parquet", False)
    study = prepared("limits.samples=160")
    assert run_study(study, root).ended == {"limit": 1}
    assert not first.exists()
    assert verify(Store(root)) == []


def test_it_stays_where_what_counts_is_not_whole(tmp_path):
    root = tmp_path / "study"
    run(prepared(), root)
    (file,) = root.glob("trials/*/steps.parquet")
    other = file.with_name("steps-a009.parquet")
    other.write_bytes(file.read_bytes())
    file.write_bytes(b"PAR1")
    assert merged_twice(Store(root), [file.parent.name]) == {}


def test_a_driver_that_was_followed_removes_nothing_that_its_follower_may_go_on_from(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", DRIVER)
    zombie = log(tmp_path, 1)
    evaluated(zombie, 1, 2)
    zombie.commit(step=2, samples=8, status="running")
    seen = last_commit(store, "t")  # by the follower, before the zombie's last commit
    check, looks = lease.check, []

    def late(store, number):
        """The zombie looks, sleeps for a minute, and commits."""
        if not looks:
            store.write_json("lease/0002.json", DRIVER)
        else:
            check(store, number)
        looks.append(number)

    evaluated(zombie, 3)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "check", late)
        with pytest.raises(StorageError, match=r"another driver \(lease 2\) has taken over"):
            zombie.commit(step=3, samples=12, status="limit")
    follower = log(tmp_path, 2, seen)
    evaluated(follower, 3, 4)
    follower.commit(step=4, samples=16, status="running")
    assert committed(tmp_path) == [1, 2, 3, 4]
    follower.commit(step=4, samples=16, status="limit")
    assert committed(tmp_path) == [1, 2, 3, 4]


def test_rows_stay_in_segments_where_one_of_them_is_corrupt(tmp_path, caplog):
    own = log(tmp_path)
    evaluated(own, 1)
    own.commit(step=1, samples=4, status="running")
    (file,) = (tmp_path / "trials" / "t" / "segments").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    evaluated(own, 2)
    own.commit(step=2, samples=8, status="limit")
    assert "evals of trial t are not compacted" in caplog.text
    assert parquet_files(tmp_path) == ["segments/a000-0001-evals.parquet", "segments/a000-0002-evals.parquet"]


def test_more_rows_than_fit_the_memory_of_a_writer_stay_in_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_files, "MOST_COMPACTED", 3)
    own = log(tmp_path)
    for step in (1, 2):
        evaluated(own, step)
        own.commit(step=step, samples=4 * step, status="running")
    evaluated(own, 3, 4)
    own.commit(step=4, samples=16, status="limit")
    assert len(parquet_files(tmp_path)) == 3
    assert committed(tmp_path) == [1, 2, 3, 4]


def test_a_column_that_earlier_rows_lack_is_null_in_them(tmp_path, monkeypatch):
    own = log(tmp_path)
    evaluated(own, 1)
    every = schema.arrow_schema
    with monkeypatch.context() as patch:
        patch.setattr("scaleexp.segment.arrow_schema", lambda t: pa.schema([f for f in every(t) if f.name != "eval_s"]))
        own.commit(step=1, samples=4, status="running")
    evaluated(own, 2)
    own.commit(step=2, samples=8, status="limit")
    found = ds.dataset(tmp_path / "trials" / "t" / "evals.parquet").to_table()
    assert found["step"].to_pylist() == [1, 2]
    assert found["eval_s"].to_pylist() == [None, 0.0]


def test_a_reader_whom_a_merge_overtakes_looks_again():
    files, removed = {1: "first"}, []

    def read(name):
        if name == "first" and not removed:
            removed.append(name)
            files[2] = "merged"
        if name in removed:
            raise MissingError(name)
        return name

    assert newest_whole(lambda: dict(files), read) == ("merged", [])
