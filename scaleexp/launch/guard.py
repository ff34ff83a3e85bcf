"""Runs a command and ends all that it started, by itself or when whoever started it is gone.

    python guard.py GRACE_S COMMAND...

It stands between a Ray worker and the command of a trial. Launchers such as torchrun give their workers sessions of
their own, so that no signal to a process group reaches them all; here whatever loses its parent becomes a child of this
process (Linux), and is found. It ends the command on SIGTERM, and when its standard input ends, which nobody but the
death of the process that holds the other end does. Only the standard library is imported: it starts at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)
_LOOK_S = 0.05


def below(root: int) -> list[int]:
    """Processes that a process has started, and those that these have; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, waiting = [], [root]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def _signal_all(child: subprocess.Popen[bytes], number: int) -> int:
    """Send a signal to the command and to all below; how many there were."""
    processes = below(os.getpid())
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)
    return len(processes)


def end(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM to all, and SIGKILL to what is still there after a while [seconds]."""
    _signal_all(child, signal.SIGTERM)
    late = time.monotonic() + grace_s
    while time.monotonic() < late and (child.poll() is None or below(os.getpid())):
        time.sleep(_LOOK_S)
    while _signal_all(child, signal.SIGKILL):
        child.poll()
        time.sleep(_LOOK_S)


def _wait_for_the_end(asked: threading.Event) -> None:
    """Of the standard input."""
    sys.stdin.buffer.read()
    asked.set()


def _told_of_a_death() -> None:
    """In the command, before it begins: a guard that is killed has the kernel tell it, and it ends what it started."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    """Where there is one (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Run the command; its exit code, or 128 and the number of the signal that ended it."""
    grace_s, command = float(arguments[0]), arguments[1:]
    _prctl(_SET_CHILD_SUBREAPER, 1)
    asked = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the driver's to answer
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_told_of_a_death,  # there is no other thread yet
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} could not be started: {error.strerror}\n")
        return 127
    threading.Thread(target=_wait_for_the_end, args=(asked,), daemon=True).start()
    while child.poll() is None and not asked.wait(_LOOK_S):
        pass
    end(child, grace_s if asked.is_set() else 0.0)
    code = child.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # the reader of the standard input may wait for ever
