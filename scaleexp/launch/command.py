"""A user's command as a trial: one Ray task runs it under a guard, reads what it prints, and ends it when it must."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scaleexp.execute import Assignment
from scaleexp.launch import guard
from scaleexp.own_script import search_path
from scaleexp.restating import record_failure, record_stop
from scaleexp.resume import unfinished
from scaleexp.scripted_trial import arguments_of, came_to, context_of, make_ready, told_by
from scaleexp.storage import Store

if TYPE_CHECKING:
    from scaleexp.trial import Trial

STOP_S = 20.0
"""A script that was told to stop, by its recorder, has so long to do it [seconds]; then it is sent SIGTERM."""
GRACE_S = 10.0
"""From SIGTERM to SIGKILL [seconds]."""
_LOOK_S = 0.2
_LAST_LINES = 200
"""Of stderr, among which the cause of a failure is looked for."""


def run_command(assignment: Assignment, trial: Trial, *, threads: int) -> None:
    """Run the command of one trial to its end, or go on with it; what it prints is printed by this process.

    A trial that fails is recorded as failed; one that is stopped, as stopped where it was last committed.

    Args:
        assignment: the study and its storage.
        trial: of a study with a command.
        threads: CPU threads of each of its workers.
    """
    store = Store(assignment.root)
    if assignment.stop() or not unfinished(store, [trial], assignment.targets):
        return
    assert assignment.study.command is not None
    context = context_of(assignment, trial)
    make_ready(context)
    arguments = arguments_of(assignment.study.command, context)
    code, lines, asked = _run(arguments, _environment(context.to_env(), threads), _directory(assignment), assignment)
    cause = came_to(assignment, trial, told_by(code, lines) if code else "")
    if asked:
        record_stop(store, [trial.key], asked, fence=assignment.fence)
    elif cause:
        record_failure(store, [trial.key], cause, fence=assignment.fence)


def _environment(own: Mapping[str, str], threads: int) -> dict[str, str]:
    """That of this process, as Ray carries it, with the trial; each worker has its own CPUs, not those of all."""
    return {
        **os.environ,
        "PATH": search_path(),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",  # what it has printed is seen when it is ended
        **own,
    }


def _directory(assignment: Assignment) -> Path:
    """Where the command was given, or on another machine where Ray has put its files."""
    given = Path(assignment.directory)
    return given if assignment.directory and given.is_dir() else Path(os.environ.get("TUNE_ORIG_WORKING_DIR", "."))


def _run(
    arguments: list[str], environment: Mapping[str, str], directory: Path, assignment: Assignment
) -> tuple[int, list[str], str]:
    """(exit code, last lines of stderr, why it was told to stop: empty if it was not)."""
    print("$", shlex.join(arguments), f"(in {directory})", flush=True)  # noqa: T201  # the log of the trial
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        [sys.executable, "-E", guard.__file__, str(GRACE_S), *arguments],
        stdin=subprocess.PIPE,  # its end tells the guard that this process is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
    ) as child:
        over = threading.Event()
        readers = [_reader(child.stdout, over, lambda line: None), _reader(child.stderr, over, last.append)]
        try:
            asked = _watch(child, assignment.stop)
        finally:
            child.terminate()  # it has ended, or this process is being ended
            child.wait()
            over.set()
            for reader in readers:
                reader.join()
    return child.returncode, list(last), asked


def _watch(child: subprocess.Popen[bytes], stop: Callable[[], str]) -> str:
    """Wait for a process; one that goes on for a while after the study was stopped is ended."""
    asked, since = "", 0.0
    while child.poll() is None:
        time.sleep(_LOOK_S)
        if not asked and (asked := stop()):
            since = time.monotonic()
        if asked and time.monotonic() - since > STOP_S:
            child.terminate()
            child.wait()
    return asked


def _reader(stream: IO[bytes] | None, over: threading.Event, also: Callable[[str], None]) -> threading.Thread:
    """A thread that prints every line of a stream as it comes, from where this process prints now.

    It ends with the stream, or when all is over and nothing comes: a process that escaped may hold the other end.
    """
    assert stream is not None
    log, source = sys.stdout, stream.fileno()

    def read() -> None:
        rest = b""
        while True:
            if not select.select([source], [], [], _LOOK_S)[0]:
                if over.is_set():
                    break
                continue
            if not (chunk := os.read(source, 65536)):
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                tell(line)
        if rest:
            tell(rest)

    def tell(line: bytes) -> None:
        text = line.decode(errors="backslashreplace")
        log.write(f"{text}\n")
        also(text)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
