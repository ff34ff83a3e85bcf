from __future__ import annotations

import os

import pytest

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


@pytest.mark.parametrize("root", ["s3://bucket/study", "http://host/study"])
def test_storage_that_cannot_be_written_safely_is_refused(root):
    with pytest.raises(StorageError, match="local or shared path"):
        Store(root)


def test_a_file_uri_is_a_path(tmp_path):
    Store(f"file://{tmp_path}").write("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_json_that_is_not_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StorageError, match=r"x\.json is not JSON"):
        Store(tmp_path).read_json("x.json")
