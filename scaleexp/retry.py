"""Waiting out what passes: storage that is down, slow or throttled for a while does not end a study."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 300.0
"""How long an operation on storage is tried again [seconds]."""
_FIRST_S, _LONGEST_S = 0.2, 10.0

T = TypeVar("T")
_log = logging.getLogger("scaleexp")
_dice = random.SystemRandom()  # of its own: what a study draws from a seed stays as it is


def persist(
    attempt: Callable[[int], T], passing: Callable[[Exception], str | None], what: str, patience_s: float = PATIENCE_S
) -> T:
    """Try until it works, with pauses that double and are jittered, so that many processes do not come back at once.

    Exponential back-off with jitter (Brooker 2015, AWS Architecture Blog); the pause before try n + 1 is between half
    of and the whole of min(10 s, 0.2 s 2^(n-1)). Every pause is told to the logger `scaleexp` as a warning.

    Args:
        attempt: is given the number of tries before it, all of which failed in passing.
        passing: the cause of an error in a few words, without secrets, if it may pass; None if it will not.
        what: is tried, for the warnings.
        patience_s: no try begins later than this after the first [seconds].

    Raises:
        Exception: what the last try raised.

    >>> def second(failed): return 1 / failed
    >>> logging.disable()
    >>> persist(second, lambda error: "not yet", "dividing")
    1.0
    >>> logging.disable(logging.NOTSET)
    """
    begin, failed = time.monotonic(), 0
    while True:
        try:
            result = attempt(failed)
        except Exception as error:
            cause, left_s = passing(error), begin + patience_s - time.monotonic()
            pause_s = min(_LONGEST_S, _FIRST_S * 2.0 ** min(failed, 10)) * _dice.uniform(0.5, 1.0)
            if cause is None or pause_s > left_s:
                raise
            failed += 1
            _log.warning("%s: %s; try %d in %.1f s, giving up in %.0f s", what, cause, failed + 1, pause_s, left_s)
            time.sleep(pause_s)
        else:
            if failed:
                _log.warning("%s: done at try %d, after %.1f s", what, failed + 1, time.monotonic() - begin)
            return result
