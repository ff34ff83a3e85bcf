"""One trial on real workers: P processes, torch DistributedDataParallel over the live process group.

Process r takes the r-th contiguous slice of every global batch; it stands for W / P of the trial's W workers, one after
the other in that slice. Gradients are reduced by DDP's buckets while the backward pass goes on. Steps that measure
noise visit their shards before they accumulate, for afterwards only the mean of the shards exists; where a process is
one shard, its gradient is seen just before it is reduced, and the step costs next to nothing more.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce
from torch.nn.parallel import DistributedDataParallel

from scaleexp.engines.base import FloatArray, NoiseMeasurement, StepResult, TrialState
from scaleexp.engines.choose import best_of, median_of
from scaleexp.engines.device_clock import now
from scaleexp.engines.distance import distances
from scaleexp.engines.kernels import Trainee, evaluation_mode
from scaleexp.engines.loss_carrier import WithCarrier, carried
from scaleexp.engines.packed import EVALUATED_AT_ONCE
from scaleexp.engines.setup import linear_taps, prepared_model, restore_into, shards_of, state_of
from scaleexp.engines.share import Share, added
from scaleexp.engines.stack import Stacked
from scaleexp.noise_scale import shard_sizes, squared_norms_by_layer
from scaleexp.optimizers import make_optimizer
from scaleexp.sampling import derived_seed
from scaleexp.workloads.base import Batch, Forward, Workload

# Buffers stay each worker's own; torch 2.13 renamed the option that says so.
_SYNC = "forward_sync_buffers"
_RENAMED = _SYNC in inspect.signature(DistributedDataParallel.__init__).parameters
_OWN_BUFFERS: dict[str, Any] = {_SYNC if _RENAMED else "broadcast_buffers": False}


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Gradients of one step, the same on every process.

    Attributes:
        grads: mean gradient over all processes, by parameter.
        loss: mean over all processes.
        small: mean over own shards of the squared norm, by parameter; empty on plain steps.
        statistics: of batch norm, of own samples.
        sync_s: exposed seconds of communication so far.
    """

    grads: Sequence[Tensor]
    loss: Tensor
    sync_s: float
    statistics: Stacked
    small: Stacked = field(default_factory=dict)


