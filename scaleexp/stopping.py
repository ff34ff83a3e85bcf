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

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(store: Store, tell: Callable[[str], None], *, cut_s: float = inf) -> Iterator[threading.Event]:
    """While the body runs, the first signal asks who holds the study's lease to stop; the next one interrupts.

    Outside the main thread, where Python takes no signals, it changes nothing.

    Args:
        store: the study.
        tell: is told in one line that it stops.
        cut_s: after so long [seconds] the body is interrupted, signal or not.

    Yields:
        Whether it was interrupted because its time was up.

    Raises:
        KeyboardInterrupt: after the second signal, or when the time is up.
    """
    cut, over = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cut
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if over.is_set():
            return
        if asked.is_set() or cut.is_set():
            raise KeyboardInterrupt
        asked.set()
        tell("stopping: every trial commits where it is; once more to stop without that")
        lease.request_stop(store)

    def end() -> None:
        if not over.is_set():
            cut.set()
            signal.pthread_kill(main, signal.SIGINT)

    main = threading.get_ident()
    timer = threading.Timer(max(cut_s, 0.0), end) if cut_s < threading.TIMEOUT_MAX else None
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    if timer:
        timer.daemon = True
        timer.start()
    try:
        yield cut
    finally:
        over.set()
        if timer:
            timer.cancel()
            timer.join()
        for number, handler in before.items():
            signal.signal(number, handler)
