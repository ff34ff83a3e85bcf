"""The operations on a local or shared file system that storing a file comes down to: the only ones that write.

A test puts a disk in their place that fails at any of them and then forgets what was never synced.
"""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """A file system that means what it says."""

    def make_directory(self, path: Path) -> None:
        """Create one directory; one that is there is fine."""
        path.mkdir(exist_ok=True)

    def open_new(self, path: Path) -> int:
        """Descriptor of a new, empty file.

        Raises:
            FileExistsError: the name is taken.
        """
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)

    def write(self, descriptor: int, content: bytes) -> None:
        """Write all of it."""
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Make what was written durable."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def link(self, existing: Path, new: Path) -> None:
        """A second name for a file.

        Raises:
            FileExistsError: the name is taken.
        """
        os.link(existing, new)

    def remove(self, path: Path) -> None:
        """Remove a name; none there is fine."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


LOCAL = Disk()
