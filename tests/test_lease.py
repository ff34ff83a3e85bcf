"""Who may write a study: one driver at a time, and the next where the last is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from scaleexp import clocks, lease, signs_of_life
from scaleexp.errors import ConfigError, StorageError
from scaleexp.execute import Assignment
from scaleexp.runlog import last_commit
from scaleexp.stopping import stopping
from scaleexp.storage import Store
from tests.one_log import log

ELSEWHERE = {"host": "elsewhere", "pid": 1, "space": "another machine", "started": "1", "ttl_s": 0.4}


def test_a_lease_is_held_by_one_and_numbers_grow(tmp_path):
    store = Store(tmp_path)
    for number in (1, 2, 3):
        with lease.held(store) as own:
            assert own == number
            said = rf"is being run by process {os.getpid()} on .*scaleexp stop"
            with pytest.raises(StorageError, match=said), lease.held(store):
                pytest.fail("two hold it")
    assert lease.newest(store) == 3


def test_a_driver_that_was_killed_is_followed_at_once(tmp_path):
    code = "import os, sys; from scaleexp import lease; from scaleexp.storage import Store\n"
    code += "with lease.held(Store(sys.argv[1])): os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    begin = time.monotonic()
    with lease.held(Store(tmp_path), tell=pytest.fail) as number:
        assert number == 2
    assert time.monotonic() - begin < 5


def test_a_driver_elsewhere_is_followed_when_it_gives_no_sign_of_life(tmp_path):
    store, told = Store(tmp_path), []
    store.write_json("lease/0001.json", ELSEWHERE)
    with lease.held(store, ttl_s=0.4, tell=told.append) as number:
        assert number == 2
    assert "was last run by process 1 on elsewhere; waiting 0 s for a sign of life" in told[0]


def test_a_driver_elsewhere_that_lives_is_left_alone(tmp_path):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", {**ELSEWHERE, "ttl_s": 20.0})
    timer = threading.Timer(0.5, lambda: store.write_json("lease/0001.beat-000001", {}))
    timer.start()
    with pytest.raises(StorageError, match="is being run by process 1 on elsewhere"), lease.held(store, ttl_s=20.0):
        pytest.fail("two hold it")
    timer.join()


def test_a_holder_shows_that_it_lives_and_hears_that_it_was_followed(tmp_path):
    store = Store(tmp_path)

    def hold():
        with lease.held(store, ttl_s=0.2):
            time.sleep(0.5)
            beats = [n for n in store.names("lease") if "beat" in n]
            assert 1 <= len(beats) <= 2
            store.write_json("lease/0002.json", ELSEWHERE)
            time.sleep(0.3)

    with pytest.raises(StorageError, match="another driver has taken over"):
        hold()


def test_a_late_commit_of_a_driver_that_was_followed_is_refused(tmp_path):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", ELSEWHERE)
    zombie = log(tmp_path, 1)
    zombie.commit(step=1, samples=4, status="running")
    store.write_json("lease/0002.json", ELSEWHERE)
    with pytest.raises(StorageError, match=r"another driver \(lease 2\) has taken over"):
        zombie.commit(step=2, samples=8, status="running")
    assert last_commit(store, "t")["step"] == 1


def test_a_commit_that_slips_in_before_that_is_overtaken(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", ELSEWHERE)
    zombie = log(tmp_path, 1)
    zombie.commit(step=1, samples=4, status="running")
    store.write_json("lease/0002.json", ELSEWHERE)
    follower = log(tmp_path, 2, last_commit(store, "t"))
    with monkeypatch.context() as patch:
        patch.setattr(lease, "check", lambda store, number: None)  # it looked just before the other came
        zombie.evaluation(step=2, samples=8, values={"loss": 1.0}, eval_s=0.0)
        zombie.commit(step=2, samples=8, status="running")
    follower.evaluation(step=2, samples=8, values={"loss": 1.0}, eval_s=0.0)
    follower.commit(step=3, samples=12, status="running")
    newest = last_commit(store, "t")
    assert (newest["step"], newest["number"], newest["fence"]) == (3, 3, 2)
    assert len(newest["segments"]) == 1, "its rows and no one else's"
    with monkeypatch.context() as patch:
        patch.setattr(lease, "check", lambda store, number: None)
        with pytest.raises(StorageError, match="another run is writing trial t"):
            zombie.commit(step=4, samples=16, status="running")


def test_who_is_asked_to_stop_hears_it_and_nobody_else_does(tmp_path):
    store = Store(tmp_path)
    assert not lease.request_stop(store), "nobody runs it"
    with lease.held(store) as number:
        asked = Assignment(
            study=None,  # type: ignore[arg-type]
            targets=(),
            root=str(tmp_path),
            git_sha=None,
            deadline=None,
            deadline_cause="",
            fence=number,
        )
        assert asked.stop() == ""
        assert lease.request_stop(store)
        assert lease.request_stop(store), "again is no error"
        time.sleep(1.0)
        assert asked.stop() == "asked to stop"
    assert not lease.request_stop(store), "nobody runs it any more"
    with lease.held(store) as number:
        assert not lease.stop_requested(store, number)


def test_the_first_signal_asks_and_the_second_interrupts(tmp_path):
    store, told = Store(tmp_path), []

    def signalled(number):
        with lease.held(store) as own, stopping(store, told.append):
            os.kill(os.getpid(), number)
            assert lease.stop_requested(store, own)
            os.kill(os.getpid(), number)
            time.sleep(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            signalled(number)
        assert signal.getsignal(number) is before
    assert told == ["stopping: every trial commits where it is; once more to stop without that"] * 2


def test_a_stop_leaves_the_lease_of_a_dead_driver_alone(tmp_path):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", {**lease.holder(), "pid": 2**22 + 1, "ttl_s": 1.0})
    assert not lease.request_stop(store)
    assert json.loads((tmp_path / "lease" / "0001.json").read_text())["pid"] == 2**22 + 1


# Of other machines


def test_a_driver_elsewhere_lives_by_the_clock_of_the_storage_and_not_by_its_process_number(tmp_path, monkeypatch):
    """Process 1 is there on every machine, and this one's clock is an hour behind the storage's."""
    store, hour = Store(tmp_path), 3600.0
    store.write_json("lease/0001.json", {**ELSEWHERE, "ttl_s": 30.0})
    os.utime(tmp_path / "lease/0001.json", (0, time.time() + hour - 31))
    monkeypatch.setattr(clocks, "now", lambda store, directory: time.time() + hour)
    assert not lease.may_live(store, 1)
    assert lease.unseen_s(store, 1) == pytest.approx(31, abs=5)
    store.write_json("lease/0001.beat-000001", {})
    os.utime(tmp_path / "lease/0001.beat-000001", (0, time.time() + hour - 3))
    assert lease.may_live(store, 1)
    assert lease.request_stop(store)


def test_the_clock_of_the_storage_is_that_of_a_file_written_just_now(tmp_path, monkeypatch):
    modified = Store.modified
    monkeypatch.setattr(Store, "modified", lambda self, name: modified(self, name) + 100.0)
    assert clocks.now(Store(tmp_path), "lease") == pytest.approx(time.time() + 100, abs=10)
    assert clocks.ahead_s(Store(tmp_path)) == pytest.approx(100, abs=10)
    assert [*tmp_path.rglob("*")] == [tmp_path / "lease"]


def test_who_may_only_read_goes_by_a_clock_of_their_own(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", ELSEWHERE)

    def denied(store, directory):
        raise StorageError("could not write: Permission denied")

    monkeypatch.setattr(clocks, "now", denied)
    assert lease.unseen_s(store, 1) == pytest.approx(0, abs=10)


def test_a_beat_that_is_followed_by_the_next_while_one_looks_is_looked_for_again(tmp_path, monkeypatch):
    store, modified = Store(tmp_path), Store.modified
    store.write_json("lease/0001.json", ELSEWHERE)
    store.write_json("lease/0001.beat-000001", {})

    def follows(self, name):
        if name.endswith("000001"):
            store.write_json("lease/0001.beat-000002", {})
            store.remove("lease/0001.beat-000001")
        return modified(self, name)

    monkeypatch.setattr(Store, "modified", follows)
    assert lease.unseen_s(store, 1) == pytest.approx(0, abs=10)


def test_a_process_of_this_machine_that_runs_or_has_let_go_is_not_said_to_be_silent(tmp_path):
    store = Store(tmp_path)
    with lease.held(store) as number:
        assert lease.unseen_s(store, number) is None
    assert lease.unseen_s(store, number) is None


def test_that_somebody_asked_it_to_stop_is_no_sign_that_a_driver_lives(tmp_path):
    store = Store(tmp_path)
    store.write_json("lease/0001.json", {**ELSEWHERE, "ttl_s": 1.0})
    timer = threading.Timer(0.3, lambda: store.write_json("lease/0001.stop", {}))
    timer.start()
    with lease.held(store, ttl_s=1.0) as number:
        assert number == 2
    timer.join()
    assert (1, "stop") in signs_of_life.lease_files(store)


@pytest.mark.parametrize("ttl_s", [0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_lease_that_would_never_end_or_never_last_is_refused(tmp_path, ttl_s):
    with pytest.raises(ConfigError, match="more than 0 and at most 3600 s"), lease.held(Store(tmp_path), ttl_s=ttl_s):
        pytest.fail("it is held")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "taken"), [(1e9, 3600.0), (-5, 0.0), ("long", 30.0), (None, 30.0), (True, 30.0), (12, 12.0)]
)
def test_a_lease_whose_file_says_an_absurd_time_is_waited_for_no_longer_than_an_hour(said, taken):
    assert signs_of_life.lost_after_s({"ttl_s": said}) == taken
