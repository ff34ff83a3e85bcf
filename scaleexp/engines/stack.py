"""The tensors of K trials side by side: parameters, frozen parameters and buffers, seeds, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from scaleexp.sampling import derived_seed
from scaleexp.workloads.base import Batch, Workload

Stacked = dict[str, Tensor]
"""Tensors of K trials by name, shape (K, ...)."""


class Shared:
    """One tensor of a batch for K trials, shape (K, B, ...), of which trials of one seed hold the same rows.

    No copy for each trial: a kernel that needs one gets it for the samples that it takes at once (`Stack.joined`).
    """

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self._rows = list(rows)
        self.shape = torch.Size((len(self._rows), *self._rows[0].shape))

    def __getitem__(self, trial: int) -> Tensor:
        return self._rows[trial]

    def narrow(self, dim: int, start: int, length: int) -> Shared:
        """As `Tensor.narrow`, of the samples (dim 1)."""
        assert dim == 1
        return Shared([rows.narrow(0, start, length) for rows in self._rows])


class Stack:
    """K trials at their initial state.

    Attributes:
        params: trained parameters.
        fixed: frozen parameters and buffers.
        dropout_seeds: shape (K,), int64.

    Args:
        workload: where samples come from.
        seeds: seed of each trial, shape (K,).
        model: init seed -> model; called once per distinct seed.
        device: where the tensors live.
    """

    def __init__(
        self, workload: Workload, seeds: Sequence[int], model: Callable[[int], nn.Module], device: torch.device
    ) -> None:
        self._workload, self._seeds, self._device = workload, list(seeds), device
        self._orders = _data_seeds(seeds)
        self._kept: dict[int, Tensor] = {}
        models = {s: model(derived_seed(s, "init")) for s in dict.fromkeys(seeds)}
        tensors = {s: {**dict(m.named_parameters()), **dict(m.named_buffers())} for s, m in models.items()}
        trained = {n for n, p in models[seeds[0]].named_parameters() if p.requires_grad}
        stacked = {n: torch.stack([tensors[s][n].detach() for s in seeds]).to(device) for n in tensors[seeds[0]]}
        self.params: Stacked = {n: t for n, t in stacked.items() if n in trained}
        self.fixed: Stacked = {n: t for n, t in stacked.items() if n not in trained}
        self._begun = {s: {n: tensors[s][n].detach() for n in self.params} for s in tensors}
        self.dropout_seeds = torch.tensor([derived_seed(s, "dropout") for s in seeds], device=device)

    def __len__(self) -> int:
        return len(self._seeds)

    @property
    def begun(self) -> list[Stacked]:
        """Trained parameters of each trial at its initialisation, on the host; trials of one seed share it."""
        return [self._begun[seed] for seed in self._seeds]

    @property
    def model(self) -> Stacked:
        """Everything that a model's state holds."""
        return {**self.params, **self.fixed}

    def taken(self, rows: Sequence[int]) -> Stack:
        """A copy that holds these rows only; a row may come twice."""
        copy: Stack = object.__new__(Stack)
        index = torch.tensor(list(rows), device=self._device)
        copy._workload, copy._device, copy._kept = self._workload, self._device, {}
        copy._seeds = [self._seeds[r] for r in rows]
        copy._orders = _data_seeds(copy._seeds)
        copy._begun = {s: self._begun[s] for s in copy._orders}
        copy.params = {n: t[index] for n, t in self.params.items()}
        copy.fixed = {n: t[index] for n, t in self.fixed.items()}
        copy.dropout_seeds = self.dropout_seeds[index]
        return copy

    def batch(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of every trial, each `Shared`, (K, B, ...); trials of one seed see the same."""
        own = {s: self._workload.batch(order, start, stop) for s, order in self._orders.items()}
        if self._device.type != "cpu":
            own = {s: tuple(part.to(self._device) for part in batch) for s, batch in own.items()}
        shared = [Shared(part) for part in zip(*(own[s] for s in self._seeds), strict=True)]
        return cast("Batch", tuple(shared))

    def joined(self, batch: Batch) -> Batch:
        """Samples of `batch`, each as one tensor; the next call may write over it."""
        return tuple(self._stacked(i, [part[k] for k in range(len(self))]) for i, part in enumerate(batch))

    def _stacked(self, number: int, part: Sequence[Tensor]) -> Tensor:
        """One tensor of a batch for all trials; written over the last one of its shape, for new pages are slow."""
        shape = (len(part), *part[0].shape)
        kept = self._kept.get(number)
        if kept is None or kept.shape != shape or kept.dtype != part[0].dtype:
            kept = self._kept[number] = torch.empty(shape, dtype=part[0].dtype, device=part[0].device)
        return torch.stack(tuple(part), out=kept)


def _data_seeds(seeds: Sequence[int]) -> dict[int, int]:
    """The data seed of every distinct seed."""
    return {seed: derived_seed(seed, "data") for seed in dict.fromkeys(seeds)}
