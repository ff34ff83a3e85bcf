"""Any bit of a study flips, any file of it ends early: what is read is the truth, or less of it and said so.

The truth of a commit is what the undamaged study holds at that commit. After damage to one file the reader and the one
that goes on may see the newest commit, an older one, or refuse: never another value, never another exception.
"""

from __future__ import annotations

import json
import logging
import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import analysis.read
from scaleexp import lease, schema
from scaleexp.errors import CorruptError, StorageError
from scaleexp.integrity import check_bytes, opened
from scaleexp.launch.runner import open_study
from scaleexp.resume import standing
from scaleexp.storage import Store
from tests.faults.small_study import Interrupted, prepared, run

SEED = 20250728
FLIPS = 2000
TABLES = {"steps": [c.name for c in schema.STEPS], "evals": [c.name for c in schema.EVALS]}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    logging.getLogger("scaleexp").setLevel(logging.ERROR)  # thousands of warnings
    yield
    logging.getLogger("scaleexp").setLevel(logging.NOTSET)
    torch.use_deterministic_algorithms(False)


class Damaged:
    """A study of one trial, and everything true about it.

    Attributes:
        root: where it lives.
        trial: its trial.
        files: name -> bytes of every file.
    """

    def __init__(self, root: Path, study) -> None:
        self.root, self.trial = root, study.plan.trials[0]
        self.files = {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}
        self.objects = {name: opened(content, name) for name, content in self.files.items() if name.endswith(".json")}
        self.plans = [self.objects[name] for name in sorted(self.files) if name.startswith("plan/")]
        self.facts = self.objects[f"trials/{self.trial.key}/trial.json"]
        commits = {n: o for n, o in self.objects.items() if "/commits/" in n}
        self.commits = {commit["number"]: commit for commit in commits.values()}
        self.newest = max(self.commits)
        self._read: set[int] = set()
        self.tables: dict[int, dict[str, list]] = {}
        self.standings: dict[int, tuple] = {}
        for number in sorted(self.commits, reverse=True):  # as each was the newest
            log = analysis.read.load(root)
            assert log.problems == ()
            self.tables[number] = tables(log)
            self.standings[number] = stands(root, self.trial)
            (root / f"trials/{self.trial.key}/commits/{number:04d}.json").unlink()
        for name, content in self.files.items():
            (root / name).write_bytes(content)

    def check_reader(self, name: str) -> str:
        """What the reader makes of a damaged file: `whole`, `less` or `refused`."""
        with suppress(StorageError):
            return self._check_read(analysis.read.load(self.root), name)
        return "refused"

    def _check_read(self, log, name: str) -> str:
        said = " ".join(log.problems)
        assert log.plan in self.plans
        assert log.plan == self.plans[-1] or name in said
        if not log.trials:
            assert name in said
            return "less"
        (trial,) = log.trials
        assert trial.facts == self.facts
        number = trial.commit["number"]
        assert trial.commit == self.commits[number]
        if number < self.newest:
            assert name in said
            assert f"commit {number:04d} is used instead" in said
        if name.endswith(".parquet") or number not in self._read:  # else the same bytes as before
            assert tables(log) == self.tables[number]
            self._read.add(number)
        return "whole" if number == self.newest and log.plan == self.plans[-1] else "less"

    def check_resume(self, name: str) -> str:
        """What going on makes of it."""
        try:
            found = stands(self.root, self.trial)
        except CorruptError as error:
            return "refused" if name in str(error) else f"{error} does not name {name}"
        assert found == self.standings[found[0]]
        return "whole" if found[0] == self.newest else "less"

    def check_object(self, name: str) -> None:
        with suppress(CorruptError):
            assert Store(self.root).read_json(name) == self.objects[name]

    def check(self, name: str, content: bytes, *, resume: bool = True) -> tuple[str, str]:
        """Put a file's damaged bytes there, look, and put back what was there."""
        (self.root / name).write_bytes(content)
        try:
            if name in self.objects:
                self.check_object(name)
            read = self.check_reader(name) if "/checkpoints/" not in name else "whole"
            return read, self.check_resume(name) if resume else "whole"
        finally:
            (self.root / name).write_bytes(self.files[name])


def tables(log) -> dict[str, list]:
    """Every row, with the names and the types of the columns."""
    steps, evals = analysis.read.read_steps(log, TABLES["steps"]), analysis.read.read_evals(log)
    return {n: [t.schema, t.schema.metadata, t.to_pydict()] for n, t in (("steps", steps), ("evals", evals))}


