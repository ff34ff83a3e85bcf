"""A disk that stops at any of its operations, and then holds only what was synced."""

from __future__ import annotations

from pathlib import Path

from scaleexp.disk import Disk


class Crash(BaseException):
    """The machine is gone."""


class FaultyDisk(Disk):
    """Does what a disk does under `base`, and knows what of it a crash would leave.

    Args:
        base: a directory that is there, durably.
        crash_before: number of the operation before which the machine stops, from 0; None never.
        skip: kind of sync that is left out: `file`, `name` (of a file) or `directory` (its name in its parent).
    """

    def __init__(self, base: Path, *, crash_before: int | None = None, skip: str = "") -> None:
        self.base, self.crash_before, self.skip = base, crash_before, skip
        self.operations: list[str] = []
        self._inodes: dict[int, int] = {}  # of open descriptors; ours, for a file system uses its own again
        self._content: dict[int, bytes] = {}
        self._durable_content: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int | None]] = {base: {}}
        self._durable_names: dict[Path, dict[str, int | None]] = {}
        self._made = False

    def _operation(self, name: str) -> None:
        if self.crash_before is not None and len(self.operations) >= self.crash_before:
            raise Crash(f"before operation {self.crash_before}: {name}")
        self.operations.append(name)

    def make_directory(self, path: Path) -> None:
        self._operation(f"make {path.name}")
        super().make_directory(path)
        self._names.setdefault(path, {})
        self._names[path.parent][path.name] = None
        self._made = True

    def open_new(self, path: Path) -> int:
        self._operation(f"open {path.name}")
        descriptor = super().open_new(path)
        inode = self._inodes[descriptor] = len(self._content)
        self._names[path.parent][path.name] = inode
        self._content[inode] = b""
        return descriptor

    def write(self, descriptor: int, content: bytes) -> None:
        self._operation("write")
        super().write(descriptor, content)
        self._content[self._inodes[descriptor]] = content

    def sync(self, descriptor: int) -> None:
        self._operation("sync")
        if self.skip != "file":
            inode = self._inodes[descriptor]
            self._durable_content[inode] = self._content[inode]

    def close(self, descriptor: int) -> None:
        super().close(descriptor)

    def link(self, existing: Path, new: Path) -> None:
        self._operation(f"link {new.name}")
        super().link(existing, new)
        self._names[new.parent][new.name] = self._names[existing.parent][existing.name]

    def remove(self, path: Path) -> None:
        self._operation(f"remove {path.name}")
        super().remove(path)
        self._names[path.parent].pop(path.name, None)

    def sync_directory(self, path: Path) -> None:
        self._operation(f"sync names of {path.name}")
        kind, self._made = ("directory" if self._made else "name"), False
        if self.skip != kind:
            self._durable_names[path] = dict(self._names[path])

    def survivors(self, target: Path) -> None:
        """Write what a crash leaves into a directory that is not there yet."""
        self._restore(self.base, target)

    def _restore(self, source: Path, target: Path) -> None:
        target.mkdir()
        for name, inode in self._durable_names.get(source, {}).items():
            if inode is None:
                self._restore(source / name, target / name)
            else:
                (target / name).write_bytes(self._durable_content.get(inode, b""))
