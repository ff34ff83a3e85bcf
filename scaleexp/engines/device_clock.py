"""A clock for work that a device does on its own."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Time at which all that a device was given so far is done [seconds, from any point on]; it waits for that.

    >>> begin = now(torch.device("cpu"))
    >>> begin <= now(torch.device("cpu"))
    True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
