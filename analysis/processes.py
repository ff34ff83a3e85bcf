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
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

from scaleexp.at_once import each

FEW = 500
"""Items below which starting processes takes longer than they save."""
MOST = 8
"""Processes, however many cores there are: one process puts together what they read."""
THREADS = 2
"""Of one process, on a local disk."""

PART = 64
"""Items at most that a process does together, and sends the results of, so that they are used while it goes on."""
_PIPE_BYTES = 1 << 20
"""Room for a part that nobody has taken yet: the most that Linux gives anybody. A full pipe stops who fills it."""
_NEVER_FORKED = ("ray", "torch", "grpc", "jax", "tensorflow")
"""Whoever has one of these in memory may have threads of theirs, whose locks a fork would copy as they are."""


class _LostError(Exception):
    """A process that was to read is not there, or no longer."""


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
    size = min(PART, max(1, len(items) // PART))
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    if not remote and len(items) >= FEW and _may_fork():
        try:
            return _in_processes(function, parts, min(MOST, len(os.sched_getaffinity(0))))
        except _LostError:  # killed for want of memory most likely, or never begun
            return [result for part in parts for result in function(part)]
    found = each(function, parts) if remote else each(function, parts, at_once=THREADS)
    return [result for of_part in found for result in of_part]


def _may_fork() -> bool:
    alone = threading.active_count() == 1 and not sys.modules.keys() & set(_NEVER_FORKED)
    if sys.platform != "linux" or not alone or current_process().daemon:  # which may have no children
        return False
    return len(os.sched_getaffinity(0)) > 1


def _in_processes(function: Callable[[Sequence[A]], list[T]], parts: Sequence[Sequence[A]], processes: int) -> list[T]:
    """Part i is the work of process i modulo their number.

    Raises:
        _LostError: a process could not be started, or ended before it had sent all its parts.
        Exception: what the function raised.
    """
    results: list[T] = []
    pipes: list[Connection] = []
    started: list[ForkProcess] = []
    try:
        for k in range(processes):
            _start(function, parts[k::processes], pipes, started)
        with _no_garbage():
            for i in range(len(parts)):
                results += _received(pipes[i % processes])
        return results
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.kill()
            process.join()


def _start(
    function: Callable[[Sequence[A]], list[T]],
    parts: Sequence[Sequence[A]],
    pipes: list[Connection],
    started: list[ForkProcess],
) -> None:
    from fcntl import F_SETPIPE_SZ, fcntl  # not there where nothing forks

    try:
        receiving, sending = get_context("fork").Pipe(duplex=False)
        pipes.append(receiving)
        with suppress(OSError):  # a user may have only so much of it
            fcntl(receiving.fileno(), F_SETPIPE_SZ, _PIPE_BYTES)
        with sending:  # closed here, so that the pipe ends when the process does
            process = get_context("fork").Process(target=_work, args=(sending, pipes, function, parts), daemon=True)
            process.start()
        started.append(process)
    except OSError as error:  # no more processes, files or memory for this user
        raise _LostError from error


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
    try:
        found: list[Any] | Exception = pipe.recv()
    except (EOFError, OSError) as error:  # the second in the middle of a message
        raise _LostError from error
    if isinstance(found, Exception):
        raise found
    return found


def _work(
    pipe: Connection,
    inherited: Sequence[Connection],
    function: Callable[[Sequence[A]], list[T]],
    parts: Sequence[Sequence[A]],
) -> None:
    """In a process that was just forked."""
    for end in inherited:  # else nobody's pipe would break when the one that reads them is killed
        end.close()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asked, who ends this
    for ends in (signal.SIGTERM, signal.SIGPIPE):  # whatever the one that asked does about them
        signal.signal(ends, signal.SIG_DFL)
    with _no_garbage():
        for part in parts:
            try:
                pipe.send(function(part))
            except Exception as error:  # noqa: BLE001  # raised again by who receives it
                pipe.send(error)
                return
