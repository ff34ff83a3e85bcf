"""Why a trial that could go on is to stop now: somebody asked, or the study's time is up."""

from __future__ import annotations

import math
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


def why_stop(
    root: str, *, fence: int | None, deadline: float | None, deadline_cause: str, held_s: float | None = None
) -> str:
    """Why to stop now; empty to go on.

    Args:
        root: where the study lives.
        fence: number of the lease whose holder may have been asked; None where there is none.
        deadline: Unix time [seconds]; None for no limit.
        deadline_cause: the limit that set it, in words.
        held_s: how long its holder will have held that lease at the deadline [seconds], for clocks that differ; None
            to go by this machine's alone.

    >>> why_stop("/nowhere", fence=None, deadline=0.0, deadline_cause="limits.wall_s = 1")
    'limits.wall_s = 1'
    """
    tick = int(time.monotonic() / (_FAR_LOOK_S if "://" in root else _LOOK_S))
    late = deadline is not None and time.time() > deadline
    if late and (fence is None or held_s is None or _held_s(root, fence, tick) >= held_s):
        return deadline_cause
    if fence is not None and _asked_to_stop(root, fence, tick):
        return ASKED
    return ""


@lru_cache(maxsize=1)
def _asked_to_stop(root: str, fence: int, tick: int) -> bool:
    """Whether somebody asked the driver to stop; looked up once a tick. Training waits for no storage that is away."""
    with suppress(StorageError):
        return lease.stop_requested(Store(root, patience_s=0.0), fence)
    return False


@lru_cache(maxsize=1)
def _held_s(root: str, fence: int, tick: int) -> float:
    """For how long the driver has held its lease [seconds], never less; looked up once a tick, and only when it ends.

    Its clock may differ from the one here; where the storage does not say, the one here counts.
    """
    with suppress(StorageError):
        return lease.held_s(Store(root, patience_s=0.0), fence)
    return math.inf
