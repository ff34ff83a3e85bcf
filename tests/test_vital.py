"""What does not answer any more is told once, after a while; what answers again is not."""

from __future__ import annotations

import socket
import threading
import time

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
    with watched({"its head": at}, told.append, patience_s=3.0):
        head.close()
        time.sleep(1.0)
        head, _ = listening(("127.0.0.1", int(at.rpartition(":")[2])))
        time.sleep(3.5)
    head.close()
    assert told == []
