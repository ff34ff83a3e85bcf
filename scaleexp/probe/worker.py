"""What the processes of a probe do: steps of the study's own engine at many worker batches, and all-reduces.

Learning rate 0: parameters stay where they are, so that nothing diverges, and every step does all of the work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.distributed as dist

from scaleexp.execute import workload_of
from scaleexp.plan import statistics_group
from scaleexp.probe import peak_memory
from scaleexp.probe.processes import Send
from scaleexp.probe.timed_workload import TimedWorkload

if TYPE_CHECKING:
    from scaleexp.config import Study
    from scaleexp.engines.ddp import DdpEngine
    from scaleexp.workloads.base import Workload

_VISIT_S, _MOST_STEPS = 0.05, 50
"""A visit to a worker batch takes about so long [seconds], and no more steps than these."""
_PEAKS = 3
"""Steps of which the peak memory is taken, at each worker batch."""
_OF_GPU, _OF_HOST = 0.95, 0.5
"""Parts of the free memory that a step may take where nobody says how much: others live on the host, too."""
_RATE = np.zeros(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """Some steps of one worker batch, in one round; seconds are means over them, as process 0 saw them.

    Attributes:
        round: which.
        worker_batch: samples of each worker.
        steps: how many.
        step_time_s: of a step, all of it.
        data_s: to find and gather the samples.
        forward_s: forward pass and loss.
        backward_s: to the last gradient.
        sync_s: communication that nothing hid, waiting for slower workers included.
        optimizer_s: the update, and what is left.
    """

    round: int
    worker_batch: int
    steps: int
    step_time_s: float
    data_s: float
    forward_s: float
    backward_s: float
    sync_s: float
    optimizer_s: float


class Stepper:
    """Steps of a study's optimizer on the live process group, at any worker batch; one engine is alive at a time.

    Args:
        study: whose workload, optimizer and precision are taken.
        largest: worker batch that is to pass through the model at once.
    """

    def __init__(self, study: Study, largest: int) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else _CPU
        self.processes = dist.get_world_size()
        self._study, self._largest = study, largest
        self._workload = TimedWorkload(workload_of(study), self.device)
        self._engine: DdpEngine | None = None
        self._group: int | None = None
        self._at = 0

    def engine(self, worker_batch: int) -> DdpEngine:
        """The one that steps at this worker batch: another only where batch norm needs another."""
        group = statistics_group(self._study, worker_batch * self.processes, self.processes)
        if self._engine is None or group != self._group:
            from scaleexp.engines.ddp import DdpEngine

            self._engine, self._group = None, group
            study = self._study
            self._engine = DdpEngine(
                cast("Workload", self._workload),
                seed=study.seeds[0],
                batch_size=worker_batch * self.processes,
                samples_at_once=max(self._largest, worker_batch),
                optimizer=study.optimizer.model_dump(),
                noise_shards=study.noise.shards,
                device=self.device,
                statistics_group=group,
                autocast=study.dtype == "bf16",
                compiled=study.compile == "always",
            )
        return self._engine

    def step(self, worker_batch: int) -> dict[str, float]:
        """Seconds of one step, by part."""
        engine, batch_size = self.engine(worker_batch), worker_batch * self.processes
        self._workload.taken()
        begin = time.perf_counter()
        result = engine.step(self._at, self._at + batch_size, _RATE, measure=False)
        step_s = time.perf_counter() - begin
        self._at += batch_size
        forward, backward = self._workload.taken()
        return {
            "step_time_s": step_s,
            "data_s": result.data_s,
            "forward_s": forward,
            "backward_s": backward,
            "sync_s": result.sync_s,
            "optimizer_s": max(result.compute_s - forward - backward, 0.0),
        }

    def visit(self, round_: int, worker_batch: int, steps: int) -> Visit:
        """Some steps in a row."""
        if self._group is not None:
            self.step(worker_batch)  # a new engine's first step allocates
        found = [self.step(worker_batch) for _ in range(steps)]
        means = {name: statistics.fmean(step[name] for step in found) for name in found[0]}
        return Visit(round=round_, worker_batch=worker_batch, steps=steps, **means)

    def agreed(self, value: float) -> float:
        """Process 0's."""
        held = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(held, src=0)
        return float(held)


_CPU = torch.device("cpu")


