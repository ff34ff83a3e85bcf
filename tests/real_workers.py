"""A live group of real worker processes that serves many tests: gloo is set up once, then every case is a message."""

from __future__ import annotations

import gc
import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _serve(rank, processes, port, inbox, outbox):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    while (message := inbox.get()) is not None:
        module, name, arguments = message
        try:
            found = getattr(import_module(module), name)(**arguments)
            answer = ("ok", found)
        except Exception:  # noqa: BLE001  # told to whoever asked
            answer = ("failed", traceback.format_exc())
        if rank == 0 or answer[0] == "failed":
            outbox.put(answer)
    gc.collect()  # what refers to the group must not outlive it
    dist.destroy_process_group()


class RealWorkers:
    """Processes that run a module's function, all with the same arguments; rank 0's result comes back."""

    def __init__(self, inboxes, outbox) -> None:
        self._inboxes, self._outbox = inboxes, outbox
        self.processes = len(inboxes)

    def run(self, function, **arguments):
        for inbox in self._inboxes:
            inbox.put((function.__module__, function.__name__, arguments))
        status, found = self._outbox.get(timeout=400)
        assert status == "ok", found
        return found


@contextmanager
def real_workers(processes: int) -> Iterator[RealWorkers]:
    """Start the group, stop it after."""
    context = mp.get_context("spawn")
    inboxes, outbox = [context.Queue() for _ in range(processes)], context.Queue()
    port = _free_port()
    ranks = [
        context.Process(target=_serve, args=(r, processes, port, inboxes[r], outbox), daemon=True)
        for r in range(processes)
    ]
    for r in ranks:
        r.start()
    yield RealWorkers(inboxes, outbox)
    for inbox in inboxes:
        inbox.put(None)
    for r in ranks:
        r.join(30)
        assert r.exitcode == 0
