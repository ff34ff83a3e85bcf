"""Writing beside training: what the logs of a process put into the storage, in threads of its own.

A commit is several files, each made durable before the next, which takes milliseconds on a disk and far longer on an
object store; training does not wait for it. Trials that end together write side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType

LANES = 4
"""Logs that write at the same time: they wait for the storage, not for a core."""
MOST_WAITING = 256
"""Jobs that may wait; a writer that falls further behind holds training up."""

Job = Callable[[], None]


class Writer:
    """Runs jobs in lanes, those of one lane one after another; after one that failed it runs no other.

    A context manager that ends when all jobs are done, and raises what one of them raised.
    """

    def __init__(self) -> None:
        self._pools = [ThreadPoolExecutor(max_workers=1, thread_name_prefix="log") for _ in range(LANES)]
        self._opened = 0
        self._waiting: deque[Future[None]] = deque()
        self._failure: BaseException | None = None

    def lane(self) -> Callable[[Job], None]:
        """What runs jobs in the order in which it is given them, while the caller goes on.

        It raises what an earlier job raised.
        """
        pool = self._pools[self._opened % LANES]
        self._opened += 1
        return partial(self._submit, pool)

    @property
    def idle(self) -> bool:
        """Whether nothing waits: who commits by the clock need not pile up states for a storage that is away."""
        return all(future.done() for future in self._waiting)

    def wait(self) -> None:
        """Until all that was given so far is written.

        Raises:
            Exception: what a job raised.
        """
        while self._waiting:
            self._waiting.popleft().result()
        self._raise()

    def _submit(self, pool: ThreadPoolExecutor, job: Job) -> None:
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST_WAITING):
            self._waiting.popleft().result()
        self._raise()
        self._waiting.append(pool.submit(self._run, job))

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
        for pool in self._pools:
            pool.shutdown(wait=True)
        if error is None:
            self._raise()
