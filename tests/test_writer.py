import threading

import pytest

from scaleexp.writer import LANES, Writer


def test_jobs_of_a_lane_run_in_their_order_and_are_done_at_the_end():
    ran = []
    with Writer() as writer:
        lanes = [writer.lane() for _ in range(2 * LANES)]
        for number in range(50):
            for lane, submit in enumerate(lanes):
                submit(lambda lane=lane, number=number: ran.append((lane, number)))
    for lane in range(2 * LANES):
        assert [n for at, n in ran if at == lane] == list(range(50))


def test_a_lane_that_waits_for_the_storage_holds_up_no_other():
    came = threading.Event()
    with Writer() as writer:
        slow, quick = writer.lane(), writer.lane()
        slow(lambda: came.wait(30) or pytest.fail("the other lane never ran"))
        quick(came.set)


@pytest.mark.parametrize("other_lane", [False, True])
def test_after_a_job_that_failed_none_runs_and_who_adds_one_is_told(other_lane):
    ran, failed = [], threading.Event()

    def fails():
        failed.set()
        raise OSError("the disk is full")

    def adding():
        with Writer() as writer:
            first = writer.lane()
            second = writer.lane() if other_lane else first
            first(fails)
            first(lambda: ran.append("after it"))
            failed.wait()
            while True:
                second(lambda: None)

    with pytest.raises(OSError, match="the disk is full"):
        adding()
    assert not ran


def test_what_the_last_job_raised_is_raised_at_the_end():
    def fails():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"), Writer() as writer:
        writer.lane()(fails)


def test_it_is_idle_once_all_is_written():
    came = threading.Event()
    with Writer() as writer:
        assert writer.idle
        writer.lane()(lambda: came.wait(30))
        assert not writer.idle
        came.set()
        while not writer.idle:
            pass
