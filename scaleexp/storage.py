"""Where a study lives, and the one seam through which every byte of it is written.

A file is written whole or not at all, and never twice: temporary file in the same directory, write, fsync, link to the
final name (which fails if the name is taken), unlink, fsync of the directory. So a reader sees a file complete or not
at all, at whatever moment the writer was killed.
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
            _make_directories(final.parent)
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, final)
            _sync_directory(final.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise StorageError(
                f"could not write {final}: {error.strerror or error}: check space and permissions"
            ) from error
        finally:
            with suppress(OSError):  # what went wrong is told above
                temporary.unlink(missing_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """`write`, of JSON; NaN and infinities are refused by the serialiser."""
        self.write(name, json_bytes(content))

    def remove(self, name: str) -> None:
        """Remove a file that no commit needs any more; none there is fine.

        Raises:
            StorageError: it could not be removed.
        """
        try:
            self.path(name).unlink(missing_ok=True)
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


def _make_directories(directory: Path) -> None:
    """Create a directory and its parents, each made durable in the directory that names it."""
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
