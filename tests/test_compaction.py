"""A trial that has ended is one file per table, and what was committed is in reach all the way there."""

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import analysis.read
from scaleexp import lease, schema, trial_files
from scaleexp.errors import MissingError, StorageError
from scaleexp.integrity import newest_whole
from scaleexp.launch.runner import run_study
from scaleexp.resume import standing
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
        """The zombie looks before it writes anything and before it commits, sleeps for a minute, and commits."""
        looks.append(number)
        if len(looks) == 2:
            store.write_json("lease/0002.json", DRIVER)
        else:
            check(store, number)

    evaluated(zombie, 3)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "check", late)
        with pytest.raises(StorageError, match=r"another driver \(lease 2\) has taken over"):
            zombie.commit(step=3, samples=12, status="limit")
    assert len(looks) == 3
    assert committed(tmp_path) == [1, 2, 3], "what it did commit"
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


def test_a_driver_that_was_followed_writes_nothing_more(tmp_path):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", DRIVER)
    zombie = log(tmp_path, 1)
    evaluated(zombie, 1)
    zombie.commit(step=1, samples=4, status="running")
    store.write_json("lease/0002.json", DRIVER)
    before = sorted(tmp_path.rglob("*"))
    evaluated(zombie, 2)
    for status in ("running", "limit"):
        with pytest.raises(StorageError, match=r"another driver \(lease 2\) has taken over"):
            zombie.commit(step=2, samples=8, status=status)
    assert sorted(tmp_path.rglob("*")) == before


def test_one_that_is_followed_between_its_look_and_its_write_takes_back_what_other_tools_would_read(
    tmp_path, monkeypatch
):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", DRIVER)
    zombie = log(tmp_path, 1)
    evaluated(zombie, 1)
    zombie.commit(step=1, samples=4, status="running")
    evaluated(zombie, 2)
    write, follower = Store.write, []

    def slept(self, name, content):
        """It has looked at the lease, and sleeps until another driver has ended the trial."""
        if name.endswith("/evals.parquet") and not follower:
            store.write_json("lease/0002.json", DRIVER)
            follower.append(log(tmp_path, 2, last_commit(store, "t")))
            evaluated(follower[0], 2, 3)
            follower[0].commit(step=3, samples=12, status="limit")
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", slept)
        with pytest.raises(StorageError, match=r"another driver \(lease 2\) has taken over"):
            zombie.commit(step=2, samples=8, status="limit")
    assert parquet_files(tmp_path) == ["evals-a001-f0002.parquet"]
    assert committed(tmp_path) == [1, 2, 3]
    assert last_commit(store, "t")["fence"] == 2


def test_a_file_that_a_later_run_wrote_is_not_taken_for_ones_own(tmp_path):
    """Only the first run writes the plain name, so no other can lose it to a late one of the first."""
    for number in (1, 2):
        Store(tmp_path).write_json(f"lease/{number:04d}.json", DRIVER)
    second = log(tmp_path, 2)
    evaluated(second, 1)
    second.commit(step=1, samples=4, status="limit")
    assert parquet_files(tmp_path) == ["evals-a000-f0002.parquet"]


def test_a_commit_that_ends_a_trial_may_be_lost_and_nothing_else_is(tmp_path):
    study, root = prepared(), tmp_path / "study"
    run(study, root, commit_after=(2, 4))
    key = study.plan.trials[0].key
    newest = last_commit(Store(root), key)
    file = root / "trials" / key / "commits" / f"{newest['number']:04d}.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"step": 6', b'"step": 7'))
    found = last_commit(Store(root), key)
    assert (found["number"], found["step"], found["status"]) == (newest["number"] - 1, 6, newest["status"])
    assert found | {"number": newest["number"]} == newest
    from_there = standing(Store(root), study.plan.trials[0])
    assert (from_there.step, from_there.state is not None) == (6, True)
    assert len(analysis.read.load(root).trials) == 1
    run(study, root)
    assert not (file.parent / f"{newest['number'] + 1:04d}.json").exists(), "nothing runs again"
    run(prepared("limits.samples=160"), root)
    (table,) = root.glob("trials/*/steps-a001.parquet")
    assert ds.dataset(table).to_table()["step"].to_pylist() == list(range(1, 11))


def test_nothing_is_removed_where_a_newer_commit_cannot_be_read(tmp_path):
    """It may bind what the newest that can be read does not."""
    root = tmp_path / "study"
    run(prepared(), root)
    run(prepared("limits.samples=160"), root)
    (own,) = (root / "trials").iterdir()
    number = last_commit(Store(root), own.name)["number"]
    (own / "commits" / f"{number + 1:04d}.json").write_bytes(b'{"checked_by": "sha256", "numb')
    (own / "steps-a007.parquet").write_bytes(b"of the commit that cannot be read")
    assert merged_twice(Store(root), [own.name]) == {}
    (own / "commits" / f"{number + 1:04d}.json").write_bytes(  # whole, and another's
        (own / "commits" / f"{number:04d}.json").read_bytes()
    )
    assert merged_twice(Store(root), [own.name]) == {}
    (own / "commits" / f"{number + 1:04d}.json").unlink()
    assert merged_twice(Store(root), [own.name]) == {own.name: ["steps-a007.parquet"]}


def test_files_of_somebody_else_stay_and_are_named(tmp_path):
    root = tmp_path / "study"
    with pytest.raises(Interrupted):
        run(prepared(), root, commit_after=(1, 2), dies_at=4)
    (own,) = (root / "trials").iterdir()
    foreign = [own / f for f in ("segments/mine.parquet", "checkpoints/best.pt", "steps-mine.parquet", "notes.parquet")]
    for file in foreign:
        file.write_bytes(b"mine")
    run(prepared(), root)
    assert run_study(prepared(), root).ended == {"limit": 1}
    assert [file.read_bytes() for file in foreign] == [b"mine"] * 4
    found = {f.file.removeprefix(f"trials/{own.name}/"): f for f in verify(Store(root))}
    assert {name: f.kind for name, f in found.items()} == {
        "segments/mine.parquet": "note",
        "checkpoints/best.pt": "note",
        "notes.parquet": "note",
        "steps-mine.parquet": "twice",
    }
    assert "move it" in found["steps-mine.parquet"].remedy
