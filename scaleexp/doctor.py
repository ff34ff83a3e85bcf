"""What of this machine, of Ray and of a storage would spoil a study, and what to do about it; starts nothing."""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from scaleexp import clocks, facts
from scaleexp.errors import StorageError
from scaleexp.storage import Store

LEAST_FREE_BYTES = 2**30
LEAST_MEMORY_BYTES = 2**31
SLOW_COMMIT_S = 0.1
SKEW_S = 5.0
"""Clocks may be so far apart: a beat of the lease comes every 6 s, and limits on the wall time are minutes."""
_CONNECT_S = 3.0

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: which.
        state: ok; note: it works, but; problem: a study would fail.
        said: what was found.
        remedy: what to do; empty where nothing has to be done.
        exit_code: of a problem.
    """

    what: str
    state: State
    said: str
    remedy: str = ""
    exit_code: int = 4

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


def examine(root: str | None = None) -> list[Finding]:
    """Look at everything; at a storage only if one is named."""
    looks: list[Callable[[], Iterator[Finding]]] = [_packages, _processor, _memory, _accelerators, _ray]
    found = [finding for look in looks for finding in look()]
    where = root if root and "://" not in root else "."
    found += _space(where)
    return [*found, *_storage(root), *_clock(root)] if root else found


def _packages() -> Iterator[Finding]:
    """Installed versions against those that the package asks for."""
    held = facts.versions()
    for line in requires("scaleexp") or []:
        needed = Requirement(line)
        if needed.name in held and not needed.marker:
            fits = needed.specifier.contains(held[needed.name], prereleases=True)
            remedy = "" if fits else f"pip install '{needed.name}{needed.specifier}'"
            said = f"{held[needed.name]}" + ("" if fits else f", needs {needed.specifier}")
            yield Finding(what=needed.name, state="ok" if fits else "problem", said=said, remedy=remedy)


def _processor() -> Iterator[Finding]:
    cores = facts.usable_cores()
    if cores < 2:
        remedy = "it works, one pack at a time; join a cluster with RAY_ADDRESS for more"
        yield Finding(what="cores", state="note", said=str(cores), remedy=remedy)
    else:
        yield Finding(what="cores", state="ok", said=str(cores))


def _memory() -> Iterator[Finding]:
    free = available_memory()
    if free is None:
        yield Finding(what="memory", state="note", said="cannot be told on this system")
        return
    said = f"{free / 2**30:.1f} GiB free"
    if free < LEAST_MEMORY_BYTES:
        remedy = "end other programs: Ray alone takes about 1 GiB"
        yield Finding(what="memory", state="problem", said=said, remedy=remedy)
    else:
        yield Finding(what="memory", state="ok", said=said)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take: of the machine, or of its control group where that is less."""
    bounds: list[int] = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        bounds += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:
        return None
    limit, used = (root / "sys/fs/cgroup" / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        bounds.append(int(limit.read_text()) - int(used.read_text()))
    return min(bounds, default=None)


def _accelerators() -> Iterator[Finding]:
    held = facts.hardware()["accelerators"]
    yield Finding(what="GPU", state="ok", said=", ".join(held) or "none: real workers use gloo on CPU cores")


def _ray() -> Iterator[Finding]:
    """The cluster that RAY_ADDRESS names, and how it is entered."""
    address = os.environ.get("RAY_ADDRESS", "")
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if address in ("", "local", "auto"):
        yield Finding(what="Ray cluster", state="ok", said="none is named by RAY_ADDRESS: a local one is started")
    else:
        yield _reached(address)
    if mode == "token":
        token = os.environ.get("RAY_AUTH_TOKEN") or _token_file()
        if token:
            yield Finding(what="Ray auth", state="ok", said="by token")
        else:
            remedy = "set RAY_AUTH_TOKEN_PATH to the file with the cluster's token (`ray get-auth-token` makes one)"
            yield Finding(
                what="Ray auth", state="problem", said="RAY_AUTH_MODE is token and there is none", remedy=remedy
            )
    elif address not in ("", "local", "auto"):
        remedy = "who reaches its ports can run code on it: set RAY_AUTH_MODE=token there and here"
        yield Finding(what="Ray auth", state="note", said="off", remedy=remedy)


def _token_file() -> str:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    return str(path) if path.is_file() and path.stat().st_size else ""


def _reached(address: str) -> Finding:
    """Whether anything answers there; a driver would wait minutes to say so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return Finding(what="Ray cluster", state="ok", said=f"{address} answers")
    except (OSError, ValueError) as error:
        remedy = "check RAY_ADDRESS (host:port), that the head runs, and that no firewall stands between"
        said = f"RAY_ADDRESS {address} does not answer ({error})"
        return Finding(what="Ray cluster", state="problem", said=said, remedy=remedy)


def _space(where: str) -> Iterator[Finding]:
    directory = Path(where).expanduser().absolute()
    while not directory.is_dir():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    said = f"{free / 2**30:.1f} GiB free at {directory}"
    if free < LEAST_FREE_BYTES:
        yield Finding(
            what="disk", state="problem", said=said, remedy="free some, or give another --storage", exit_code=5
        )
    else:
        yield Finding(what="disk", state="ok", said=said)


def _storage(root: str) -> Iterator[Finding]:
    """Write, read, list and remove a small file the way a commit does."""
    store = Store(root)
    name = f"doctor-{uuid.uuid4().hex}.bin"
    content = os.urandom(4096)
    begin = time.monotonic()
    try:
        store.write(name, content)
        took_s = time.monotonic() - begin
        same, listed = store.read(name) == content, name in store.names("")
        taken = _is_refused(store, name)
        store.remove(name)
    except StorageError as error:
        yield Finding(what="storage", state="problem", said=str(error), remedy="give another --storage", exit_code=5)
        return
    if not (same and listed and taken):
        said = "what was written is not what is read, or a name can be taken twice"
        yield Finding(what="storage", state="problem", said=said, remedy="give another --storage", exit_code=5)
    elif took_s > SLOW_COMMIT_S:
        remedy = "raise checkpoint.every_s, so that commits are few"
        yield Finding(what="storage", state="note", said=f"a write takes {took_s:.2f} s", remedy=remedy)
    else:
        yield Finding(what="storage", state="ok", said=f"a write takes {1000 * took_s:.1f} ms")


def _clock(root: str) -> Iterator[Finding]:
    """This machine's clock against the storage's own."""
    try:
        ahead_s = clocks.ahead_s(Store(root))
    except StorageError:
        return  # which is a finding about the storage
    if abs(ahead_s) <= SKEW_S:
        yield Finding(what="clock", state="ok", said=f"{abs(ahead_s):.1f} s from the storage's")
        return
    side = "behind" if ahead_s > 0 else "ahead of"
    remedy = "set it by NTP (timedatectl set-ntp true), and the storage's: limits.wall_s and the time left go by clocks"
    yield Finding(what="clock", state="note", said=f"{abs(ahead_s):.1f} s {side} the storage's", remedy=remedy)


def _is_refused(store: Store, name: str) -> bool:
    """Whether a name that is taken stays as it is."""
    try:
        store.write(name, b"another")
    except FileExistsError:
        return True
    return False


def rendered(findings: list[Finding]) -> str:
    """One line each, what to do below."""
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    width = max(len(f.what) for f in findings)
    lines = [
        f"{marks[f.state]}  {f.what:<{width}}  {f.said}" + (f"\n{'':{width + 11}}-> {f.remedy}" if f.remedy else "")
        for f in findings
    ]
    return "\n".join(lines)
