"""Where a study lives, and the one seam through which every byte of it is written.

A file is written whole or not at all, and never twice: temporary file in the same directory, write, fsync, link to the
final name (which fails if the name is taken), unlink, fsync of the directory. So a reader sees a file complete or not
at all, at whatever moment the writer was killed; and a write that has returned survives the machine.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from scaleexp import disk
from scaleexp.errors import StorageError


class Store:
    """A study directory on a local or shared file system.

    Args:
        root: a path, or a file:// URI.

    Raises:
        StorageError: any other scheme.
    """

    def __init__(self, root: str | Path) -> None:
        text = str(root)
        scheme = urlparse(text).scheme
        if "://" in text and scheme != "file":
            raise StorageError(
                f"storage {text!r} is on {scheme}://, which this version cannot write safely: "
                "give a local or shared path"
            )
        try:
            self.root = Path(urlparse(text).path if scheme == "file" else text).expanduser().absolute()
        except RuntimeError as error:
            raise StorageError(f"storage {text!r} names no directory: {error}") from error
        if self.root.exists() and not self.root.is_dir():
            raise StorageError(f"storage {self.root} is a file: give a directory")
        self._disk = disk.LOCAL
        self._durable: set[Path] = set()

    def path(self, name: str) -> Path:
        """Absolute path of a file of the study; `name` is relative, with forward slashes.

        Raises:
            StorageError: a name that leads out of the study directory.
        """
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise StorageError(f"{name!r} leads out of the study directory {self.root}: refused")
        return self.root / parts

    def write(self, name: str, content: bytes) -> None:
        """Put a file that was not there.

        Raises:
            FileExistsError: the name is taken; what is there is untouched.
            StorageError: the bytes could not be stored.
        """
        final = self.path(name)
        temporary = final.parent / f".{final.name}.{uuid.uuid4().hex}.tmp"
        try:
            self._make_directories(final.parent)
            self._write_new(temporary, content)
            try:
                self._disk.link(temporary, final)
            finally:
                self._disk.remove(temporary)
                self._disk.sync_directory(final.parent)  # a name that was taken: its writer may have died before this
        except FileExistsError:
            raise
        except OSError as error:
            with suppress(OSError):  # what went wrong is told below
                self._disk.remove(temporary)
            raise StorageError(
                f"could not write {final}: {error.strerror or error}: check space and permissions"
            ) from error

    def _write_new(self, path: Path, content: bytes) -> None:
        descriptor = self._disk.open_new(path)
        try:
            self._disk.write(descriptor, content)
            self._disk.sync(descriptor)
        finally:
            self._disk.close(descriptor)

    def _make_directories(self, directory: Path) -> None:
        """Create a directory and its parents, each made durable in the directory that names it.

        Whoever created one that is there may have been killed before that.
        """
        within = directory.is_relative_to(self.root) and directory != self.root
        if directory in self._durable or (not within and directory.is_dir()):
            return
        self._make_directories(directory.parent)
        self._disk.make_directory(directory)
        self._disk.sync_directory(directory.parent)
        self._durable.add(directory)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """`write`, of JSON; NaN and infinities are refused by the serialiser."""
        self.write(name, json_bytes(content))

    def remove(self, name: str) -> None:
        """Remove a file that no commit needs any more; none there is fine.

        Raises:
            StorageError: it could not be removed.
        """
        try:
            self._disk.remove(self.path(name))
        except OSError as error:
            raise StorageError(f"could not remove {self.path(name)}: {error.strerror or error}") from error

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
            StorageError: it could not be read.
        """
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"could not read {self.path(name)}: {error.strerror or error}") from error

    def read_json(self, name: str) -> Any:  # noqa: ANN401  # whatever was written
        """The JSON of a file.

        Raises:
            FileNotFoundError: there is none.
            StorageError: it is not JSON.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise StorageError(f"{self.path(name)} is not JSON ({error}): restore it from a copy") from error

    def names(self, directory: str) -> list[str]:
        """Sorted names of the files and directories in a directory of the study; none if it does not exist."""
        try:
            return sorted(e.name for e in os.scandir(self.path(directory)) if not e.name.endswith(".tmp"))
        except FileNotFoundError:
            return []


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """As it is written; NaN and infinities are refused."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
