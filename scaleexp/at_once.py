"""One thing done to many items, several at a time: what waits for storage does not wait for one file after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST = 16
"""Requests under way together; few enough for a store not to throttle one reader."""

_PARTS = 16
"""Parts of the work that each thread takes one after another: of ten thousand items, handing each over by itself costs
as much as reading a small file."""

A = TypeVar("A")
T = TypeVar("T")


def each(function: Callable[[A], T], items: Sequence[A], *, at_once: int = MOST) -> list[T]:
    """What the function gives for every item, in order.

    Args:
        function: waits for storage most of its time; called in threads.
        items: what it is called with.
        at_once: threads.

    Raises:
        Exception: what it raised for the first item for which it did; items far behind it are left out.

    >>> each(lambda x: x * x, [3, 1, 2])
    [9, 1, 4]
    """
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(at_once, len(items)), thread_name_prefix="storage") as pool:
        size = max(1, len(items) // (at_once * _PARTS))
        parts = [items[i : i + size] for i in range(0, len(items), size)]
        futures = [pool.submit(lambda part: [function(item) for item in part], part) for part in parts]
        try:
            return [result for future in futures for result in future.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
