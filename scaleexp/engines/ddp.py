"""One trial on real workers: one process each, torch DistributedDataParallel over the live process group.

Rank r takes the r-th contiguous slice of every global batch. A step that measures noise visits its shards one by one
with plain autograd, adds up their gradients and reduces once, in the order in which virtual workers would.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from scaleexp.engines.base import FloatArray, NoiseMeasurement, StepResult
from scaleexp.noise_scale import shard_count, squared_norms
from scaleexp.optimizers import make_optimizer
from scaleexp.sampling import derived_seed
from scaleexp.workloads.base import Batch, Workload

# Buffers stay each worker's own; torch 2.13 renamed the option that says so.
_SYNC = "forward_sync_buffers"
_RENAMED = _SYNC in inspect.signature(DistributedDataParallel.__init__).parameters
_OWN_BUFFERS: dict[str, Any] = {_SYNC if _RENAMED else "broadcast_buffers": False}


class DdpEngine:
    """Engine of one real-worker trial (K = 1); see `scaleexp.engines.base.Engine`.

    Needs an initialised `torch.distributed` process group (Ray Train's).

    Args:
        workload: data, model and loss.
        seed: seed of the trial.
        batch_size: B [samples], a multiple of the number of processes.
        micro_batch: samples that pass through the model at once; each process accumulates its share.
        optimizer: `{"name": ..., ...}`.
        noise_shards: most shards a measured batch is cut into.
        device: where this process computes.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        seed: int,
        batch_size: int,
        micro_batch: int,
        optimizer: Mapping[str, Any],
        noise_shards: int,
        device: torch.device,
    ) -> None:
        self._workload, self._device = workload, device
        self._rank, self._processes = dist.get_rank(), dist.get_world_size()
        self.leader = self._rank == 0
        self._own = batch_size // self._processes
        self._micro = micro_batch
        assert batch_size % self._processes == 0, "a plan gives every process the same whole share"
        assert self._own % micro_batch == 0, "and cuts it into whole micro-batches"
        self._seed = derived_seed(seed, "data")
        model = workload.model(derived_seed(seed, "init")).to(device)
        self._ddp = DistributedDataParallel(model, **_OWN_BUFFERS)
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._stacked = [p.detach().unsqueeze(0) for p in self._params]  # views: updating them updates the model
        self._optimizer = make_optimizer(optimizer, self._stacked)
        self._shards = shard_count(batch_size, at_most=noise_shards, workers=self._processes, real=True)
        self._last_gradient = 0.0
        self._last_event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        for p in self._params:
            p.register_post_accumulate_grad_hook(self._note_gradient)
        self.n_parameters = sum(p.numel() for p in self._params)
        self.realisation: dict[str, Any] = {
            "engine": "ddp",
            "kernel": "eager",
            "backend": dist.get_backend(),
            "processes": self._processes,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "noise_shards": self._shards,
        }

    def _note_gradient(self, parameter: Tensor) -> None:
        """A gradient is ready: what the backward pass waits for after the last one is exposed communication."""
        if self._last_event is not None:
            self._last_event.record()
        self._last_gradient = time.perf_counter()

    def _exposed_s(self) -> float:
        """Seconds between the last gradient and the end of the backward pass, on the device's own clock."""
        if self._last_event is None:
            return time.perf_counter() - self._last_gradient
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        end.synchronize()
        return float(self._last_event.elapsed_time(end)) / 1e3

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _forward_loss(self, forward: Any, batch: Batch) -> Tensor:  # noqa: ANN401  # the model, wrapped or bare
        return self._workload.loss(forward, batch, _gather)

    def step(self, start: int, lr: FloatArray, *, measure: bool) -> StepResult:
        """One optimizer step."""
        begin = self._now()
        first = start + self._rank * self._own
        batch = tuple(part.to(self._device) for part in self._workload.batch(self._seed, first, first + self._own))
        gathered = self._now()
        noise: NoiseMeasurement | None = None
        if measure and self._shards:
            grads, loss, small, sync_s = self._shard_gradients(batch, self._shards // self._processes)
        else:
            grads, loss, sync_s = self._gradients(batch)
            small = torch.zeros((), dtype=torch.float64)
        scalars = torch.stack([loss.double().cpu(), small.cpu()]).to(self._device)
        reducing = self._now()
        dist.all_reduce(scalars)
        sync_s += self._now() - reducing
        mean_loss, mean_small = (scalars / self._processes).tolist()
        if measure and self._shards:
            noise = NoiseMeasurement(
                small=_row(mean_small),
                big=squared_norms([g.unsqueeze(0) for g in grads]).cpu().numpy(),
                shard_size=self._own * self._processes // self._shards,
                shards=self._shards,
            )
        self._optimizer.update(self._stacked, [g.unsqueeze(0) for g in grads], torch.from_numpy(lr).to(self._device))
        end = self._now()
        return StepResult(
            loss=_row(mean_loss),
            noise=noise,
            data_s=gathered - begin,
            compute_s=end - gathered - sync_s,
            sync_s=sync_s,
        )

    def _gradients(self, batch: Batch) -> tuple[list[Tensor], Tensor, float]:
        """Mean gradient over all processes by DDP's bucketed, overlapped all-reduce; own mean loss; exposed seconds."""
        self._ddp.zero_grad(set_to_none=True)
        pieces = self._own // self._micro
        loss = torch.zeros((), device=self._device)
        for i in range(pieces):
            piece = tuple(part[i * self._micro : (i + 1) * self._micro] for part in batch)
            self._ddp.require_backward_grad_sync = i == pieces - 1
            part_loss = self._forward_loss(self._ddp, piece) / pieces
            part_loss.backward()
            loss = loss + part_loss.detach()
        exposed_s = self._exposed_s()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params], loss, exposed_s

    def _shard_gradients(self, batch: Batch, own_shards: int) -> tuple[list[Tensor], Tensor, Tensor, float]:
        """The same mean gradient from this process's shards; own mean loss and mean squared shard norm; seconds."""
        size = self._own // own_shards
        total: list[Tensor] = []
        loss = torch.zeros((), device=self._device)
        small = torch.zeros((), dtype=torch.float64, device=self._device)
        for s in range(own_shards):
            shard = tuple(part[s * size : (s + 1) * size] for part in batch)
            shard_loss, grads = self._accumulated(shard)
            small += squared_norms([g.unsqueeze(0) for g in grads])[0]
            total = [t.add_(g) for t, g in zip(total, grads, strict=True)] if total else list(grads)
            loss = loss + shard_loss
        reducing = self._now()
        flat = torch.cat([t.reshape(-1) for t in total])
        dist.all_reduce(flat)
        flat.div_(own_shards * self._processes)
        sync_s = self._now() - reducing
        pieces = torch.split(flat, [t.numel() for t in total])
        mean = [piece.view_as(t) for piece, t in zip(pieces, total, strict=True)]
        return mean, loss / own_shards, small / own_shards, sync_s

    def _accumulated(self, shard: Batch) -> tuple[Tensor, list[Tensor]]:
        """Mean loss and gradient of one shard, no more than a micro-batch at a time."""
        size = len(shard[0])
        piece = math.gcd(size, self._micro)
        share = piece / size
        loss = torch.zeros((), device=self._device)
        total: list[Tensor] = []
        for start in range(0, size, piece):
            part = tuple(t[start : start + piece] for t in shard)
            part_loss = self._forward_loss(self._ddp.module, part) * share
            grads = torch.autograd.grad(part_loss, self._params, allow_unused=True, materialize_grads=True)
            total = [t.add_(g) for t, g in zip(total, grads, strict=True)] if total else list(grads)
            loss = loss + part_loss.detach()
        return loss, total

    @torch.no_grad()
    def evaluate(self) -> dict[str, FloatArray]:
        """Every metric on the held-out set, each process on its contiguous part."""
        n = self._workload.n_eval
        low, high = (n * (self._rank + i) // self._processes for i in (0, 1))
        names = list(self._workload.metrics)
        sums = torch.zeros(len(names), dtype=torch.float64, device=self._device)
        if high > low:
            batch = tuple(part.to(self._device) for part in self._workload.eval_batch(low, high))
            own = self._workload.metric_sums(self._ddp.module, batch)
            sums = torch.stack([own[name].double() for name in names])
        dist.all_reduce(sums)
        return {name: _row(v) for name, v in zip(names, (sums / n).tolist(), strict=True)}

    def keep(self, rows: Sequence[int]) -> None:
        """Nothing to drop: a pack of real workers runs its trials one after another."""
        assert list(rows) == [0]


def _row(value: float) -> FloatArray:
    return np.array([value])


def _gather(rows: Tensor) -> Tensor:
    """Every process's rows, in rank order, differentiable; shape (B, ...)."""
    return torch.cat(list(all_gather(rows)))
