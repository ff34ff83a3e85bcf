"""Writing beside training: what the log of a process puts into the storage, in order, in a thread of its own.

A commit is several files, each made durable before the next, which takes milliseconds on a disk and far longer on an
object store; training does not wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

MOST_WAITING = 1024
"""Jobs that may wait; a writer that falls further behind holds training up."""

Job = Callable[[], None]


class Writer:
    """Runs jobs one after another; after one that failed it runs no other.

    A context manager that ends when all jobs are done, and raises what one of them raised.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log")
        self._waiting: deque[Future[None]] = deque()
        self._failure: BaseException | None = None

    def submit(self, job: Job) -> None:
        """Run a job after those before it.

        Raises:
            Exception: what an earlier job raised.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST_WAITING):
            self._waiting.popleft().result()
        self._raise()
        self._waiting.append(self._pool.submit(self._run, job))

    def wait(self) -> None:
        """Until every job is done.

        Raises:
            Exception: what one of them raised.
        """
        while self._waiting:
            self._waiting.popleft().result()
        self._raise()

    def _run(self, job: Job) -> None:
        if self._failure is None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001  # raised in the thread that trains
                self._failure = error

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self._raise()
