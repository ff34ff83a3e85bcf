"""What the files of the leases say: who has run a study, and when each last gave a sign of life.

    lease/0001.json           taken: by whom, and what it holds
    lease/0001.beat-000012    the newest sign of life; each takes the place of the one before
    lease/0001.stop           its holder was asked to stop, by anybody: no sign that it lives
    lease/0001.released       its holder has let go

A process of this machine is looked for by its number and the time that it started. Of another machine's that number
says nothing: it is taken to live while its last sign of life is no older than its lease says, by the storage's clock.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any

from scaleexp import clocks, schema
from scaleexp.errors import CorruptError, StorageError
from scaleexp.storage import Store

TTL_S = 30.0
MOST_TTL_S = 3600.0
"""Who follows a driver that died on another machine waits for so long at most, whatever its lease says [seconds]."""
BEATS_PER_TTL = 5
_UNSEEN = 2
_MOST_LOOKS = 10
_SIGNS = ("beat", "released")
_NAME = re.compile(r"^(\d+)\.(json|beat-\d+|stop|released)$")


def holder() -> dict[str, Any]:
    """Who this process is, so that another process can tell whether it is still there."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "space": process_space(), "started": _started(pid)}


def newest(store: Store) -> int:
    """Number of the newest lease; 0 before the first."""
    return max((number for number, kind in lease_files(store) if kind == "json"), default=0)


def lease_files(store: Store) -> set[tuple[int, str]]:
    """(number, kind) of every file of the leases."""
    matches = (_NAME.match(name) for name in store.names(schema.LEASE_DIR))
    return {(int(m.group(1)), m.group(2)) for m in matches if m}


def signs(store: Store) -> set[tuple[int, str]]:
    """What holders write; that one was asked to stop is no sign that it lives."""
    return {(number, kind) for number, kind in lease_files(store) if kind != "stop"}


def held_by(store: Store, number: int) -> dict[str, Any]:
    """Who holds a lease; nothing where the file does not say it any more, and then only a sign of life tells."""
    with suppress(CorruptError):
        found: dict[str, Any] = store.read_json(f"{schema.LEASE_DIR}/{number:04d}.json")
        return found
    return {}


def holdings(store: Store) -> dict[int, dict[str, Any]]:
    """What every lease says that it held, by its number; nothing where it does not say so, or not any more."""
    numbers = sorted(number for number, kind in lease_files(store) if kind == "json")
    return {number: held_by(store, number).get("holding", {}) for number in numbers}


def held_s(store: Store, number: int) -> float:
    """For how long a lease was held, or has been [seconds]: never less than it was.

    The holder said so when it let go. One that was killed, or still holds it, is taken to have held it for `_UNSEEN`
    beats past its last sign of life: one that never came, and one for its workers to notice.
    """
    beat_s = lost_after_s(held_by(store, number)) / BEATS_PER_TTL
    kinds = sorted((kind for n, kind in lease_files(store) if n == number and kind.startswith(_SIGNS)), reverse=True)
    for kind in kinds:  # the release first, then the newest beat
        try:
            said = float(store.read_json(f"{schema.LEASE_DIR}/{number:04d}.{kind}")["held_s"])
        except FileNotFoundError:
            return held_s(store, number)  # the next beat has taken its place
        except (CorruptError, KeyError):
            continue
        return said if kind == "released" else said + _UNSEEN * beat_s
    beats = max((int(kind.removeprefix("beat-")) for kind in kinds if kind != "released"), default=0)
    return (beats + _UNSEEN) * beat_s


def may_live(store: Store, number: int) -> bool:
    """Whether the holder of a lease is alive, or may be: another machine's, while its last sign of life is young."""
    other = held_by(store, number)
    if is_gone(store, number, other):
        return False
    return other.get("space") == process_space() or _silent_s(store, number) <= lost_after_s(other)


def unseen_s(store: Store, number: int) -> float | None:
    """How long ago the holder of a lease gave its last sign of life [seconds].

    None where it has let go, is a process of this machine that is seen to run, or has left nothing to tell by.
    """
    other = held_by(store, number)
    here = other.get("space") == process_space()
    if (number, "released") in lease_files(store) or (here and not is_gone(store, number, other)):
        return None
    silent_s = _silent_s(store, number)
    return silent_s if isfinite(silent_s) else None


def _silent_s(store: Store, number: int) -> float:
    """Seconds since the newest sign of life, by the storage's clock."""
    try:
        now = clocks.now(store, schema.LEASE_DIR)
    except StorageError:  # who may only read has but a clock of their own
        now = time.time()
    for _ in range(_MOST_LOOKS):
        kinds = (kind for n, kind in signs(store) if n == number)
        last = max(kinds, key=lambda kind: (kind != "json", kind), default="json")
        with suppress(FileNotFoundError):  # the next sign has taken its place
            return max(now - store.modified(f"{schema.LEASE_DIR}/{number:04d}.{last}"), 0.0)
    return inf


def is_gone(store: Store, number: int, other: Mapping[str, Any]) -> bool:
    """Whether the holder of a lease is known to have let go, or to have been a process of this machine that ended."""
    if (number, "released") in lease_files(store):
        return True
    return other.get("space") == process_space() and _started(other["pid"]) != other["started"]


def lost_after_s(lease: Mapping[str, Any]) -> float:
    """What a lease says of it, within bounds: its file may say anything."""
    said = lease.get("ttl_s")
    if isinstance(said, bool) or not isinstance(said, int | float) or isnan(said):
        return TTL_S
    return min(max(float(said), 0.0), MOST_TTL_S)


def process_space() -> str:
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