def stands(root: Path, trial) -> tuple:
    """(number, step, state, evaluations, segments to go on from)."""
    found = standing(Store(root), trial)
    assert found.commit is not None
    state = {n: t.tolist() for n, t in found.decoded().items()} if found.state else None
    return found.commit["number"], found.step, state, found.values, found.commit["segments"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Damaged:
    root, study = tmp_path_factory.mktemp("finished") / "study", prepared()
    with lease.held(Store(root)):
        run(study, root)
    return Damaged(root, study)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Damaged:
    """Two plans and three commits, the last two with states."""
    root, study = tmp_path_factory.mktemp("interrupted") / "study", prepared("question=Why?")
    open_study(study, root)
    with pytest.raises(Interrupted):
        run(prepared(), root, commit_after=(2, 4), dies_at=5)
    found = Damaged(root, study)
    assert len(found.plans) == 2
    assert [found.commits[n]["step"] for n in (1, 2, 3)] == [0, 2, 4]
    return found


@pytest.mark.parametrize("which", ["finished", "interrupted"])
def test_no_bit_that_flips_changes_what_is_read(which, request):
    study, draw = request.getfixturevalue(which), random.Random(SEED)
    print("seed", SEED)
    ends = []
    names = sorted(study.files)
    for _ in range(FLIPS // 2):
        name = draw.choice(names)
        content = bytearray(study.files[name])
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        content[place] ^= 1 << bit
        try:
            ends += study.check(name, bytes(content))
        except Exception as error:
            raise AssertionError(f"bit {bit} of byte {place} of {name}, seed {SEED}") from error
    assert set(ends) == {"whole", "less", "refused"}


@pytest.mark.parametrize("which", ["finished", "interrupted"])
def test_no_file_that_ends_early_changes_what_is_read(which, request):
    study = request.getfixturevalue(which)
    for name, content in study.files.items():
        # A segment is hashed before anything looks into it, so all lengths of the shortest stand for the others.
        big, own = len(content) > 4096, which == "finished"
        every = 1 if own and (not big or "evals" in name) else 16 if big else 3
        looked = 0 if "trials/" not in name else 1 if "checkpoints" in name else 16 if big else 12
        for length in {*range(0, len(content), every), len(content) - 1}:
            try:
                study.check(name, content[:length], resume=looked > 0 and length % looked == 0)
            except Exception as error:
                raise AssertionError(f"{name} cut to {length} bytes") from error


@pytest.mark.parametrize("which", ["finished", "interrupted"])
def test_no_length_of_any_file_passes_for_the_whole(which, request):
    """Every length, by what all that read go through: the sha256 of what is bound, the checksum of JSON."""
    study = request.getfixturevalue(which)
    bound = {ref["file"]: ref for commit in study.commits.values() for ref in _references(commit)}
    looked = 0
    for name, content in study.files.items():
        reference = bound.get(name.removeprefix(f"trials/{study.trial.key}/"))
        truth = None if reference else opened(content, name)  # else it is JSON with a checksum
        for length in range(len(content)):
            looked += 1
            if reference:
                with pytest.raises(CorruptError):
                    check_bytes(content[:length], reference["sha256"], name)
            else:
                with suppress(CorruptError):
                    assert opened(content[:length], name) == truth
    assert looked > 20_000


def _references(commit):
    return [*commit["segments"], *([commit["checkpoint"]] if commit["checkpoint"] else [])]


def test_any_bit_of_the_commit_that_ended_a_trial_may_flip_and_nothing_is_lost(finished):
    """What it binds is bound by the one before it, too."""
    name, draw = f"trials/{finished.trial.key}/commits/{finished.newest:04d}.json", random.Random(SEED)
    truth = finished.commits[finished.newest]
    for bit in draw.sample(range(8 * len(finished.files[name])), 200):
        content = bytearray(finished.files[name])
        content[bit // 8] ^= 1 << bit % 8
        (finished.root / name).write_bytes(content)
        try:
            found = standing(Store(finished.root), finished.trial)
        finally:
            (finished.root / name).write_bytes(finished.files[name])
        assert found.commit | {"number": finished.newest} == truth
        assert found.state is not None


def test_going_back_names_the_file_and_numbers_go_past_it(interrupted, caplog):
    caplog.set_level(logging.WARNING, "scaleexp")
    name = f"trials/{interrupted.trial.key}/commits/0003.json"
    (interrupted.root / name).write_bytes(interrupted.files[name][:-2])
    try:
        assert standing(Store(interrupted.root), interrupted.trial).step == 2
    finally:
        (interrupted.root / name).write_bytes(interrupted.files[name])
    (said,) = caplog.messages
    assert name in said
    assert "goes on from step 2" in said


@pytest.mark.parametrize("file", ["commits/0003.json", "segments/a000-0003-steps.parquet", "checkpoints/a000-0003.pt"])
def test_what_goes_on_from_an_older_commit_ends_as_if_nothing_had_happened(interrupted, finished, tmp_path, file):
    root, key = tmp_path / "study", interrupted.trial.key
    for name, content in interrupted.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    damaged = root / "trials" / key / file
    damaged.write_bytes(damaged.read_bytes()[:-9])
    kept = damaged.read_bytes()
    run(prepared(), root)
    assert damaged.read_bytes() == kept
    log = analysis.read.load(root)
    assert log.problems == ()
    (trial,) = log.trials
    assert trial.commit["number"] == 5, "what ends a trial is committed twice"
    for table, [_, _, truth] in finished.tables[finished.newest].items():
        exact = schema.deterministic_columns(table)
        found = analysis.read.read_table(log, table, exact, None).to_pydict()
        assert found == {column: truth[column] for column in exact}


@pytest.mark.parametrize("lost", ["checked_by", "sha256"])
def test_a_new_file_without_a_part_of_its_checksum_is_no_earlier_version(finished, lost):
    for name in finished.objects:
        raw = json.loads(finished.files[name])
        del raw[lost]
        with pytest.raises(CorruptError, match="not what was written"):
            opened(json.dumps(raw).encode(), name)


def test_a_file_of_an_earlier_version_is_still_read(finished):
    for name, truth in finished.objects.items():
        assert opened(json.dumps(truth).encode(), name) == truth


def test_a_file_in_another_ones_place_is_found_out(interrupted):
    directory = f"trials/{interrupted.trial.key}/commits"
    for name, other in (("0003.json", "0002.json"), ("0003.json", "0001.json")):
        (interrupted.root / directory / name).write_bytes(interrupted.files[f"{directory}/{other}"])
        ends = interrupted.check_reader(f"{directory}/{name}"), interrupted.check_resume(f"{directory}/{name}")
        (interrupted.root / directory / name).write_bytes(interrupted.files[f"{directory}/{name}"])
        assert ends == ("less", "less")
