"""Ctrl-C and SIGTERM: the first asks the study to commit and stop, the second ends it now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from scaleexp import lease
from scaleexp.storage import Store

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(store: Store, tell: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, the first signal asks who holds the study's lease to stop; the next one interrupts.

    Outside the main thread, where Python takes no signals, it changes nothing.

    Args:
        store: the study.
        tell: is told in one line that it stops.

    Raises:
        KeyboardInterrupt: after the second signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        tell("stopping: every trial commits where it is; once more to stop without that")
        lease.request_stop(store)

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
