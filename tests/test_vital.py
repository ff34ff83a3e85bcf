"""What does not answer any more is told once, after a while; what answers again is not."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from scaleexp.launch.vital import answers, watched


def listening(place=("127.0.0.1", 0)):
    own = socket.create_server(place)
    return own, f"127.0.0.1:{own.getsockname()[1]}"


def test_a_door_that_is_shut_for_too_long_is_told_once_and_the_other_is_not():
    head, at = listening()
    node, there = listening()
    told, heard = [], threading.Event()

    def gone(what):
        told.append(what)
        heard.set()

    with node, watched({"its head": at, "this node": there}, gone, patience_s=0.4):
        time.sleep(1.0)
        assert told == []
        head.close()
        assert heard.wait(10)
        time.sleep(1.0)
    assert told == ["its head"]
    assert not answers(at)


def test_nobody_is_told_once_it_is_over():
    head, at = listening()
    told = []
    with watched({"its head": at}, told.append, patience_s=0.4):
        head.close()
    time.sleep(1.5)
    assert told == []


def test_a_head_that_comes_back_in_time_was_never_gone():
    head, at = listening()
    told = []
    with watched({"its head": at}, told.append, patience_s=2.5):
        time.sleep(3.0)
        head.close()
        time.sleep(1.0)
        head, _ = listening(("127.0.0.1", int(at.rpartition(":")[2])))
        time.sleep(3.0)
    head.close()
    assert told == []


ENDS = """
import threading, time
from scaleexp.launch.vital import end_unless
over = threading.Event()
threading.Thread(target=end_unless, args=(over, lambda: print("gone", flush=True), 130), kwargs={"grace_s": 1}).start()
if %s:
    over.set()
time.sleep(%d)
"""


@pytest.mark.parametrize(("ended", "held_s", "code", "said"), [(False, 600, 130, "gone\n"), (True, 2, 0, "")])
def test_a_driver_that_is_held_by_what_is_gone_is_ended_with_its_last_words(ended, held_s, code, said):
    done = subprocess.run([sys.executable, "-c", ENDS % (ended, held_s)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, said)
