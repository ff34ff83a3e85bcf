"""Where a study lives, and the one seam through which every byte of it is written.

A file is written whole or not at all, and never twice: temporary file in the same directory, write, fsync, link to the
final name (which fails if the name is taken), unlink, fsync of the directory. So a reader sees a file complete or not
at all, at whatever moment the writer was killed; and a write that has returned survives the machine. On an object
store it is one conditional create (`scaleexp.bucket`). What may pass is tried again for a while (`scaleexp.retry`).
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from scaleexp import disk
from scaleexp.bucket import SCHEMES, Bucket, bucket
from scaleexp.errors import StorageError
from scaleexp.integrity import leads_out, opened, sealed
from scaleexp.redact import redact, redacted
from scaleexp.retry import PATIENCE_S, persist

_PASSING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR}
"""What a network file system says while its server is away; a disk that is full or forbidden stays so."""

_FEW = 8
"""Directories that are listed one by one: of a large study, what is below them all is thousands of files."""

T = TypeVar("T")


class Store:
    """A study directory on a local or shared file system, or on an object store.

    Args:
        root: a path, a file:// URI, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX.
        patience_s: how long an operation is tried again where its error may pass [seconds].
        briefly: whether it is used for a moment only, so that a directory that was found to be no symbolic link is not
            looked at again for each of its files.

    Attributes:
        root: the absolute path, or the address, as text.

    Raises:
        StorageError: any other scheme, or an address that cannot be opened.
    """

    def __init__(self, root: str | Path, *, patience_s: float = PATIENCE_S, briefly: bool = False) -> None:
        text = str(root)
        scheme = urlparse(text).scheme if "://" in text else ""
        self._patience_s = patience_s
        self._bucket: Bucket | None = None
        if scheme in SCHEMES:
            self._bucket = bucket(text)
            self.root = self._bucket.root
            return
        if scheme not in ("", "file"):
            plain = redact(text.partition("?")[0].partition("#")[0])
            raise StorageError(
                f"storage {plain!r} is on {scheme}://, which this version cannot write safely: "
                "give a local or shared path, or an address of s3://, gs:// or az://"
            )
        try:
            self._local = Path(urlparse(text).path if scheme == "file" else text).expanduser().absolute()
        except RuntimeError as error:
            raise StorageError(f"storage {text!r} names no directory: {error}") from error
        if self._local.exists() and not self._local.is_dir():
            raise StorageError(f"storage {self._local} is a file: give a directory")
        self.root = str(self._local)
        self._disk = disk.LOCAL
        self._durable: set[Path] = set()
        self._looked_at: set[str] | None = set() if briefly else None

    def path(self, name: str) -> Path:
        """Absolute path of a file of a local study; `name` is relative, with forward slashes.

        Raises:
            StorageError: a name that leads out of the study directory.
        """
        return Path(self._place(name))

    def _place(self, name: str) -> str:
        """The same as text: a study has many files, and making a path takes as long as looking at one."""
        assert self._bucket is None, "an object store has no paths"
        if leads_out(self._local, name, self._looked_at):
            raise StorageError(f"{name!r} leads out of the study directory {self.root}: refused")
        return f"{self.root}/{name}"

    @property
    def remote(self) -> bool:
        """Whether it is on an object store."""
        return self._bucket is not None

    @property
    def results(self) -> Path:
        """Directory for what is made from the study: its own, or ./scaleexp-results/NAME for one on an object store."""
        return Path("scaleexp-results") / self.root.rpartition("/")[2] if self._bucket else self._local

    def where(self, name: str) -> str:
        """Path or address of a file of the study, for messages.

        Raises:
            StorageError: a name that leads out of the study directory.
        """
        return self._bucket.where(name) if self._bucket else self._place(name)

    def write(self, name: str, content: bytes) -> None:
        """Put a file that was not there.

        Raises:
            FileExistsError: the name is taken; what is there is untouched.
            StorageError: the bytes could not be stored.
        """
        if self._bucket:
            return self._bucket.put(name, content, self._patience_s)
        final = self.path(name)
        try:
            self._persist(lambda failed: self._link_new(final, content, again=failed > 0), f"cannot write {final}")
        except FileExistsError:
            raise
        except OSError as error:
            raise StorageError(
                f"could not write {final}: {error.strerror or error}: check space and permissions"
            ) from error

    def _persist(self, attempt: Callable[[int], T], what: str) -> T:
        return persist(attempt, _may_pass, what, self._patience_s)

    def _link_new(self, final: Path, content: bytes, *, again: bool) -> None:
        """Write a local file under a temporary name, then link it; `again` after a try of which nobody knows the end.

        Raises:
            FileExistsError: the name is taken, and not by an earlier try.
        """
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
            if not again or final.read_bytes() != content:
                raise
        except OSError:
            with suppress(OSError):  # what went wrong is told by the caller
                self._disk.remove(temporary)
            raise

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
        within = directory.is_relative_to(self._local) and directory != self._local
        if directory in self._durable or (not within and directory.is_dir()):
            return
        self._make_directories(directory.parent)
        self._disk.make_directory(directory)
        self._disk.sync_directory(directory.parent)
        self._durable.add(directory)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """`write`, of JSON with its checksum, secrets left out; NaN and infinities are refused by the serialiser."""
        self.write(name, json_bytes(content))

    def remove(self, name: str) -> None:
        """Remove a file that no commit needs any more; none there is fine.

        Raises:
            StorageError: it could not be removed.
        """
        if self._bucket:
            return self._bucket.delete(name, self._patience_s)
        path = self.path(name)
        try:
            self._persist(lambda _: self._disk.remove(path), f"cannot remove {path}")
        except OSError as error:
            raise StorageError(f"could not remove {self.path(name)}: {error.strerror or error}") from error

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
            StorageError: it could not be read.
        """
        if self._bucket:
            return self._bucket.get(name, self._patience_s)
        path = self._place(name)
        try:
            return self._persist(lambda _: _content(path), f"cannot read {path}")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"could not read {path}: {error.strerror or error}") from error

    def modified(self, name: str) -> float:
        """When a file was written, by the storage's own clock [Unix seconds].

        Raises:
            FileNotFoundError: there is none.
            StorageError: it cannot be told.
        """
        if self._bucket:
            return self._bucket.modified(name, self._patience_s)
        path = self.path(name)
        try:
            return self._persist(lambda _: path.stat().st_mtime, f"cannot look at {path}")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"could not look at {path}: {error.strerror or error}") from error

    def read_json(self, name: str) -> Any:  # noqa: ANN401  # whatever was written
        """The JSON object of a file, without the checksum that it was verified by.

        Raises:
            FileNotFoundError: there is none.
            CorruptError: it is not what was written.
            StorageError: it could not be read, or is of a later version.
        """
        return opened(self.read(name), self.where(name))

    def names(self, directory: str) -> list[str]:
        """Sorted names of the files and directories in a directory of the study; none if it does not exist.

        Raises:
            StorageError: it could not be read.
        """
        if self._bucket:
            return [name for name in self._bucket.names(directory, self._patience_s) if not name.endswith(".tmp")]
        path = self._place(directory)
        try:
            found = self._persist(lambda _: [e.name for e in os.scandir(path)], f"cannot list {path}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageError(f"could not list {path}: {error.strerror or error}") from error
        return sorted(name for name in found if not name.endswith(".tmp"))

    def listing(self, below: str, *, count: int) -> Callable[[str], list[str]]:
        """`names` for about so many directories below one; of many on an object store all are listed now, as one.

        Raises:
            StorageError: they could not be read.
        """
        if self._bucket is None or count <= _FEW:
            return self.names
        found: dict[str, list[str]] = {}
        for path in self._bucket.below(below, self._patience_s):
            parent, _, name = path.rpartition("/")
            found.setdefault(parent, []).append(name)
        return lambda directory: sorted(found.get(directory, ()))


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # see `Store._place`
        return file.read()


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """As it is written, with its checksum; secrets are left out, NaN and infinities are refused."""
    return (json.dumps(sealed(redacted(content)), indent=1) + "\n").encode()


def _may_pass(error: Exception) -> str | None:
    """What a local error that may pass says; None of one that will not."""
    return error.strerror or str(error) if isinstance(error, OSError) and error.errno in _PASSING else None
