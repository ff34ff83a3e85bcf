"""What is said about every file of a study that is not as it was written."""

from __future__ import annotations

import shutil

import pytest
import torch

from scaleexp import lease
from scaleexp.storage import Store
from scaleexp.verify import verify, whole
from tests.one_log import evaluated, log
from tests.test_golden_study import GOLDEN, KEY


@pytest.fixture
def study(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "study")
    return tmp_path / "study"


def test_a_whole_study_has_no_finding(study):
    assert verify(Store(study)) == []


def test_every_damaged_file_is_named_with_a_remedy(study):
    for file in sorted(f for f in study.rglob("*") if f.is_file()):
        content = file.read_bytes()
        name = file.relative_to(study).as_posix()
        for damage in (content[:-1], bytes([content[0] ^ 4]) + content[1:], b""):
            file.write_bytes(damage)
            found = {finding.file: finding for finding in verify(Store(study))}
            if content[:-1].rstrip() == damage.rstrip() == content.rstrip():  # the line's end alone
                assert not found
            else:
                assert found[name].kind == "corrupt", name
                assert found[name].problem
                assert "copy" in found[name].remedy
                assert not whole(list(found.values()))
        file.write_bytes(content)


def test_what_is_bound_and_gone_is_missing(study):
    for place in ("segments/*", "checkpoints/*"):
        file = sorted((study / "trials" / KEY).glob(place))[-1]
        content = file.read_bytes()
        file.unlink()
        (finding,) = verify(Store(study))
        assert (finding.file, finding.kind) == (file.relative_to(study).as_posix(), "missing")
        assert "/commits/0003.json to 0003.json.corrupt" in finding.remedy
        file.write_bytes(content)


def test_what_nothing_needs_is_a_note(study):
    own = study / "trials" / KEY
    (own / "segments" / "a009-0001-steps.parquet").write_bytes(b"not bound")
    (own / "segments" / ".x.parquet.123.tmp").write_bytes(b"half")
    (own / "checkpoints" / "a009-0009.pt").write_bytes(b"not bound")
    found = verify(Store(study))
    assert [f.kind for f in found] == ["note"] * 3
    assert whole(found)
    assert any(f.file.endswith(".tmp") and "never ended" in f.problem for f in found)


def test_a_segment_under_another_name_and_a_commit_in_anothers_place_are_found(study):
    own = study / "trials" / KEY
    (own / "commits" / "0003.json").write_bytes((own / "commits" / "0002.json").read_bytes())
    corrupt = [f for f in verify(Store(study)) if f.kind != "note"]
    problems = {f.file.rpartition("/")[2]: f.problem for f in corrupt}
    assert "another file" in problems["0003.json"]
    assert problems["a000-0002.pt"] == "is not there", "the state of the commit that counts now"


# While it runs


def overtaken(monkeypatch, writes, *, when):
    """Let a writer go on just before the first file is read whose name holds a text."""
    read, done = Store.read, []

    def slow(self, name):
        if when in name and not done:
            done.append(name)
            writes()
        return read(self, name)

    monkeypatch.setattr(Store, "read", slow)
    return done


@pytest.mark.parametrize("when", ["commits/0002.json", "segments/", "checkpoints/", "trial.json"])
def test_a_trial_that_is_compacted_meanwhile_lacks_nothing(tmp_path, monkeypatch, when):
    own = log(tmp_path)
    own_state = {"w": torch.zeros(3)}
    for step in (1, 2):
        evaluated(own, step)
        own.commit(step=step, samples=4 * step, status="running", state=own_state)
    Store(tmp_path).write_json("study.json", {"schema_version": 1})

    def goes_on():
        evaluated(own, 3)
        own.commit(step=3, samples=12, status="limit", state=own_state)

    done = overtaken(monkeypatch, goes_on, when=when)
    found = verify(Store(tmp_path))
    assert done
    assert [f for f in found if f.file != "trials/t/trial.json"] == [], "its facts are those of no trial"
    assert not list((tmp_path / "trials/t/segments").iterdir())


def test_what_is_gone_under_the_newest_commit_is_missing_whatever_goes_on(tmp_path, monkeypatch):
    own = log(tmp_path)
    for step in (1, 2):
        evaluated(own, step)
        own.commit(step=step, samples=4 * step, status="running")
    (lost,) = (tmp_path / "trials/t/segments").glob("*-0001-*")
    lost.unlink()

    def goes_on():
        evaluated(own, 3)
        own.commit(step=3, samples=12, status="running")

    overtaken(monkeypatch, goes_on, when="segments/")
    missing = [f for f in verify(Store(tmp_path)) if f.kind == "missing"]
    assert [f.file for f in missing if "/segments/" in f.file] == [f"trials/t/segments/{lost.name}"]
    assert "commits/0003.json" in next(f.remedy for f in missing if "/segments/" in f.file)


def test_a_sign_of_life_that_is_followed_by_the_next_is_not_missing(study, monkeypatch):
    store = Store(study)
    store.write_json("lease/0001.json", {})
    store.write_json("lease/0001.beat-000001", {"held_s": 1.0})
    overtaken(monkeypatch, lambda: store.remove("lease/0001.beat-000001"), when="lease/0001.beat")
    assert verify(store) == []


def test_a_table_that_a_living_writer_has_not_bound_yet_is_a_note(study):
    store, file = Store(study), study / "trials" / KEY / "evals-a001-f0001.parquet"
    with lease.held(store):
        file.write_bytes(b"about to be committed")
        (found,) = verify(store)
    assert (found.kind, whole([found])) == ("note", True)
    assert [f.kind for f in verify(store)] == ["twice"]
