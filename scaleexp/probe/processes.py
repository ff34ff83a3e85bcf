"""A number of processes of this machine with a process group over them, watched so that none waits for a dead one.

Each sends what it measured through a pipe of its own, so that nothing measured is lost when it dies. As soon as one has
failed, whether it raised or was killed, the others are ended: they may be waiting for it inside a collective.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from signal import SIGKILL
from typing import Any

from scaleexp import memory
from scaleexp.errors import ScaleexpError, TrialsFailedError

Send = Callable[[Any], None]
"""Sends one message to who started the processes."""
Work = Callable[..., None]
"""`work(send, **arguments)`: a function of a module, which every process runs."""

SILENT_S = 900.0
"""Processes of which none says anything for so long hang."""
_END_S = 20.0
_OTHERS_S = 1.0
"""After one has failed, what the others say within this time may tell why."""


class OutOfMemoryError(MemoryError):
    """A process needed more memory than it got; the message says which and how that was seen."""


class _DiedError(TrialsFailedError):
    """A process was gone without a word."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a process says last when it raised."""

    text: str
    error: ScaleexpError | None
    exhausted: bool


_ENDED = "ended"


def on_workers(workers: int, work: Work, arguments: Mapping[str, Any], *, silent_s: float = SILENT_S) -> Iterator[Any]:
    """Run a function on so many processes at once; yields what they send, as it comes.

    Raises:
        OutOfMemoryError: one ran out of memory, or was killed as the kernel does to get memory back.
        ScaleexpError: what one raised.
        TrialsFailedError: one raised something else, died, or all are silent.
    """
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    with tempfile.TemporaryDirectory(prefix="scaleexp-probe-") as place:
        try:
            for rank in range(workers):
                here, there = context.Pipe(duplex=False)
                rendezvous = Path(place, "rendezvous").as_uri()
                process = context.Process(
                    target=_process, args=(work, dict(arguments), rank, workers, rendezvous, there), daemon=True
                )
                process.start()
                there.close()
                pipes.append(here)
                processes.append(process)
            yield from _heard(pipes, processes, silent_s)
        finally:
            _end(processes)
            for pipe in pipes:
                pipe.close()


def _heard(pipes: Sequence[Connection], processes: Sequence[SpawnProcess], silent_s: float) -> Iterator[Any]:
    """Messages until every process has said that it ended."""
    left = {pipe: rank for rank, pipe in enumerate(pipes)}
    failures: list[Exception] = []
    while left:
        ready = wait(list(left), timeout=_OTHERS_S if failures else silent_s)
        if not ready:
            break
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = left[pipe]
            try:
                message = pipe.recv()
            except EOFError:
                message = _died(rank, processes[rank])
            if isinstance(message, _Failed):
                message = _raised(rank, message)
            if isinstance(message, Exception):
                failures.append(message)
            elif message != _ENDED:
                yield message
                continue
            del left[pipe]
    if failures:
        raise min(failures, key=_rank_of_cause)
    if left:
        raise TrialsFailedError(f"the processes of the probe said nothing for {silent_s:g} s, and were ended.")


def _rank_of_cause(failure: Exception) -> int:
    """What one process did is the cause of what others say of a lost neighbour, whoever spoke first."""
    if isinstance(failure, OutOfMemoryError):
        return 0
    if isinstance(failure, _DiedError):
        return 2
    return 3 if isinstance(failure, TrialsFailedError) else 1


def _died(rank: int, process: SpawnProcess) -> Exception:
    process.join(_END_S)
    if process.exitcode == -SIGKILL:
        return OutOfMemoryError(f"process {rank} was killed, as the kernel does where memory runs out")
    return _DiedError(f"process {rank} of the probe died with exit code {process.exitcode}: see what it printed.")


def _raised(rank: int, failed: _Failed) -> Exception:
    if failed.exhausted:
        return OutOfMemoryError(f"process {rank}: {failed.text}")
    return failed.error or TrialsFailedError(f"process {rank} of the probe failed: {failed.text}")


def _end(processes: Sequence[SpawnProcess]) -> None:
    """End those that still run: they were told to stop, or wait for one that is gone."""
    if all(process.exitcode == 0 for process in processes):
        return
    until = time.monotonic() + 2.0
    clean = all(process.exitcode in (0, None) for process in processes)
    for process in processes:
        process.join(max(until - time.monotonic(), 0.0) if clean else 0.0)
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join(_END_S)


def _process(
    work: Work, arguments: Mapping[str, Any], rank: int, workers: int, rendezvous: str, pipe: Connection
) -> None:
    """What each process runs."""
    os.dup2(2, 1)  # libraries print; standard output is for the answer
    _die_first()
    with closing(pipe):
        try:
            _join(rank, workers, rendezvous)
            work(pipe.send, **arguments)
            gc.collect()  # what refers to the group must not outlive it
            pipe.send(_ENDED)
        except Exception as error:  # noqa: BLE001  # told to who started it
            ours = error if isinstance(error, ScaleexpError) else None
            exhausted = memory.exhausted(error)
            pipe.send(_Failed(f"{type(error).__name__}: {error}", ours, exhausted))
            os._exit(1)  # the end of a process group waits for the other processes
    import torch.distributed as dist

    dist.destroy_process_group()


def _join(rank: int, workers: int, rendezvous: str) -> None:
    """One thread and, where there are GPUs, one of them, as a real worker of a study has."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method=rendezvous, rank=rank, world_size=workers)


def _die_first() -> None:
    """Where memory runs out, the kernel is to end this process and no other; elsewhere than on Linux it decides."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
