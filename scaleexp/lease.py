"""One driver of a study at a time: a lease that must be kept alive, numbered so that who lost it can be refused.

Every holder has the next number (fencing: Kleppmann 2016, "How to do distributed locking"). A holder that is known to
be dead is followed at once; one of which nothing is known is followed when it has given no sign of life for `TTL_S`, by
the watch of who waits, so that clocks need not agree. Each commit names the number it was made under and is refused
where a higher one has been taken.

Who only wants to know whether a holder lives does not wait (see `scaleexp.signs_of_life`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from scaleexp import schema
from scaleexp.errors import ConfigError, StorageError
from scaleexp.signs_of_life import (
    BEATS_PER_TTL,
    MOST_TTL_S,
    TTL_S,
    holder,
    is_gone,
    lease_files,
    lost_after_s,
    process_space,
    signs,
)
from scaleexp.signs_of_life import held_by as held_by
from scaleexp.signs_of_life import held_s as held_s
from scaleexp.signs_of_life import holdings as holdings
from scaleexp.signs_of_life import may_live as may_live
from scaleexp.signs_of_life import newest as newest
from scaleexp.signs_of_life import unseen_s as unseen_s
from scaleexp.storage import Store


def request_stop(store: Store) -> bool:
    """Ask who holds the lease to commit and stop; False where nobody holds it."""
    number = newest(store)
    if number == 0 or not may_live(store, number):
        return False
    with suppress(FileExistsError):  # asked before
        store.write_json(f"{schema.LEASE_DIR}/{number:04d}.stop", {"asked_by": holder()})
    return True


def stop_requested(store: Store, number: int) -> bool:
    """Whether the holder of this lease was asked to stop."""
    return (number, "stop") in lease_files(store)


@contextmanager
def held(
    store: Store,
    *,
    ttl_s: float = TTL_S,
    tell: Callable[[str], None] = lambda line: None,
    holding: Mapping[str, Any] | None = None,
) -> Iterator[int]:
    """Hold the lease of a study while the body runs; its number.

    Args:
        store: the study.
        ttl_s: a holder without a sign of life for so long [seconds] has lost it.
        tell: is told in one line why it has to wait.
        holding: what the holder holds for as long, as the lease is to say it (see `scaleexp.spending`).

    Raises:
        ConfigError: a lease cannot run for so long.
        StorageError: another driver holds it and is alive, or it was lost.
    """
    if not 0 < ttl_s <= MOST_TTL_S:
        raise ConfigError(
            f"the ttl_s of a lease is the time without a sign of life after which it is lost, more than 0 and at most "
            f"{MOST_TTL_S:g} s; {ttl_s!r} is none: give a number in between, such as {TTL_S:g}."
        )
    number = _acquired(store, {"ttl_s": ttl_s, **({"holding": dict(holding)} if holding else {})}, tell)
    begin = time.monotonic()
    end, lost = threading.Event(), threading.Event()

    def beat() -> None:
        count = 0
        while not end.wait(ttl_s / BEATS_PER_TTL):
            count += 1
            with suppress(OSError):  # a sign of life that could not be written may be the next one
                if newest(store) > number:
                    lost.set()
                    return
                store.write_json(f"{schema.LEASE_DIR}/{number:04d}.beat-{count:06d}", _for_how_long(begin))
                store.remove(f"{schema.LEASE_DIR}/{number:04d}.beat-{count - 1:06d}")

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield number
    finally:
        end.set()
        thread.join()
        with suppress(StorageError, FileExistsError):  # then it runs out
            store.write_json(f"{schema.LEASE_DIR}/{number:04d}.released", _for_how_long(begin))
    if lost.is_set():
        raise StorageError(f"another driver has taken over {store.root}: what it runs, it finishes.")


def check(store: Store, number: int) -> None:
    """Refuse a holder that was followed by another.

    Raises:
        StorageError: it was.
    """
    found = newest(store)
    if found > number:
        raise StorageError(
            f"another driver (lease {found}) has taken over {store.root} from this one (lease {number}): "
            "nothing more is committed here."
        )


def _for_how_long(begin: float) -> dict[str, float]:
    """Since it was taken [seconds], by a clock that nobody sets."""
    return {"held_s": time.monotonic() - begin}


def _acquired(store: Store, terms: dict[str, Any], tell: Callable[[str], None]) -> int:
    while True:
        number = newest(store)
        if number:
            _wait_for(store, number, terms["ttl_s"], tell)
        with suppress(FileExistsError):  # another was faster
            store.write_json(f"{schema.LEASE_DIR}/{number + 1:04d}.json", {**terms, "since": time.time(), **holder()})
            return number + 1


def refuse_if_run_here(store: Store) -> None:
    """Before anything is started.

    Raises:
        StorageError: a process of this machine that is alive holds the lease.
    """
    number = newest(store)
    other = held_by(store, number) if number else {}
    if other.get("space") == process_space() and not is_gone(store, number, other):
        raise _refusal(store, f"process {other.get('pid')} on {other.get('host')}")


def _refusal(store: Store, who: str) -> StorageError:
    return StorageError(
        f"{store.root} is being run by {who}: wait for it, stop it with `scaleexp stop {store.root}`, "
        "or give another --storage."
    )


def _wait_for(store: Store, number: int, ttl_s: float, tell: Callable[[str], None]) -> None:
    """Until the holder of a lease is known or believed to be gone.

    Raises:
        StorageError: it is alive.
    """
    other = held_by(store, number)
    if is_gone(store, number, other):
        return
    refuse_if_run_here(store)
    who = f"process {other.get('pid')} on {other.get('host')}" if other else "a process whose lease is corrupt"
    refusal = _refusal(store, who)
    wait_s = max(ttl_s, lost_after_s(other))
    tell(f"{store.root} was last run by {who}; waiting {wait_s:.0f} s for a sign of life")
    before = signs(store)
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        time.sleep(min(1.0, wait_s / 10))
        if (number, "released") in lease_files(store):
            return
        if signs(store) != before:
            raise refusal
