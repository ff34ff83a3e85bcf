"""One driver of a study at a time: a lease that must be kept alive, numbered so that who lost it can be refused.

Every holder has the next number (fencing: Kleppmann 2016, "How to do distributed locking"). A holder that is known to
be dead is followed at once; one of which nothing is known is followed when it has given no sign of life for `TTL_S`, by
the watch of who waits, so that clocks need not agree. Each commit names the number it was made under and is refused
where a higher one has been taken.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scaleexp import schema
from scaleexp.errors import CorruptError, StorageError
from scaleexp.storage import Store

TTL_S = 30.0
_BEATS_PER_TTL = 5
_UNSEEN = 2
_SIGNS = ("beat", "released")
_NAME = re.compile(r"^(\d+)\.(json|beat-\d+|stop|released)$")


def holder() -> dict[str, Any]:
    """Who this process is, so that another process can tell whether it is still there."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "space": _process_space(), "started": _started(pid)}


def newest(store: Store) -> int:
    """Number of the newest lease; 0 before the first."""
    return max((number for number, kind in _files(store) if kind == "json"), default=0)


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
    return (number, "stop") in _files(store)


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
        StorageError: another driver holds it and is alive, or it was lost.
    """
    number = _acquired(store, {"ttl_s": ttl_s, **({"holding": dict(holding)} if holding else {})}, tell)
    begin = time.monotonic()
    end, lost = threading.Event(), threading.Event()

    def beat() -> None:
        count = 0
        while not end.wait(ttl_s / _BEATS_PER_TTL):
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
    if number and may_live(store, number):
        other = held_by(store, number)
        if other.get("space") == _process_space():
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
    if not may_live(store, number):
        return
    refuse_if_run_here(store)
    other = held_by(store, number)
    who = f"process {other.get('pid')} on {other.get('host')}" if other else "a process whose lease is corrupt"
    refusal = _refusal(store, who)
    wait_s = max(ttl_s, float(other.get("ttl_s", ttl_s)))
    tell(f"{store.root} was last run by {who}; waiting {wait_s:.0f} s for a sign of life")
    before = _files(store)
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        time.sleep(min(1.0, wait_s / 10))
        if (number, "released") in _files(store):
            return
        if _files(store) != before:
            raise refusal


def holdings(store: Store) -> dict[int, dict[str, Any]]:
    """What every lease says that it held, by its number; nothing where it does not say so, or not any more."""
    numbers = sorted(number for number, kind in _files(store) if kind == "json")
    return {number: held_by(store, number).get("holding", {}) for number in numbers}


def held_s(store: Store, number: int) -> float:
    """For how long a lease was held, or has been [seconds]: never less than it was.

    The holder said so when it let go. One that was killed, or still holds it, is taken to have held it for `_UNSEEN`
    beats past its last sign of life: one that never came, and one for its workers to notice.
    """
    beat_s = float(held_by(store, number).get("ttl_s", TTL_S)) / _BEATS_PER_TTL
    signs = sorted((kind for n, kind in _files(store) if n == number and kind.startswith(_SIGNS)), reverse=True)
    for kind in signs:  # the release first, then the newest beat
        try:
            said = float(store.read_json(f"{schema.LEASE_DIR}/{number:04d}.{kind}")["held_s"])
        except FileNotFoundError:
            return held_s(store, number)  # the next beat has taken its place
        except (CorruptError, KeyError):
            continue
        return said if kind == "released" else said + _UNSEEN * beat_s
    beats = max((int(kind.removeprefix("beat-")) for kind in signs if kind != "released"), default=0)
    return (beats + _UNSEEN) * beat_s


def may_live(store: Store, number: int) -> bool:
    """Whether the holder of a lease is not known to be gone."""
    if (number, "released") in _files(store):
        return False
    other = held_by(store, number)
    return bool(other.get("space") != _process_space() or _started(other["pid"]) == other["started"])


def held_by(store: Store, number: int) -> dict[str, Any]:
    """Who holds a lease; nothing where the file does not say it any more, and then only a sign of life tells."""
    with suppress(CorruptError):
        found: dict[str, Any] = store.read_json(f"{schema.LEASE_DIR}/{number:04d}.json")
        return found
    return {}


def _files(store: Store) -> set[tuple[int, str]]:
    """(number, kind) of every file of the leases."""
    matches = (_NAME.match(name) for name in store.names(schema.LEASE_DIR))
    return {(int(m.group(1)), m.group(2)) for m in matches if m}


def _process_space() -> str:
    """Where a process number means the same process: a boot of a machine and a namespace in it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process started, as the kernel counts it; None where there is none of that number (or it is a zombie)."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "unknown"
