"""Ctrl-C and SIGTERM: the first asks the study to commit and stop, the second ends it now; so may a timer."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from types import FrameType

from scaleexp import lease
from scaleexp.storage import Store

TIME_IS_UP = "its time is up"
"""Why the timer of `stopping` interrupts."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Cut:
    """How the body of `stopping` is interrupted by others than the user.

    Attributes:
        why: it was; empty while it was not.
    """

    def __init__(self) -> None:
        self.why = ""
        self._main, self._over = threading.get_ident(), threading.Event()

    def now(self, why: str) -> None:
        """Interrupt it, from any thread; nothing once it has ended, or where it is not in the main thread."""
        if not self._over.is_set() and self._main == threading.main_thread().ident:
            self.why = self.why or why
            signal.pthread_kill(self._main, signal.SIGINT)

    def end(self) -> None:
        """The body has ended."""
        self._over.set()

    @property
    def over(self) -> bool:
        """Whether it has."""
        return self._over.is_set()


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """After the body SIGTERM does what it did before: Ray puts a handler of its own in the place of any other."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopping(store: Store, tell: Callable[[str], None], *, cut_s: float = inf) -> Iterator[Cut]:
    """While the body runs, the first signal asks who holds the study's lease to stop; the next one interrupts.

    Outside the main thread, where Python takes no signals, it changes nothing.

    Args:
        store: the study.
        tell: is told in one line that it stops.
        cut_s: after so long [seconds] the body is interrupted, signal or not.

    Yields:
        What interrupts it otherwise, and says afterwards whether it did.

    Raises:
        KeyboardInterrupt: after the second signal, when the time is up, or for another reason of `Cut`.
    """
    cut = Cut()
    if threading.current_thread() is not threading.main_thread():
        yield cut
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if cut.over:
            return
        if asked.is_set() or cut.why:
            raise KeyboardInterrupt
        asked.set()
        tell("stopping: every trial commits where it is; once more to stop without that")
        lease.request_stop(store)

    timer = threading.Timer(max(cut_s, 0.0), cut.now, [TIME_IS_UP]) if cut_s < threading.TIMEOUT_MAX else None
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield cut
    finally:
        cut.end()
        if timer:
            timer.cancel()
            timer.join()
        for number, handler in before.items():
            signal.signal(number, handler)
