"""Whole studies on an object store: killed, cut off, leased, analysed."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import pytest
import torch

import analysis.read
from analysis.cli import main as analysis_main
from scaleexp import lease, schema
from scaleexp.bucket import Bucket
from scaleexp.checkpoint import decode
from scaleexp.config import load_study
from scaleexp.engines.packed import PackedEngine
from scaleexp.errors import CorruptError, StorageError
from scaleexp.execute import Assignment, run_packed
from scaleexp.launch.logs import run_directory
from scaleexp.launch.runner import open_study, prepare
from scaleexp.loop import Signal
from scaleexp.resume import unfinished
from scaleexp.storage import Store
from tests.study_factory import write_study
from tests.without_ray import assigned

SETS = [
    "workload={name: quadratic, dimensions: 4}",
    "optimizer={name: adamw}",
    "workers=[4]",
    "base={batch_size: 16, lr: 0.05}",
    "seeds=[0]",
    "lr_multipliers=[1, 2]",
    "lr_rules=[none]",
    "limits.samples=176",
    "evaluation.every_samples=32",
    "targets=[{metric: expected_loss, values: [0.00001]}]",
    "noise.every_samples=64",
    "deterministic=true",
]
LAST_STEP = 11


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.fixture(scope="module")
def prepared():
    yield prepare(load_study("quadratic", SETS))
    torch.use_deterministic_algorithms(False)


def run(prepared, root, patch, *, each_step=lambda number: None, fence=None):
    """The study without Ray; `each_step` hears the number of steps of the engine before this one."""
    calls, steps, real = itertools.count(1), itertools.count(), PackedEngine.step

    def step(self, *args, **options):
        each_step(next(steps))
        return real(self, *args, **options)

    with patch.context() as inner:
        inner.setattr(PackedEngine, "step", step)
        inner.setattr("scaleexp.execute._Clock.__call__", lambda self: Signal("", next(calls) in (2, 5, 6)))
        open_study(prepared, root)
        work = assigned(prepared, root, fence=fence)
        run_packed(work, prepared.plan.trials, threads=1)


def held(root):
    """Deterministic columns of every table, and the final states."""
    log = analysis.read.load(root)
    assert log.problems == ()
    tables = {
        name: analysis.read.read_table(log, name, schema.deterministic_columns(name), None).to_pylist()
        for name in ("steps", "evals")
    }
    states = {t.key: decode(Store(root).read(f"trials/{t.key}/{t.commit['checkpoint']['file']}")) for t in log.trials}
    return tables, states


@pytest.fixture(scope="module")
def on_a_disk(prepared, tmp_path_factory):
    root = tmp_path_factory.mktemp("disk")
    with pytest.MonkeyPatch.context() as patch:
        run(prepared, root, patch)
    return held(root)


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for key, state in expected[1].items():
        assert all(torch.equal(state[name], found[1][key][name]) for name in state)


def test_a_study_killed_and_resumed_on_a_bucket_is_the_study_on_a_disk(prepared, on_a_disk, address, monkeypatch):
    def dies(number):
        if number == 8:
            raise Killed

    with pytest.raises(Killed):
        run(prepared, address, monkeypatch, each_step=dies)
    assert len(unfinished(Store(address), prepared.plan.trials, prepared.targets)) == 2
    taken = []
    run(prepared, address, monkeypatch, each_step=taken.append)
    assert len(taken) == LAST_STEP - 6, "it goes on from its last commit"
    assert unfinished(Store(address), prepared.plan.trials, prepared.targets) == []
    assert_same(held(address), on_a_disk)
    assert not Path("s3:").exists()


def test_training_goes_on_while_the_store_is_away(prepared, on_a_disk, address, monkeypatch, server, caplog):
    """The store comes back only when training has come to its last step: that it waits for the store would be seen."""
    waited = []

    def away(number):
        if number == 3:
            server.stop()
        if number == LAST_STEP - 1:
            waited.append(time.monotonic())
            threading.Timer(0.5, server.start).start()

    run(prepared, address, monkeypatch, each_step=away)
    assert waited
    assert "no answer (Connection refused)" in caplog.text
    assert_same(held(address), on_a_disk)


def test_asking_whether_to_stop_waits_for_no_store_that_is_away(prepared, broken):
    store, _ = broken(itertools.repeat("drop"))
    work = Assignment(
        study=prepared.study, targets=(), root=store.root, git_sha=None, deadline=None, deadline_cause="", fence=1
    )
    begin = time.monotonic()
    assert work.stop() == ""
    assert time.monotonic() - begin < 10.0


def test_one_driver_at_a_time_holds_a_study_on_a_bucket(address):
    store = Store(address)
    with lease.held(store, ttl_s=0.5) as first:
        with pytest.raises(StorageError, match=f"{address} is being run by process"), lease.held(store):
            pass
        assert lease.request_stop(store)
        assert lease.stop_requested(store, first)
        time.sleep(0.3)
        assert any("beat" in name for name in store.names(schema.LEASE_DIR))
    with lease.held(store) as second:
        assert second == first + 1
        lease.check(store, second)
        with pytest.raises(StorageError, match="another driver"):
            lease.check(store, first)


def test_a_study_on_a_bucket_is_fitted_drawn_and_reported_here(address, tmp_path, monkeypatch, capsys):
    study = write_study(tmp_path / "study", noise=0.03)
    store = Store(address)
    for file in study.rglob("*"):
        if file.is_file():
            store.write(str(file.relative_to(study)), file.read_bytes())
    here = tmp_path / "desk"
    here.mkdir()
    monkeypatch.chdir(here)
    cards = []
    for source in (str(study), address):
        assert analysis_main(["fit", source]) == 0
        cards.append(capsys.readouterr().out.replace(source, "SOURCE"))
    assert cards[0] == cards[1]
    assert analysis_main(["report", address]) == 0
    page = Path("scaleexp-results") / address.rpartition("/")[2] / "report" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert "<!DOCTYPE html>" in page.read_text()
    assert analysis_main(["report", address, "--out", "mine.html"]) == 0
    assert Path("mine.html").exists()


def test_a_study_that_is_not_there_is_told(address):
    with pytest.raises(StorageError, match=r"is not a study directory: it holds no plan"):
        analysis.read.load(address)


def test_an_outage_while_a_study_is_read_is_no_corruption(prepared, address, monkeypatch):
    run(prepared, address, monkeypatch)
    real = Bucket.get

    def away(self, name, *args):
        if name.endswith(".parquet"):
            raise StorageError("could not read it now")
        return real(self, name, *args)

    monkeypatch.setattr(Bucket, "get", away)
    with pytest.raises(StorageError, match="could not read it now") as caught:
        analysis.read.load(address)
    assert not isinstance(caught.value, CorruptError)


def test_what_processes_print_goes_to_this_machine(address, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_directory(address, 1).parent == tmp_path
