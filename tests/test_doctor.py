"""`scaleexp doctor`: what would spoil a study is named with its remedy, before it does."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import namedtuple
from importlib.resources import files

import jsonschema
import pytest
from click.testing import CliRunner

from scaleexp import doctor
from scaleexp.cli import cli
from scaleexp.storage import Store

ALONE = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)


def finding(what, root=None):
    (found,) = [f for f in doctor.examine(root) if f.what == what]
    return found


def test_a_machine_that_runs_these_tests_has_no_problem(tmp_path):
    result = CliRunner().invoke(cli, ["doctor", str(tmp_path / "new"), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    jsonschema.validate(document, json.loads(files("scaleexp").joinpath("schemas/doctor.json").read_text()))
    assert {"ray", "torch", "cores", "memory", "GPU", "Ray cluster", "disk", "storage", "clock"} <= {
        f["what"] for f in document["findings"]
    }
    assert list((tmp_path / "new").iterdir()) == [], "the probe is removed"


def test_a_cluster_that_does_not_answer_is_named_at_once(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    found = finding("Ray cluster")
    assert (found.state, found.exit_code) == ("problem", 4)
    assert f"RAY_ADDRESS {address} does not answer" in found.said
    assert "check RAY_ADDRESS" in found.remedy
    assert finding("Ray auth").state == "note"
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 4
    assert "PROBLEM  Ray cluster" in result.output
    assert "-> check RAY_ADDRESS" in result.output


def test_a_cluster_that_answers_is_fine(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        assert finding("Ray cluster").state == "ok"


def test_token_auth_without_a_token_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert finding("Ray auth").state == "problem"
    (tmp_path / "token").write_text("secret")
    found = finding("Ray auth")
    assert found.state == "ok"
    assert "secret" not in found.said


def test_a_disk_without_space_is_a_problem(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 2**20))
    found = finding("disk", str(tmp_path))
    assert (found.state, found.exit_code) == ("problem", 5)


def test_a_storage_where_names_can_be_taken_twice_is_a_problem(monkeypatch, tmp_path):
    assert finding("storage", str(tmp_path)).state == "ok"
    real = Store.write

    def overwrites(self, name, content):
        self.remove(name)
        real(self, name, content)

    monkeypatch.setattr(Store, "write", overwrites)
    found = finding("storage", str(tmp_path))
    assert (found.state, found.exit_code) == ("problem", 5)


@pytest.mark.parametrize(("apart_s", "said"), [(-60.0, "60.0 s ahead of"), (60.0, "60.0 s behind")])
def test_a_clock_that_is_not_the_storages_is_told_with_its_remedy(monkeypatch, tmp_path, apart_s, said):
    assert finding("clock", str(tmp_path)).state == "ok"
    modified = Store.modified
    monkeypatch.setattr(Store, "modified", lambda self, name: modified(self, name) + apart_s)
    found = finding("clock", str(tmp_path))
    assert found.state == "note"
    assert found.said.endswith("the storage's")
    assert float(found.said.split()[0]) == pytest.approx(60, abs=5)
    assert said.partition("s ")[2] in found.said
    assert "NTP" in found.remedy
    monkeypatch.setattr(Store, "modified", lambda self, name: modified(self, name) + apart_s / 30)
    assert (finding("clock", str(tmp_path)).state, list(tmp_path.iterdir())) == ("ok", [])


def test_where_no_storage_is_named_no_clock_is_looked_at():
    assert "clock" not in {f.what for f in doctor.examine(None)}


def test_a_storage_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    def denied(descriptor):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", denied)
    found = finding("storage", str(tmp_path / "study"))
    assert found.state == "problem"
    assert "Permission denied" in found.said


def test_memory_is_bounded_by_the_control_group(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert doctor.available_memory(tmp_path) == 8000 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("5000000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000000\n")
    assert doctor.available_memory(tmp_path) == 4000000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert doctor.available_memory(tmp_path) == 8000 * 1024


def test_verify_wants_a_directory():
    result = CliRunner().invoke(cli, ["doctor", "--verify"])
    assert "say in which directory" in str(result.exception)
