"""The disk is full at any write: a storage error, nothing corrupt, and the same end once there is room again."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch

import analysis.read
from scaleexp import disk, schema
from scaleexp.disk import Disk
from scaleexp.errors import CorruptError, StorageError
from scaleexp.storage import Store
from scaleexp.verify import verify
from tests.faults.small_study import prepared, run

COMMIT_AFTER = (2, 4)
KIB = 1024


class FullDisk(Disk):
    """Full from its n-th write on; half of what does not fit any more is there."""

    def __init__(self, writes: int) -> None:
        self.writes, self.done = writes, 0

    def write(self, descriptor: int, content: bytes) -> None:
        self.done += 1
        if self.done > self.writes:
            super().write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(descriptor, content)


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def study():
    return prepared()


def ends(root: Path) -> tuple:
    """Status, step and deterministic rows of the one trial."""
    log = analysis.read.load(root)
    assert log.problems == ()
    (trial,) = log.trials
    tables: tuple[schema.Table, ...] = ("steps", "evals")
    rows = {t: analysis.read.read_table(log, t, schema.deterministic_columns(t), None).to_pydict() for t in tables}
    return trial.commit["status"], trial.commit["step"], rows


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory):
    root, counted = tmp_path_factory.mktemp("undisturbed") / "study", FullDisk(10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "LOCAL", counted)
        run(study, root, commit_after=COMMIT_AFTER)
    return counted.done, ends(root)


def nothing_corrupt(root: Path) -> None:
    """All that is wrong is that something may be missing at the end."""
    assert [f for f in verify(Store(root)) if f.kind == "corrupt"] == []
    assert not list(root.rglob("*.tmp"))
    try:
        assert analysis.read.load(root).problems == ()
    except StorageError as error:
        if isinstance(error, CorruptError):
            raise


def test_a_disk_that_is_full_from_any_write_on_loses_nothing(study, undisturbed, tmp_path, monkeypatch):
    writes, truth = undisturbed
    assert writes > 12
    for full_from in range(writes):
        root = tmp_path / str(full_from) / "study"
        with monkeypatch.context() as patch:
            patch.setattr(disk, "LOCAL", FullDisk(full_from))
            with pytest.raises(StorageError, match="No space left on device: check space") as caught:
                run(study, root, commit_after=COMMIT_AFTER)
        assert caught.value.exit_code == 5
        assert not isinstance(caught.value, CorruptError)
        nothing_corrupt(root)
        run(study, root, commit_after=COMMIT_AFTER)
        assert ends(root) == truth, full_from


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with room for about half of the study."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k,mode=700", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        done = None
    if done is None or done.returncode:
        pytest.skip("mounting is not permitted here; the disk in memory is tested above")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_file_system_that_is_full_loses_nothing(study, undisturbed, small_disk):
    root, ballast = small_disk / "study", small_disk / "ballast"
    for free_kib in (4, 12, 20, 28):
        room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast.write_bytes(b"0" * max(0, room - free_kib * KIB))
        with pytest.raises(StorageError, match="No space left on device"):
            run(study, root, commit_after=COMMIT_AFTER)
        nothing_corrupt(root)
        ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run(study, root, commit_after=COMMIT_AFTER)
    assert ends(root) == undisturbed[1]
