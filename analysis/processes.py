"""One thing done to the many small files of a study, in several processes: of threads Python lets one decode at a time.

On a local disk little is waited for, so threads take turns at the interpreter's lock: sixteen of them took longer over
ten thousand trials than one.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from scaleexp.at_once import each

FEW = 500
"""Items below which starting processes takes longer than they save."""
MOST = 8
"""Processes, however many cores there are: one process puts together what they read."""
THREADS = 2
"""Of one process, on a local disk."""

_PARTS = 32
"""Parts that each process sends its results in, so that they are put together while it goes on."""
_PIPE_BYTES = 1 << 20
"""Room for a part that nobody has taken yet: the most that Linux gives anybody. A full pipe stops who fills it."""
_NEVER_FORKED = ("ray", "torch", "grpc")
"""Whoever has one of these in memory may have threads of theirs, whose locks a fork would copy as they are."""

A = TypeVar("A")
T = TypeVar("T")


def each_file(function: Callable[[A], T], items: Sequence[A], *, remote: bool, bulky: bool = False) -> list[T]:
    """What the function gives for every item, in order, as `scaleexp.at_once.each` does.

    Args:
        function: reads files and gives something that can be sent between processes; may be called in any of them.
        items: what it is called with.
        remote: whether the files are on an object store, where many requests under way together are what helps.
        bulky: whether the results are too large to be sent from one process to another.

    Raises:
        Exception: what it raised for the first item for which it did.

    >>> each_file(lambda x: x * x, [3, 1, 2], remote=False)
    [9, 1, 4]
    """
    if not remote and not bulky and len(items) >= FEW and _may_fork():
        return each_part(lambda part: [function(item) for item in part], items, remote=False)
    return each(function, items) if remote else each(function, items, at_once=THREADS)


def each_part(function: Callable[[Sequence[A]], list[T]], items: Sequence[A], *, remote: bool) -> list[T]:
    """The same of a function that takes some dozens of items and does one thing to all of them before the next.

    Code and data of that one thing then stay in the processor's caches: decoding a file between the checks of others
    took a third longer.
    """
    if remote or len(items) < FEW or not _may_fork():
        size = max(1, len(items) // 256)
        parts = [items[i : i + size] for i in range(0, len(items), size)]
        found = each(function, parts) if remote else each(function, parts, at_once=THREADS)
        return [result for of_part in found for result in of_part]
    try:
        return _in_processes(function, items, min(MOST, len(os.sched_getaffinity(0))))
    except EOFError:  # one of them was killed, for want of memory most likely
        return function(items)


def _may_fork() -> bool:
    alone = threading.active_count() == 1 and not sys.modules.keys() & set(_NEVER_FORKED)
    return sys.platform == "linux" and alone and not current_process().daemon  # which may have no children


def _in_processes(function: Callable[[Sequence[A]], list[T]], items: Sequence[A], processes: int) -> list[T]:
    """Part i is the work of process i modulo their number.

    Raises:
        EOFError: a process ended before it had sent all its parts.
        Exception: what the function raised.
    """
    from fcntl import F_SETPIPE_SZ, fcntl  # not there where nothing forks

    size = -(-len(items) // (processes * _PARTS))
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    context = get_context("fork")
    started, pipes = [], []
    for k in range(processes):
        receiving, sending = context.Pipe(duplex=False)
        with suppress(OSError):  # a user may have only so much of it
            fcntl(receiving.fileno(), F_SETPIPE_SZ, _PIPE_BYTES)
        process = context.Process(target=_work, args=(sending, function, parts[k::processes]), daemon=True)
        process.start()
        sending.close()  # so that the pipe ends when the process does
        started.append(process)
        pipes.append(receiving)
    results: list[T] = []
    try:
        with _no_garbage():
            for i in range(len(parts)):
                results += _received(pipes[i % processes])
        return results
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.terminate()
            process.join()


@contextmanager
def _no_garbage() -> Iterator[None]:
    """While many objects are made and none in a circle: looking for circles among them takes a tenth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _received(pipe: Connection) -> list[Any]:
    found: list[Any] | Exception = pipe.recv()
    if isinstance(found, Exception):
        raise found
    return found


def _work(pipe: Connection, function: Callable[[Sequence[A]], list[T]], parts: Sequence[Sequence[A]]) -> None:
    """In a process that was just forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asked, who ends this
    with _no_garbage():
        for part in parts:
            try:
                pipe.send(function(part))
            except Exception as error:  # noqa: BLE001  # raised again by who receives it
                pipe.send(error)
                return
