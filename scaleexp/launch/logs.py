"""What the processes of a run print is found in text files of the study, without secrets; the terminal stays clean.

    STUDY/logs/0001/packed-0.log             of a pack: what its workload printed, warned, logged and raised
    STUDY/logs/0001/real-2-0/rank-1.log      of a real worker; group.log is of what started it
    STUDY/logs/0001/ray.log                  what Ray told the driver

0001 is the number of the run's lease. Where nothing was printed there is no file. What is written past Python, by a
library in C or a child process, goes to Ray's own session directory, as does all that Ray itself writes.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from scaleexp.facts import utc_now
from scaleexp.redact import redact

LOGS_DIR = "logs"
_LONGEST_LINE = 65536  # characters, without an end: then it is written as it is
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_directory(root: str, fence: int | None) -> Path:
    """Where the files of a run go: in the study's directory; a temporary one where the study is on an object store."""
    if "://" in root:
        return Path(tempfile.mkdtemp(prefix="scaleexp-logs-"))
    return Path(root) / LOGS_DIR / f"{fence or 0:04d}"


def tidy(directory: Path) -> None:
    """Remove the directories of a run in which nothing was written, once nothing runs any more."""
    for empty in [*sorted((d for d in directory.rglob("*") if d.is_dir()), reverse=True), directory]:
        with suppress(OSError):  # something is in it
            empty.rmdir()


class Log(io.TextIOBase):
    """A text file that takes whole lines, without secrets, and is removed at its end if none came.

    A log that cannot be written ends no training: it goes where it would have gone without.

    Args:
        file: appended to.
        about: one line on whose it is.
        instead: where text goes if the file cannot be written.
    """

    def __init__(self, file: Path, about: str, instead: TextIO) -> None:
        self._path, self._instead, self._lock = file, instead, threading.RLock()
        self._rest, self._said, self._before = "", False, 0
        self._file: TextIO | None = None
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._before = file.stat().st_size if file.exists() else 0
            self._file = file.open("a", encoding="utf-8", errors="backslashreplace")
            host = f"process {os.getpid()} on {socket.gethostname()}"
            self._put(f"--- {utc_now()} {host}: {about}\n")

    def write(self, text: str) -> int:
        """Take some text; lines are written as they end."""
        with self._lock:
            self._said = self._said or bool(text)
            lines, end, rest = (self._rest + text).rpartition("\n")
            if len(rest) > _LONGEST_LINE:
                lines, end, rest = lines + end + rest, "", ""
            self._rest = rest
            if lines or end:
                self._put(redact(lines + end))
        return len(text)

    def _put(self, text: str) -> None:
        with suppress(OSError, ValueError):
            if self._file and not self._file.closed:
                self._file.write(text)
                self._file.flush()
                return
        with suppress(OSError, ValueError):  # a stream that is gone, too
            self._instead.write(text)

    def fileno(self) -> int:
        """Of the stream that stands behind it: a child process writes there."""
        return self._instead.fileno()

    @property
    def descriptor(self) -> TextIO | None:
        """The file itself, for what is written when Python is gone; it is not redacted."""
        return self._file

    def end(self) -> None:
        """Write what has no end of line, and leave no file that says nothing."""
        with self._lock:
            if self._rest:
                self.write("\n")
            if self._file:
                self._file.close()
                with suppress(OSError):
                    if not self._said and not self._before:
                        self._path.unlink()


@contextmanager
def captured(file: Path, about: str) -> Iterator[None]:
    """While the body runs, what this process prints, warns, logs and raises goes to a file; so does its last traceback.

    Args:
        file: appended to.
        about: one line on what runs.

    Raises:
        Exception: what the body raised, after it was written.
    """
    log, root = Log(file, about, sys.stderr), logging.getLogger()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter(_FORMAT))
    before = sys.stdout, sys.stderr, root.handlers
    sys.stdout = sys.stderr = log
    root.handlers = [handler]
    dying = faulthandler.is_enabled()
    try:
        if log.descriptor:
            faulthandler.enable(log.descriptor)
        yield
    except BaseException:
        log.write(traceback.format_exc())
        raise
    finally:
        faulthandler.disable()
        sys.stdout, sys.stderr, root.handlers = before
        with suppress(ValueError, OSError):  # a stream without a descriptor
            if dying:
                faulthandler.enable()
        log.end()


class _Sorted(io.TextIOBase):
    """The driver's stdout without what threads of Ray print to it."""

    def __init__(self, stream: TextIO, log: Log) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        of_ray = threading.current_thread().name.startswith("ray_")
        return (self._log if of_ray else self._stream).write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextmanager
def ray_messages(file: Path) -> Iterator[None]:
    """While the body runs, what Ray tells the driver goes to a file: its logger, and what its threads print."""
    log, logger = Log(file, "what Ray told the driver", sys.stderr), logging.getLogger("ray")
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter(_FORMAT))
    before = sys.stdout, logger.handlers
    try:
        sys.stdout, logger.handlers = _Sorted(sys.stdout, log), [handler]
        yield
    finally:
        sys.stdout, logger.handlers = before
        log.end()
