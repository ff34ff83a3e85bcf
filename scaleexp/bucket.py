"""A study on an object store: Amazon S3, Google Cloud Storage, Azure Blob Storage and what speaks like them.

An object is put whole or not at all by one request, and never over another: a conditional create (`If-None-Match: *`
or its like). Access comes from the environment or the machine's role, as the store's own tools read them, and never
from the study's address. What a store says is not quoted, since it may repeat keys and signatures.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from scaleexp.errors import StorageError
from scaleexp.redact import redact
from scaleexp.retry import PATIENCE_S, persist

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import AzureStore, GCSStore, S3Store

SCHEMES = ("s3", "gs", "az")
FIRST_PATIENCE_S = 30.0
"""A store that has never answered is tried this long [seconds]: more likely its address is wrong than it is down."""
_REQUEST = {"timeout": "300s"}
"""Of one request, its body included: a checkpoint is put by one."""
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_THROTTLED = {"SlowDown", "RequestTimeout", "ServerBusy", "Throttling", "ThrottlingException", "TooManyRequests"}
_NO_ACCESS = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_IDENTITY_HOST = re.compile(r"https?://(169\.254\.\d+\.\d+|metadata\.google\.internal|metadata)[/:]")

T = TypeVar("T")


@lru_cache(maxsize=16)
def bucket(address: str) -> Bucket:
    """The bucket of an address; the same object for the same address, with its open connections.

    Raises:
        StorageError: see `Bucket`.
    """
    return Bucket(address)


class Bucket:
    """A directory of an object store.

    Args:
        address: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.

    Every method takes `patience_s`, how long it is tried again where an error may pass [seconds], and raises
    StorageError where it did not, or was none that may pass.

    Raises:
        StorageError: the address holds more than that, a setting of the environment is wrong, or obstore is missing.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        prefix = "/".join(part for part in parts.path.split("/") if part)
        if address != plain or not parts.netloc or ":" in parts.netloc or ".." in prefix.split("/"):
            raise StorageError(
                f"storage {redact(plain)} must be {parts.scheme}://BUCKET/PREFIX and nothing more; keys go into the "
                "environment or a role of the machine, never into the address"
            )
        self.root = f"{parts.scheme}://{parts.netloc}" + (f"/{prefix}" if prefix else "")
        self.name = parts.netloc
        self._answered = False
        self._store: Any = _client(self.root, parts.scheme, parts.netloc, prefix)

    def where(self, name: str) -> str:
        """Address of a file of the study.

        Raises:
            StorageError: a name that leads out of the study.
        """
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in name:
            raise StorageError(f"{name!r} leads out of the study directory {self.root}: refused")
        return self.root if str(parts) == "." else f"{self.root}/{parts}"

    def put(self, name: str, content: bytes, patience_s: float = PATIENCE_S) -> None:
        """Put a file that was not there.

        Raises:
            FileExistsError: the name is taken, by other bytes or by another's.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        where = self.where(name)

        def attempt(failed: int) -> None:
            try:
                self._store.put(name, content, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                if failed or _status(error)[0] == 409:  # S3 says 409 of two at once, Azure of a name that is taken
                    try:
                        there = bytes(self._store.get(name).bytes())
                    except FileNotFoundError:
                        raise _ConflictError from None
                    if failed and there == content:  # an earlier try had arrived, and its answer was lost
                        return
                raise FileExistsError(f"{where} is there") from None

        self._tried(attempt, "write", where, patience_s)

    def get(self, name: str, patience_s: float = PATIENCE_S) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        where = self.where(name)
        return self._tried(lambda _: bytes(self._store.get(name).bytes()), "read", where, patience_s)

    def modified(self, name: str, patience_s: float = PATIENCE_S) -> float:
        """When a file was put, by the store's clock [Unix seconds].

        Raises:
            FileNotFoundError: there is none.
        """
        where = self.where(name)
        found = self._tried(lambda _: self._store.head(name)["last_modified"], "read", where, patience_s)
        return float(found.timestamp())

    def names(self, directory: str, patience_s: float = PATIENCE_S) -> list[str]:
        """Sorted names one level below a directory; none if it does not exist."""
        where = self.where(directory)
        found = self._tried(lambda _: self._store.list_with_delimiter(directory or None), "list", where, patience_s)
        paths = [*found["common_prefixes"], *(held["path"] for held in found["objects"])]
        return sorted({PurePosixPath(path).name for path in paths})

    def below(self, directory: str, patience_s: float = PATIENCE_S) -> list[str]:
        """Names of all files below a directory, at any depth; a thousand come with one request."""
        where = self.where(directory)

        def attempt(_: int) -> list[str]:
            return [held["path"] for part in self._store.list(directory) for held in part]

        return self._tried(attempt, "list", where, patience_s)

    def delete(self, name: str, patience_s: float = PATIENCE_S) -> None:
        """Remove a file; none there is fine."""
        where = self.where(name)
        try:
            self._tried(lambda _: self._store.delete(name), "remove", where, patience_s)
        except FileNotFoundError:
            return

    def _tried(self, attempt: Callable[[int], T], verb: str, where: str, patience_s: float) -> T:
        patience_s = patience_s if self._answered else min(patience_s, FIRST_PATIENCE_S)
        try:
            done = persist(attempt, self._passing, f"cannot {verb} {where}", patience_s)
        except FileExistsError:
            self._answered = True
            raise
        except Exception as error:  # noqa: BLE001  # the tree of obstore, TypeErrors of a wrong setting, ...
            status, code = _status(error)
            if isinstance(error, FileNotFoundError) and verb in ("read", "remove") and code not in _NO_BUCKET:
                self._answered = True
                raise FileNotFoundError(f"there is no {where}") from None
            raise StorageError(f"could not {verb} {where}: {self._cause(error, status, code)}") from None
        self._answered = True
        return done

    def _passing(self, error: Exception) -> str | None:
        """The cause of an error that may pass; None of one that will not."""
        status, code = _status(error)
        text = str(error)
        if isinstance(error, _ConflictError):
            return "the name is being written by another"
        if isinstance(error, OSError):
            return None
        if status:
            passes = status in (408, 425, 429) or (status >= 500 and status not in (501, 505)) or code in _THROTTLED
            return f"the store answers {f'{status} {code}'.strip()}" if passes else None
        if _IDENTITY_HOST.search(text) and not self._answered:
            return None
        if "HTTP error" not in text or "builder error" in text:
            return None
        known = re.search(r"(Connection refused|Connection reset|dns error|timed out|TimedOut|certificate)", text)
        return "no answer" + (f" ({known.group(1)})" if known else "")

    def _cause(self, error: Exception, status: int, code: str) -> str:
        """What was wrong, what was got, what to do."""
        got = f"{status} {code}".strip() if status else ""
        passing = self._passing(error)
        if passing:
            return f"{passing}, and did not get better: see that the store can be reached and give the same command"
        if isinstance(error, FileNotFoundError) or code in _NO_BUCKET or status == 404:
            return f"there is no bucket {self.name!r} ({got}): create it or correct --storage"
        if code == "RequestTimeTooSkewed":
            return f"this machine's clock is too far from the store's ({got}): set it by NTP"
        if status in (401, 403) or code in _NO_ACCESS:
            return f"access was denied ({got}): check the credentials, and that they may list, read, create and delete"
        if _IDENTITY_HOST.search(str(error)):
            return "no credentials were found: set them in the environment, or give the machine a role"
        if "redirect" in str(error) or status in (301, 307):
            return "the bucket is in another region: set AWS_REGION to its own"
        if status == 501:
            return "the store cannot create an object only where there is none (501): use another"
        return f"{got or _plain(error)}: check the address and the settings of the store in the environment"


class _ConflictError(Exception):
    """Two requests for one name at once, of which neither may have won."""


def _client(root: str, scheme: str, name: str, prefix: str) -> S3Store | GCSStore | AzureStore:
    """The client of a store, by the settings of the environment; it tries nothing again by itself.

    Raises:
        StorageError: obstore is missing, or refuses a setting.
    """
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise StorageError(
            f"storage {root} needs the package obstore, which is not installed: pip install 'scaleexp[cloud]'"
        ) from None
    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        client: S3Store | GCSStore | AzureStore = kind(
            name, prefix=prefix or None, config=_REQUEST, retry_config={"max_retries": 0}
        )
    except Exception as error:  # noqa: BLE001  # ValueErrors, the tree of obstore
        raise StorageError(
            f"storage {root} cannot be opened: {_plain(error)}; check the settings of the store in the environment"
        ) from None
    return client


def _status(error: Exception) -> tuple[int, str]:
    """HTTP status and the store's own code of an error; (0, "") where it has none."""
    text = str(error).partition("\n\nDebug source")[0]
    status = re.search(r"status code: (\d{3})", text)
    code = re.search(r"<Code>(\w{1,60})</Code>", text)
    return int(status.group(1)) if status else 0, code.group(1) if code else ""


def _plain(error: Exception) -> str:
    """The first line of an error without what may be secret: queries of addresses, bodies of answers."""
    line = str(error).partition("\n")[0].partition("<")[0]
    return redact(re.sub(r"\?\S*", "", line))[:200] or type(error).__name__
