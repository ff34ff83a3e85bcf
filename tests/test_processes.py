"""Many small files are read by several processes, and nobody can tell from what comes out."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from analysis import processes
from analysis.processes import FEW, each_file, each_part
from scaleexp.errors import CorruptError


@pytest.fixture(autouse=True)
def _forks(monkeypatch):
    """The test run itself has torch in memory; two cores, whatever the machine has."""
    monkeypatch.setattr(processes, "_NEVER_FORKED", ())
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


def test_results_come_in_order_from_other_processes():
    found = each_file(lambda i: (i, os.getpid()), range(FEW), remote=False)
    assert [i for i, _ in found] == list(range(FEW))
    assert len({pid for _, pid in found} - {os.getpid()}) == 2


@pytest.mark.parametrize("n", [FEW, FEW + 1, 3 * FEW - 1])
def test_any_number_of_items_comes_back_once(n):
    assert each_file(lambda i: i, range(n), remote=False) == list(range(n))


@pytest.mark.parametrize("n", [0, 1, FEW - 1, FEW, 3 * FEW - 1])
@pytest.mark.parametrize("remote", [False, True])
def test_parts_together_are_all_items_in_order(n, remote):
    assert each_part(lambda part: [i * i for i in part], range(n), remote=remote) == [i * i for i in range(n)]


def test_few_items_and_bulky_ones_stay_in_this_process():
    for n, bulky in ((FEW - 1, False), (FEW, True)):
        assert set(each_file(lambda _: os.getpid(), range(n), remote=False, bulky=bulky)) == {os.getpid()}


def test_many_requests_to_an_object_store_stay_in_this_process():
    assert set(each_file(lambda _: os.getpid(), range(FEW), remote=True)) == {os.getpid()}


def test_nothing_forks_beside_a_thread_or_beside_ray(monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert set(each_file(lambda _: os.getpid(), range(FEW), remote=False)) == {os.getpid()}
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(processes, "_NEVER_FORKED", ("pytest",))
    assert set(each_file(lambda _: os.getpid(), range(FEW), remote=False)) == {os.getpid()}


def test_a_worker_of_a_pool_reads_by_itself(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert set(each_file(lambda _: os.getpid(), range(FEW), remote=False)) == {os.getpid()}


def test_the_first_error_is_raised_here():
    def read(i: int) -> int:
        if i >= 100:
            raise CorruptError(f"item {i} is not what was committed")
        return i

    with pytest.raises(CorruptError, match=r"^item 100 is"):
        each_file(read, range(FEW), remote=False)


def test_a_killed_process_loses_nothing():
    here = os.getpid()

    def read(i: int) -> int:
        if os.getpid() != here and i == 300:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    assert each_file(read, range(FEW), remote=False) == list(range(FEW))


def test_a_process_killed_while_it_sends_loses_nothing(monkeypatch):
    def cut_off(pipe):
        raise OSError("got end of file during message")

    monkeypatch.setattr(Connection, "recv", cut_off)
    assert each_file(lambda i: i, range(FEW), remote=False) == list(range(FEW))
    assert multiprocessing.active_children() == []


def test_where_no_process_can_be_started_everything_is_read_here(monkeypatch):
    def refuse(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(ForkProcess, "start", refuse)
    assert set(each_file(lambda _: os.getpid(), range(FEW), remote=False)) == {os.getpid()}


def test_processes_that_wait_to_send_end_whatever_their_parent_does_about_signals(monkeypatch):
    monkeypatch.setattr(processes, "_PIPE_BYTES", 4096)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(CorruptError):
            each_file(first_is_corrupt, range(FEW), remote=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert multiprocessing.active_children() == []


def first_is_corrupt(i: int) -> bytes:
    if i == 0:
        raise CorruptError("the first item is not what was committed")
    return bytes(1 << 17)


def test_nobody_goes_on_reading_for_a_process_that_was_killed(tmp_path):
    code = (
        "import os, pathlib, sys, time\nfrom analysis import processes\n"
        "os.sched_getaffinity = lambda _: {0, 1}\n"
        "def read(i):\n"
        "    pathlib.Path(sys.argv[1], str(os.getpid())).touch()\n"
        "    return bytes(1 << 17)\n"
        "processes._received = lambda pipe: time.sleep(60)\n"
        "processes.each_file(read, range(processes.FEW), remote=False)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    parent.kill()
    parent.wait()
    readers = [int(file.name) for file in tmp_path.iterdir()]
    wait_until(lambda: not any(Path("/proc", str(pid)).exists() for pid in readers))


def wait_until(true, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_process_is_left_behind():
    each_file(lambda i: i, range(FEW), remote=False)
    assert multiprocessing.active_children() == []
