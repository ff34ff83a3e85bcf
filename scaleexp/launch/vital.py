"""Whether the cluster under a driver still answers.

Ray 2.60 waits for ever for a node that is gone if it is the driver's own, and a minute after the head of a cluster is
gone it kills the driver, which then can say nothing. So the driver knocks at both doors itself. A call of Ray may hold
its main thread, where no signal is heard then: what has not ended after a while is ended from here.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

PATIENCE_S = 30.0
"""What has not answered for so long [seconds] is gone: a head may be started again, and Ray itself waits for 60 s."""
GRACE_S = 15.0
"""So long [seconds] a driver may take to end by itself after that."""
_EVERY_S, _TIMEOUT_S = 1.0, 5.0


def doors() -> dict[str, str]:
    """What a driver needs of its cluster -> the address where it answers: host:port, or the path of a socket."""
    import ray
    from ray._private.worker import global_worker

    if not ray.is_initialized():
        return {}
    node = global_worker.node
    found = {"its head": ray.get_runtime_context().gcs_address, "this node": getattr(node, "raylet_socket_name", "")}
    return {what: address for what, address in found.items() if address and answers(address)}


def answers(address: str) -> bool:
    """Whether somebody takes a connection there.

    >>> answers("/nowhere/at/all")
    False
    """
    try:
        if address.startswith("/"):
            with socket.socket(socket.AF_UNIX) as knock:
                knock.settimeout(_TIMEOUT_S)
                knock.connect(address)
            return True
        place = urlsplit(f"//{address}")
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False


@contextmanager
def watched(
    places: Mapping[str, str], gone: Callable[[str], None], *, patience_s: float = PATIENCE_S
) -> Iterator[None]:
    """While the body runs, knock at some doors, and say once which of them has not been answered for too long.

    Args:
        places: as of `doors`.
        gone: is told, in a thread of its own, what is gone.
        patience_s: for how long [seconds].
    """
    over = threading.Event()

    def watch() -> None:
        last = dict.fromkeys(places, time.monotonic())
        while not over.wait(min(_EVERY_S, patience_s / 4)):
            for what, address in places.items():
                if answers(address):
                    last[what] = time.monotonic()
                elif time.monotonic() - last[what] > patience_s:
                    return gone(what)

    thread = threading.Thread(target=watch, name="vital", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def end_unless(over: threading.Event, last_words: Callable[[], None], code: int, *, grace_s: float = GRACE_S) -> None:
    """End this process from a thread that is not its main one, if that does not get to its end in time.

    Args:
        over: is set when it has.
        last_words: said before.
        code: exit code.
        grace_s: how long it may take [seconds].
    """
    if over.wait(grace_s):
        return
    try:
        last_words()
    finally:
        os._exit(code)
