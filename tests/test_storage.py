from __future__ import annotations

import errno
import os

import pytest

from scaleexp import retry
from scaleexp.errors import StorageError
from scaleexp.storage import Store


def test_a_file_is_written_once_and_never_changed(tmp_path):
    store = Store(tmp_path)
    store.write("trials/a/x.bin", b"first")
    with pytest.raises(FileExistsError):
        store.write("trials/a/x.bin", b"second")
    assert store.read("trials/a/x.bin") == b"first"
    assert store.names("trials/a") == ["x.bin"]


def test_a_write_killed_before_its_link_leaves_nothing_to_read(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    store = Store(tmp_path)
    monkeypatch.setattr(os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write("x.json", b"{}")
    assert store.names("") == []


def test_content_reaches_the_disk_before_its_name_does(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    Store(tmp_path).write("x.bin", b"1")
    assert calls == ["fsync", "link", "fsync"]


def test_a_full_disk_is_a_storage_error_and_leaves_no_scrap(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        Store(tmp_path).write("x.bin", b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "trials/../../x"])
def test_names_do_not_lead_out_of_the_study(tmp_path, name):
    with pytest.raises(StorageError, match="leads out"):
        Store(tmp_path).write(name, b"")


@pytest.mark.parametrize("root", ["ftp://host/study", "http://host/study"])
def test_storage_that_cannot_be_written_safely_is_refused(root):
    with pytest.raises(StorageError, match="local or shared path"):
        Store(root)


def test_a_file_uri_is_a_path(tmp_path):
    Store(f"file://{tmp_path}").write("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_json_that_is_not_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StorageError, match=r"x\.json cannot be decoded"):
        Store(tmp_path).read_json("x.json")


# Errors that pass


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_S", 0.001)
    monkeypatch.setattr(retry, "_LONGEST_S", 0.002)


def failing(real, code, times):
    """The real operation, after it has raised a number of times."""
    left = [times]

    def operation(*args):
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return real(*args)

    return operation


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT])
@pytest.mark.parametrize("operation", ["fsync", "link", "mkdir", "unlink"])
def test_a_file_server_that_is_away_for_a_while_is_waited_for(tmp_path, monkeypatch, quick, caplog, operation, code):
    monkeypatch.setattr(os, operation, failing(getattr(os, operation), code, 2))
    Store(tmp_path).write("trials/x.bin", b"1")
    assert Store(tmp_path).read("trials/x.bin") == b"1"
    assert Store(tmp_path).names("trials") == ["x.bin"]
    assert operation == "unlink" or len(list((tmp_path / "trials").iterdir())) == 1, "no scrap"
    assert "cannot write" in caplog.text
    assert os.strerror(code) in caplog.text


@pytest.mark.parametrize("content", [b"mine", b"theirs"])
def test_a_link_that_was_made_before_it_failed_is_known_by_its_bytes(tmp_path, monkeypatch, quick, content):
    real, calls = os.link, []

    def link(source, target):
        calls.append(target)
        if len(calls) == 1:
            target.write_bytes(content)
            raise OSError(errno.EIO, "lost")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    if content == b"mine":
        Store(tmp_path).write("x", b"mine")
    else:
        with pytest.raises(FileExistsError):
            Store(tmp_path).write("x", b"mine")
    assert (tmp_path / "x").read_bytes() == content


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_does_not_pass_is_told_at_once(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, code, 1))
    with pytest.raises(StorageError, match=os.strerror(code)):
        Store(tmp_path).write("x", b"")
    assert caplog.text == ""


def test_patience_with_a_disk_ends(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO, 10**9))
    with pytest.raises(StorageError, match="Input/output error"):
        Store(tmp_path, patience_s=0.05).write("x", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_for_a_moment_looks_at_a_directory_once_and_at_every_file(tmp_path):
    (tmp_path / "study" / "trials" / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("no")
    for name in ("one", "two"):
        (tmp_path / "study" / "trials" / "a" / name).write_text(name)
    store = Store(tmp_path / "study", briefly=True)
    assert store.read("trials/a/one") == b"one"
    assert store.read("trials/a/two") == b"two"
    (tmp_path / "study" / "trials" / "a" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "study" / "trials" / "b").symlink_to(tmp_path)
    for name in ("trials/a/link", "trials/b/secret", "trials/a/..", "trials/a/../../../secret", "trials/a/\u202eone"):
        with pytest.raises(StorageError, match="leads out"):
            store.read(name)