class DdpEngine:
    """Engine of one real-worker trial (K = 1); see `scaleexp.engines.base.Engine`.

    Needs an initialised `torch.distributed` process group (Ray Train's); every process makes the same calls.

    Args:
        workload: data, model and loss.
        seed: seed of the trial.
        batch_size: B [samples], a multiple of the number of processes.
        samples_at_once: of a process that pass through the model together.
        evaluated_at_once: likewise, of the held-out samples.
        workers: W, a multiple of the number of processes P; None for P.
        optimizer: `{"name": ..., ...}`.
        noise_shards: most shards a measured batch is cut into where norms are not taken example by example.
        device: where this process computes.
        statistics_group: samples that share batch-norm statistics; None for a model without.
        per_layer: measure the gradient norms of every parameter, too.
        autocast: compute under bfloat16 autocast.
        compiled: put the model through torch.compile.

    Raises:
        ConfigError: a model that cannot be split over workers exactly.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        seed: int,
        batch_size: int,
        samples_at_once: int,
        optimizer: Mapping[str, Any],
        noise_shards: int,
        device: torch.device,
        workers: int | None = None,
        statistics_group: int | None = None,
        per_layer: bool = False,
        autocast: bool = False,
        compiled: bool = False,
        evaluated_at_once: int = EVALUATED_AT_ONCE,
    ) -> None:
        self._workload, self._device, self._per_layer = workload, device, per_layer
        self._rank, self._processes = dist.get_rank(), dist.get_world_size()
        self.leader = self._rank == 0
        self._workers = workers or self._processes
        self._most_shards, self._group = noise_shards, statistics_group
        self._evaluated_at_once = evaluated_at_once
        assert batch_size % self._workers == 0, "a plan gives every worker the same whole share"
        assert self._workers % self._processes == 0, "and every process the same number of workers"
        self._seed = derived_seed(seed, "data")
        model, self._exact = prepared_model(workload, derived_seed(seed, "init"), statistics_group)
        model.to(device)
        if statistics_group is not None and statistics_group > batch_size // self._processes:
            assert statistics_group == batch_size, "a group of several processes is the whole batch"
            self._exact.across = self._mean_over_processes
        self._model = model
        self._taps = linear_taps(workload, model, self._exact)
        trainee = Trainee(workload, model, self._exact, self._taps, device.type if autocast else None, _gather)
        self._share = Share(
            trainee,
            dropout_seed=derived_seed(seed, "dropout"),
            at_once=samples_at_once,
            group=statistics_group,
            whole=workload.couples_examples or self._exact.across is not None,
        )
        self._precision = trainee.precision
        self._names, self._params = self._share.names, self._share.params
        # Views with a first dimension of one trial: updating them updates the model.
        self._state = {n: t.detach().unsqueeze(0) for n, t in self._tensors().items()}
        self._stacked = [self._state[n] for n in self._names]
        # The seed gives it again after a resume. One process holds it, on the host: the others have no rows to write.
        own = zip(self._names, self._params, strict=True) if self.leader else ()
        self._begun = {n: p.detach().to("cpu", copy=True) for n, p in own}
        self._optimizer = make_optimizer([optimizer], self._stacked)
        unused = self._some_unused(batch_size // self._processes)
        self._carrier = None if unused else nn.Parameter(torch.zeros((), dtype=self._params[0].dtype, device=device))
        self._ddp = DistributedDataParallel(
            model if self._carrier is None else WithCarrier(model, self._carrier),
            gradient_as_bucket_view=True,
            find_unused_parameters=unused,
            **_OWN_BUFFERS,
        )
        self._forward = cast("Forward", torch.compile(self._ddp) if compiled else self._ddp)
        self._last_gradient, self._last_event = 0.0, None
        if device.type == "cuda":
            self._last_event = torch.cuda.Event(enable_timing=True)
        self._own_norms: Stacked | None = None
        for name, p in zip(self._names, self._params, strict=True):
            p.register_post_accumulate_grad_hook(partial(self._note_gradient, name))
        self.n_parameters = sum(p.numel() for p in self._params)
        self.timings: dict[str, float] = {}
        self.realisation: dict[str, Any] = {
            "engine": "ddp",
            "kernel": "compiled" if compiled else "eager",
            "backend": dist.get_backend(),
            "processes": self._processes,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "samples_at_once": max(self._share.pieces(batch_size // self._processes)),
            "evaluated_at_once": evaluated_at_once,
            "noise_shards": self._shards(batch_size),
            "noise_bias": "batch_norm" if self._exact.batch_norm else "",
        }

    def _tensors(self) -> Stacked:
        """Parameters, trained or frozen, and buffers."""
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}

    def _some_unused(self, own: int) -> bool:
        """Whether parameters take no part in the loss: DDP must know, or its reduction waits for them for ever."""
        n = own if self._exact.across else self._group or min(2, own)
        loss, _ = self._share.loss(0, self._samples(0, n))
        return any(g is None for g in torch.autograd.grad(loss, self._params, allow_unused=True))

    # -- one step -----------------------------------------------------------------------------------------------------

    def step(self, start: int, stop: int, lr: FloatArray, *, measure: bool) -> StepResult:
        """One optimizer step."""
        begin = now(self._device)
        own = (stop - start) // self._processes
        assert own * self._processes == stop - start, "every process takes the same share"
        first = start + self._rank * own
        batch = self._samples(first, first + own)
        gathered = now(self._device)
        shards = self._shards(stop - start) if measure else None
        found = self._measured(first, batch, shards) if shards else self._gradients(first, batch)
        grads = [g.unsqueeze(0) for g in found.grads]
        self._optimizer.update(self._stacked, grads, torch.from_numpy(lr).to(self._device))
        self._update_buffers(found.statistics)
        waiting = now(self._device)
        noise = self._noise(found, shards) if shards else None
        loss = float(found.loss)
        end = now(self._device)
        sync_s = found.sync_s + end - waiting
        return StepResult(
            loss=np.array([loss]),
            noise=noise,
            data_s=gathered - begin,
            compute_s=end - gathered - sync_s,
            sync_s=sync_s,
        )

    def _samples(self, start: int, stop: int) -> Batch:
        return tuple(part.to(self._device) for part in self._workload.batch(self._seed, start, stop))

    def _gradients(self, first: int, batch: Batch, *, norms: bool = False) -> _Found:
        """Mean gradient over all processes by DDP's bucketed, overlapped all-reduce; on request own norms before it."""
        for p in self._params:
            p.grad = None
        if self._carrier is not None:
            self._carrier.grad = None
        self._own_norms = {} if norms else None
        sizes = self._share.pieces(len(batch[0]))
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        statistics: Stacked = {}
        for i, (at, part, share) in enumerate(self._share.parts(first, batch, sizes)):
            self._ddp.require_backward_grad_sync = i == len(sizes) - 1
            loss, (seen, _) = self._share.loss(at, part, forward=self._forward)
            statistics = added(statistics, seen, share)
            loss = loss * share if share < 1 else loss
            (loss if self._carrier is None else carried(loss, self._carrier)).backward()
            total += loss.detach()
        sync_s = self._exposed_s()
        if self._carrier is None:
            reducing = now(self._device)
            dist.all_reduce(total)
            total, sync_s = total / self._processes, sync_s + now(self._device) - reducing
        else:
            assert self._carrier.grad is not None
            total = self._carrier.grad.clone()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        small = {n: self._own_norms.get(n, total.new_zeros(())) for n in self._names} if self._own_norms else {}
        return _Found(grads=grads, loss=total, sync_s=sync_s, statistics=statistics, small=small)

    def _note_gradient(self, name: str, parameter: Tensor) -> None:
        """A gradient is ready and not yet reduced. What follows the last one is exposed communication."""
        if self._own_norms is not None and parameter.grad is not None and self._ddp.require_backward_grad_sync:
            self._own_norms[name] = torch.linalg.vector_norm(parameter.grad, dtype=torch.float64) ** 2
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

    # -- noise --------------------------------------------------------------------------------------------------------

    def _shards(self, size: int) -> int | None:
        """Into how many shards a batch of this size is cut; its examples, where their norms come for free."""
        if self._taps:
            return size if size > 1 else None
        workers = self._processes if self._workers > self._most_shards else self._workers
        return shards_of(
            size, at_most=self._most_shards, workers=workers, real=True, workload=self._workload, group=self._group
        )

    def _shard_sizes(self, own: int, shards: int) -> tuple[int, ...]:
        """Of this process's share, in the order of the samples; each worker's part cut by itself where it can be."""
        workers = self._workers // self._processes
        if shards % self._workers == 0:
            return shard_sizes(own // workers, shards // self._workers) * workers
        return shard_sizes(own, shards // self._processes)

    def _measured(self, first: int, batch: Batch, shards: int) -> _Found:
        """The mean gradient, and the norms of what it is the mean of."""
        if not self._taps and shards == self._processes:
            return self._gradients(first, batch, norms=True)
        own = len(batch[0])
        visit, sizes = self._share.shard, self._shard_sizes(own, shards)
        if self._taps:
            visit, sizes = self._share.examples, self._share.pieces(own)
        grads: list[Tensor] = []
        statistics: Stacked = {}
        small: Stacked = {}
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for at, samples, share in self._share.parts(first, batch, sizes):
            part = visit(at, samples)
            small = added(small, part.norms, share)
            statistics = added(statistics, part.statistics, share)
            scaled = [g * share for g in part.grads]
            grads = [t.add_(g) for t, g in zip(grads, scaled, strict=True)] if grads else scaled
            total += part.loss * share
        reducing = now(self._device)
        flat = torch.cat([*(g.reshape(-1) for g in grads), total.to(grads[0].dtype).reshape(1)])
        dist.all_reduce(flat)
        flat.div_(self._processes)
        *split, total = torch.split(flat, [*(g.numel() for g in grads), 1])
        mean = [f.view_as(g) for f, g in zip(split, grads, strict=True)]
        sync_s = now(self._device) - reducing
        return _Found(grads=mean, loss=total, sync_s=sync_s, statistics=statistics, small=small)

    def _noise(self, found: _Found, shards: int) -> NoiseMeasurement:
        """The norms of all processes' shards, reduced at once."""
        small = torch.stack([found.small[n] for n in self._names])
        dist.all_reduce(small)
        big = squared_norms_by_layer({n: g.unsqueeze(0) for n, g in zip(self._names, found.grads, strict=True)})
        smalls = (small / self._processes).cpu().numpy()
        bigs = torch.cat([big[n] for n in self._names]).cpu().numpy()
        layers = {n: (smalls[i : i + 1], bigs[i : i + 1]) for i, n in enumerate(self._names)}
        return NoiseMeasurement(
            small=smalls.sum(keepdims=True),
            big=bigs.sum(keepdims=True),
            shards=shards,
            layers=layers if self._per_layer else None,
        )

    # -- the trial ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _update_buffers(self, statistics: Stacked) -> None:
        """Running statistics from those of all processes, so that every process holds the same."""
        if statistics:
            flat = torch.cat([s.reshape(-1) for s in statistics.values()])
            dist.all_reduce(flat)
            parts = torch.split(flat / self._processes, [s.numel() for s in statistics.values()])
            shared = zip(statistics.items(), parts, strict=True)
            statistics = {name: part.view_as(own) for (name, own), part in shared}
            buffers = dict(self._model.named_buffers())
            for name, value in self._exact.updated(buffers, statistics).items():
                buffers[name].copy_(value)

    def _mean_over_processes(self, value: Tensor) -> Tensor:
        return cast("Tensor", all_reduce(value)) / self._processes

    @torch.no_grad()
    def evaluate(self) -> dict[str, FloatArray]:
        """Every metric on the held-out set, each process on its contiguous part."""
        total = self._workload.n_eval
        low, high = (total * (self._rank + i) // self._processes for i in (0, 1))
        names = list(self._workload.metrics)
        sums = torch.zeros(len(names), dtype=torch.float64, device=self._device)
        with evaluation_mode(self._model), self._precision():
            for at in range(low, high, self._evaluated_at_once):
                held_out = self._workload.eval_batch(at, min(high, at + self._evaluated_at_once))
                own = self._workload.metric_sums(self._model, tuple(part.to(self._device) for part in held_out))
                sums += torch.stack([own[name].double() for name in names])
        dist.all_reduce(sums)
        return {name: np.array([v]) for name, v in zip(names, (sums / total).tolist(), strict=True)}

    def distances(self) -> FloatArray:
        """Distance of the trial from its initialisation, as process 0 has it."""
        theta = {n: self._state[n] for n in self._names}
        return np.array([self._agreed(distances(theta, [self._begun]).item() if self.leader else 0.0)])

    def keep(self, rows: Sequence[int]) -> None:
        """Nothing to drop: a pack of real workers runs its trials one after another."""
        assert list(rows) == [0]

    def states(self, rows: Sequence[int] | None = None) -> list[TrialState]:
        """A copy of the trial's state, the same on every process."""
        return [state_of(0, self._state, self._optimizer, self._names)]

    @torch.no_grad()
    def restore(self, states: Sequence[TrialState]) -> None:
        """Go on from a state; every process is given the same."""
        restore_into(states, self._state, self._optimizer, self._names)

    def seconds(self, batch_size: int) -> tuple[float, float]:
        """Seconds of the gradients of a plain step and of a measuring one, as process 0 sees them."""
        own = batch_size // self._processes
        batch, shards = self._samples(0, own), self._shards(batch_size)

        def measuring() -> None:
            if shards:
                self._noise(self._measured(0, batch, shards), shards)

        first = best_of(lambda: self._gradients(0, batch), repeats=1)
        runs = int(self._agreed(np.clip(0.2 / first, 1, 60)))
        before_s = median_of(lambda: self._gradients(0, batch), repeats=runs)
        measuring_s = median_of(measuring, repeats=runs) if shards else before_s
        # Plain steps before and after: the first of a process are slow, and would make measuring look cheap.
        plain_s = min(before_s, median_of(lambda: self._gradients(0, batch), repeats=runs))
        return self._agreed(plain_s), self._agreed(measuring_s if shards else plain_s)

    def _agreed(self, value: float) -> float:
        """Process 0's."""
        agreed = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.broadcast(agreed, src=0)
        return float(agreed)


def _gather(rows: Tensor) -> Tensor:
    """Every process's rows, in rank order, differentiable; shape (B, ...)."""
    return torch.cat(list(all_gather(rows)))
