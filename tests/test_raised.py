"""What the errors of the processes of one group mean for it: a policy, without a cluster."""

from __future__ import annotations

import pickle

import pytest

from scaleexp.errors import ConfigError, CorruptError, StorageError, TrialsFailedError
from scaleexp.raised import TrialRaisedError, ending, told_to_the_group

LOST = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


def test_a_group_whose_process_died_or_had_too_little_memory_starts_again():
    assert ending([LOST]) is None
    assert ending([LOST, RuntimeError("The actor died unexpectedly before finishing this task.")]) is None
    assert ending([MemoryError(), LOST]) is None


def test_what_the_storage_says_ends_it_before_anything_else_that_was_raised():
    disk, trial = CorruptError("3 is not what was written"), TrialRaisedError("KeyError: 'pixels'", "3f2a")
    assert ending([LOST, trial, disk]) is disk
    assert ending([LOST, trial]) is trial
    assert ending([trial, ConfigError("no data")]) is trial, "the others of the group may still be trained"


def test_whatever_a_trial_raises_comes_back_with_its_name():
    class OfNobody(Exception):  # noqa: N818
        pass

    found = pickle.loads(pickle.dumps(told_to_the_group(OfNobody("no pixels"), "3f2a", where=" (process 1)")))  # noqa: S301
    assert isinstance(found, TrialRaisedError)
    assert (found.key, str(found), found.exit_code) == ("3f2a", "OfNobody: no pixels (process 1)", 3)


@pytest.mark.parametrize("error", [LOST, MemoryError(), StorageError("full"), TrialRaisedError("KeyError", "3f2a")])
def test_what_a_group_has_to_tell_apart_stays_what_it_is(error):
    assert told_to_the_group(error) is error


def test_what_is_raised_outside_of_every_trial_is_the_groups():
    assert type(told_to_the_group(KeyError("pixels"))) is TrialsFailedError
