"""Processes that fail end the group at once, and what was measured before is kept."""

from __future__ import annotations

import multiprocessing

import pytest

from scaleexp.errors import ConfigError, TrialsFailedError
from scaleexp.probe.processes import OutOfMemoryError, _DiedError, _rank_of_cause, on_workers
from tests.probe_workloads import one_fails

WAYS = {
    "raises MemoryError": (OutOfMemoryError, "process 1: MemoryError: planted"),
    "is killed": (OutOfMemoryError, "process 1 was killed, as the kernel does"),
    "raises ConfigError": (ConfigError, "^planted$"),
    "ends": (TrialsFailedError, "process 1 of the probe died with exit code 7"),
    "hangs": (TrialsFailedError, "said nothing for 20 s"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", WAYS)
def test_where_one_process_fails_the_others_do_not_wait_for_it(how):
    error, says = WAYS[how]
    heard = []

    def listen():
        for message in on_workers(2, one_fails, {"how": how}, silent_s=20.0 if how == "hangs" else 90.0):
            heard.append(message)

    with pytest.raises(error, match=says):
        listen()
    assert heard == ["measured"] or how == "raises ConfigError"
    assert not multiprocessing.active_children()


def test_a_death_is_the_cause_of_what_its_neighbours_say_and_memory_that_of_a_death():
    lost, died = TrialsFailedError("process 0: connection reset by peer"), _DiedError("process 1 died")
    memory, own = OutOfMemoryError("process 1 was killed"), ConfigError("planted")
    for first, second in ((died, lost), (own, died), (memory, own)):
        assert min([second, first], key=_rank_of_cause) is first
