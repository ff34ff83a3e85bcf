"""What is said about every file of a study that is not as it was written."""

from __future__ import annotations

import shutil

import pytest

from scaleexp.storage import Store
from scaleexp.verify import verify, whole
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