def time_steps(send: Send, *, study: Study, sizes: Sequence[int], rounds: int, longest_s: float) -> None:
    """Visit every worker batch once a round; process 0 sends facts, then what it measured after every round.

    Args:
        send: to who started this; {"fits": worker batch} of each that was tried, then facts, then lists of visits.
        study: whose steps.
        sizes: worker batches, ascending; those from the first on whose step takes longer than `longest_s` are left out.
        rounds: how many.
        longest_s: seconds.
    """
    stepper, leader = Stepper(study, max(sizes)), dist.get_rank() == 0
    counts: dict[int, int] = {}
    for size in sizes:
        stepper.step(size)
        seconds = stepper.agreed(min(stepper.step(size)["step_time_s"] for _ in range(2)))
        if counts and seconds > longest_s:
            break
        counts[size] = max(1, min(_MOST_STEPS, int(_VISIT_S / seconds)))
        if leader:
            send({"fits": size})
    engine = stepper.engine(sizes[0])
    if leader:
        size_bytes = 8 if study.dtype == "float64" else 4
        realised = {name: engine.realisation[name] for name in ("backend", "threads", "device", "kernel")}
        send({"n_parameters": engine.n_parameters, "grad_bytes": engine.n_parameters * size_bytes, **realised})
    del engine
    for number in range(rounds):
        visits = [stepper.visit(number, size, steps) for size, steps in counts.items()]
        if leader:
            send([asdict(visit) for visit in visits])


def time_all_reduce(send: Send, *, sizes: Sequence[int], rounds: int) -> None:
    """All-reduce of so many bytes of float32; every process must have finished before the next begins."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else _CPU
    tensors = {size: torch.zeros(size // 4, device=device) for size in sizes}  # their sum never overflows
    counts = {size: _count(tensor) for size, tensor in tensors.items()}
    for number in range(rounds):
        found = [{"round": number, "bytes": s, "seconds": _all_reduce_s(tensors[s], counts[s])} for s in sizes]
        if dist.get_rank() == 0:
            send(found)


def _count(tensor: torch.Tensor) -> int:
    """The same on every process."""
    _all_reduce_s(tensor, 1)
    slowest = torch.tensor(_all_reduce_s(tensor, 2), dtype=torch.float64, device=tensor.device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return max(1, min(_MOST_STEPS, int(_VISIT_S / float(slowest))))


def _all_reduce_s(tensor: torch.Tensor, times: int) -> float:
    dist.barrier()
    if tensor.is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


def grow_memory(
    send: Send, *, study: Study, sizes: Sequence[int], limit_bytes: float | None, sharing: int, longest_s: float
) -> None:
    """Peak memory at ascending worker batches, while the next one surely fits and a step is not too long.

    Args:
        send: to who started this; first the limit and where it is from, then a list of peaks for every batch.
        study: whose steps.
        sizes: worker batches, ascending.
        limit_bytes: of the process; None for a part of what is free.
        sharing: processes that share the memory of the host.
        longest_s: seconds of a step.
    """
    stepper, before = Stepper(study, max(sizes)), None
    on_gpu = stepper.device.type == "cuda"
    free = peak_memory.free_bytes(stepper.device)
    if limit_bytes is None:
        limit_bytes = _OF_GPU * free if on_gpu else _OF_HOST * free / sharing
    send({"limit_bytes": float(limit_bytes), "free_bytes": free, "on_gpu": on_gpu})
    for size in sizes:
        found = list(_peaks(stepper, size))
        send([{"worker_batch": size, "peak_bytes": peak, "step_time_s": seconds} for peak, seconds in found])
        peak, seconds = max(p for p, _ in found), min(s for _, s in found)
        grown = 0 if before is None else 2 * max(peak - before, 0)  # at twice the size, if memory is affine in it
        before = peak
        if peak + grown > limit_bytes or 2 * seconds > longest_s:
            return


def hold_memory(send: Send, *, study: Study, worker_batch: int) -> None:
    """One step at a worker batch that should just fit."""
    stepper = Stepper(study, worker_batch)
    peak_memory.begin(stepper.device)
    seconds = stepper.step(worker_batch)["step_time_s"]
    peak = peak_memory.peak_bytes(stepper.device)
    send([{"worker_batch": worker_batch, "peak_bytes": peak, "step_time_s": seconds}])


def _peaks(stepper: Stepper, size: int) -> Iterator[tuple[int, float]]:
    """(Peak bytes, seconds) of a few steps after the first, which allocates what stays."""
    stepper.step(size)
    for _ in range(_PEAKS):
        peak_memory.begin(stepper.device)
        seconds = stepper.step(size)["step_time_s"]
        yield peak_memory.peak_bytes(stepper.device), seconds
