"""The storage's own clock: by it, and not by that of any machine, one tells how long ago a file was written.

It is what the storage says of a file that was written just now. A file server keeps it for all who mount it, and an
object store for all who ask; two machines need not agree with it, nor with each other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from scaleexp.storage import Store


def now(store: Store, directory: str = "") -> float:
    """Unix time by the storage's clock [seconds]; object stores count whole ones.

    A network file system lists a directory anew after something was written into it, so who will list one names it.

    Raises:
        StorageError: nothing can be written there.
    """
    with _written(store, directory) as name:
        return store.modified(name)


def ahead_s(store: Store) -> float:
    """How far the storage's clock is ahead of this machine's [seconds]; 0 where they agree as far as can be told.

    Raises:
        StorageError: nothing can be written there.
    """
    begin = time.time()
    with _written(store, "") as name:
        end, there = time.time(), store.modified(name)
    return there - end if there > end else min(there - begin, 0.0)


@contextmanager
def _written(store: Store, directory: str) -> Iterator[str]:
    """Name of a file that was written just now, and goes."""
    name = f"{directory}/.clock-{uuid.uuid4().hex}.tmp".lstrip("/")
    store.write(name, b"clock")
    try:
        yield name
    finally:
        store.remove(name)
