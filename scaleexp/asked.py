"""Why a trial that could go on is to stop now: somebody asked, or the study's time is up."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import lru_cache

from scaleexp import lease
from scaleexp.errors import StorageError
from scaleexp.storage import Store

ASKED = "asked to stop"
"""Cause of a trial that was stopped by `scaleexp stop`, Ctrl-C or SIGTERM."""
_LOOK_S, _FAR_LOOK_S = 0.5, 5.0
"""How often a process looks whether that happened, here or on an object store [seconds]."""


def why_stop(root: str, *, fence: int | None, deadline: float | None, deadline_cause: str) -> str:
    """Why to stop now; empty to go on.

    Args:
        root: where the study lives.
        fence: number of the lease whose holder may have been asked; None where there is none.
        deadline: Unix time [seconds]; None for no limit.
        deadline_cause: the limit that set it, in words.

    >>> why_stop("/nowhere", fence=None, deadline=0.0, deadline_cause="limits.wall_s = 1")
    'limits.wall_s = 1'
    """
    if deadline is not None and time.time() > deadline:
        return deadline_cause
    tick = int(time.monotonic() / (_FAR_LOOK_S if "://" in root else _LOOK_S))
    if fence is not None and _asked_to_stop(root, fence, tick):
        return ASKED
    return ""


@lru_cache(maxsize=1)
def _asked_to_stop(root: str, fence: int, tick: int) -> bool:
    """Whether somebody asked the driver to stop; looked up once a tick. Training waits for no storage that is away."""
    with suppress(StorageError):
        return lease.stop_requested(Store(root, patience_s=0.0), fence)
    return False
