"""K trials x W virtual workers in one process: parameters stacked over trials, stepped by torch.func.vmap.

With losses that are means over examples, W workers of worker_batch samples are one worker of B samples, so a step that
does not measure noise takes the plain large-batch path; one that does visits the shards in worker order and adds up
their gradients, as real workers would.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from scaleexp.engines.base import FloatArray, NoiseMeasurement, StepResult
from scaleexp.errors import ConfigError
from scaleexp.noise_scale import shard_count, squared_norms
from scaleexp.optimizers import make_optimizer
from scaleexp.sampling import derived_seed
from scaleexp.workloads.base import Batch, Forward, Workload

Params = dict[str, Tensor]


class PackedEngine:
    """Engine of K virtual-worker trials; see `scaleexp.engines.base.Engine`.

    Two rows at least are stepped, because vmap gives the same bits for every K >= 2 but others at K = 1: a lone trial
    is padded with a copy of itself, which nobody reads.

    Args:
        workload: data, model and loss.
        seeds: seed of each trial, shape (K,).
        batch_size: B [samples], the same for all.
        workers: W virtual workers; each holds a contiguous B / W of every batch.
        optimizer: `{"name": ..., ...}`.
        noise_shards: most shards a measured batch is cut into.
        threads: torch threads of this process.

    Raises:
        ConfigError: a workload whose examples are coupled: its virtual workers would not be exact here.
    """

    leader = True

    def __init__(
        self,
        workload: Workload,
        *,
        seeds: Sequence[int],
        batch_size: int,
        workers: int = 1,
        optimizer: Mapping[str, Any],
        noise_shards: int,
        threads: int = 1,
    ) -> None:
        if workload.couples_examples or workload.random:
            raise ConfigError(
                "this workload couples the examples of a batch or draws at random: no exact virtual workers"
            )
        torch.set_num_threads(threads)
        self._workload, self._batch_size = workload, batch_size
        self._seeds = self._padded(list(seeds))
        self._size = len(seeds)
        models = {s: workload.model(derived_seed(s, "init")) for s in set(seeds)}
        self._template = next(iter(models.values()))
        trained = {name for name, p in self._template.named_parameters() if p.requires_grad}
        states = {s: {**dict(m.named_parameters()), **dict(m.named_buffers())} for s, m in models.items()}
        stacked = {k: torch.stack([states[s][k].detach() for s in self._seeds]) for k in states[self._seeds[0]]}
        self._params: Params = {k: v for k, v in stacked.items() if k in trained}
        self._fixed: Params = {k: v for k, v in stacked.items() if k not in trained}
        self.n_parameters = sum(p[0].numel() for p in self._params.values())
        self._optimizer = make_optimizer(optimizer, list(self._params.values()))
        self._shards = shard_count(batch_size, at_most=noise_shards, workers=workers)
        self._grad = vmap(grad_and_value(self._loss))
        self._metrics = vmap(self._metric_sums, in_dims=(0, 0, None))
        self.realisation: dict[str, Any] = {
            "engine": "packed",
            "kernel": "vmap",
            "padded_to": 2,
            "processes": 1,
            "threads": threads,
            "device": "cpu",
            "noise_shards": self._shards,
        }

    @staticmethod
    def _padded(rows: list[int]) -> list[int]:
        return rows if len(rows) > 1 else rows * 2

    def _forward(self, params: Params, fixed: Params) -> Forward:
        """The model as a function of its inputs, at the parameters, frozen ones and buffers of one trial."""

        def forward(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401  # whatever the model takes
            return cast("Tensor", functional_call(self._template, {**params, **fixed}, args, kwargs))

        return forward

    def _loss(self, params: Params, fixed: Params, batch: Batch) -> Tensor:
        return self._workload.loss(self._forward(params, fixed), batch, _alone)

    def _metric_sums(self, params: Params, fixed: Params, batch: Batch) -> dict[str, Tensor]:
        return self._workload.metric_sums(self._forward(params, fixed), batch)

    def _batch(self, start: int, stop: int) -> Batch:
        """Samples of every trial, each tensor (K, B, ...); trials of one seed see the same."""
        own = {s: self._workload.batch(derived_seed(s, "data"), start, stop) for s in set(self._seeds)}
        return tuple(torch.stack(parts) for parts in zip(*(own[s] for s in self._seeds), strict=True))

    def step(self, start: int, lr: FloatArray, *, measure: bool) -> StepResult:
        """One optimizer step of every trial."""
        begin = time.perf_counter()
        batch = self._batch(start, start + self._batch_size)
        gathered = time.perf_counter()
        noise: NoiseMeasurement | None = None
        if measure and self._shards:
            grads, loss, noise = self._measured(batch, self._shards)
        else:
            grads, loss = self._grad(self._params, self._fixed, batch)
        rates = torch.from_numpy(lr) if len(lr) > 1 else torch.from_numpy(lr).expand(2)
        self._optimizer.update(list(self._params.values()), list(grads.values()), rates)
        end = time.perf_counter()
        return StepResult(
            loss=loss[: self._size].double().numpy(),
            noise=noise,
            data_s=gathered - begin,
            compute_s=end - gathered,
            sync_s=0.0,
        )

    def _measured(self, batch: Batch, shards: int) -> tuple[Params, Tensor, NoiseMeasurement]:
        """Gradient, loss and squared norms from the shards, visited in worker order."""
        size = self._batch_size // shards
        total: Params = {}
        loss = small = torch.zeros(len(self._seeds), dtype=torch.float64)
        for s in range(shards):
            shard = tuple(part[:, s * size : (s + 1) * size] for part in batch)
            grads, value = self._grad(self._params, self._fixed, shard)
            small = small + squared_norms(list(grads.values()))
            loss = loss + value.double()
            total = {k: total[k].add_(g) for k, g in grads.items()} if total else grads
        mean = {k: g.div_(shards) for k, g in total.items()}
        noise = NoiseMeasurement(
            small=(small / shards)[: self._size].numpy(),
            big=squared_norms(list(mean.values()))[: self._size].numpy(),
            shard_size=size,
            shards=shards,
        )
        return mean, loss / shards, noise

    @torch.no_grad()
    def evaluate(self) -> dict[str, FloatArray]:
        """Every metric of every trial on the held-out set."""
        sums = self._metrics(self._params, self._fixed, self._workload.eval_batch(0, self._workload.n_eval))
        return {name: (sums[name][: self._size] / self._workload.n_eval).numpy() for name in self._workload.metrics}

    def keep(self, rows: Sequence[int]) -> None:
        """Shrink to these trials, padded to two."""
        padded = torch.tensor(self._padded(list(rows)))
        self._size = len(rows)
        self._seeds = [self._seeds[r] for r in padded.tolist()]
        self._params = {k: p[padded].clone() for k, p in self._params.items()}
        self._fixed = {k: p[padded].clone() for k, p in self._fixed.items()}
        self._optimizer.keep(padded)


def _alone(rows: Tensor) -> Tensor:
    """The gather of a worker that holds the whole batch."""
    return rows
