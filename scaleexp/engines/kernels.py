"""How the gradients of K stacked trials are computed: by vmap, by compiled vmap, or one trial after another.

All of them are the same function of (stacked tensors, batch): only their speed and their last bits differ, so an
engine may choose by the clock as long as it chooses once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from scaleexp.engines.stack import Stack, Stacked
from scaleexp.engines.traced import Traced
from scaleexp.exact_layers import ExactLayers
from scaleexp.linear_norms import LinearTaps
from scaleexp.workloads.base import Batch, Forward, Gather, Workload


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What a pass over n samples gives.

    Attributes:
        grads: gradients of the mean loss, by parameter.
        loss: mean loss, shape (K,).
        statistics: of batch norm; empty without.
        norms: squared norms of the per-example gradients by parameter, (K, n); empty unless asked for.
    """

    grads: Stacked
    loss: Tensor
    statistics: Stacked = field(default_factory=dict)
    norms: Stacked = field(default_factory=dict)


def weighted_mean(parts: Iterable[Gradients], shares: Sequence[float]) -> Gradients:
    """Gradients of a batch from those of its parts, added up in order; only one part is alive at a time.

    Args:
        parts: in the order of their samples.
        shares: of the batch's samples that each part holds.
    """
    grads: Stacked = {}
    statistics: Stacked = {}
    loss = torch.zeros(())
    norms: dict[str, list[Tensor]] = {}
    for part, share in zip(parts, shares, strict=True):
        for name, g in part.grads.items():
            grads[name] = grads[name].add_(g, alpha=share) if name in grads else g * share
        for name, s in part.statistics.items():
            statistics[name] = statistics[name] + s * share if name in statistics else s * share
        for name, n in part.norms.items():
            norms.setdefault(name, []).append(n)
        loss = loss.to(part.loss.device) + part.loss.double() * share
    joined = {name: torch.cat(values, 1) for name, values in norms.items()}
    return Gradients(grads=grads, loss=loss, statistics=statistics, norms=joined)


class Trainee:
    """One trial's loss as a function of its tensors.

    Args:
        workload: data, model and loss.
        template: a model whose tensors are replaced by a trial's.
        exact: its exact layers.
        taps: of its linear layers, where per-example norms can be had.
        autocast: device type under bfloat16 autocast, or None.
        gather: every process's rows of a tensor, for losses that couple examples.
    """

    def __init__(
        self,
        workload: Workload,
        template: nn.Module,
        exact: ExactLayers,
        taps: LinearTaps | None,
        autocast: str | None,
        gather: Gather = lambda rows: rows,
    ) -> None:
        self.workload, self.template, self.exact, self.taps = workload, template, exact, taps
        self._autocast, self._gather = autocast, gather

    def forward(self, tensors: Stacked) -> Forward:
        """The model as a function of its inputs, at these parameters and buffers."""

        def forward(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401  # whatever the model takes
            return cast("Tensor", functional_call(self.template, tensors, args, kwargs))

        return forward

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, or nothing."""
        return torch.autocast(self._autocast, dtype=torch.bfloat16) if self._autocast else nullcontext()

    def loss(
        self, forward: Forward, model: nn.Module, seed: Tensor | int, batch: Batch, first: Tensor | int, taps: Stacked
    ) -> tuple[Tensor, tuple[Stacked, Stacked]]:
        """Mean loss; (statistics of batch norm, inputs of the tapped layers, none without taps)."""
        none: Stacked = {}
        attached: AbstractContextManager[Stacked] = (
            self.taps.attached(model, taps) if self.taps and taps else nullcontext(none)
        )
        with self.exact.passing(seed, first, len(batch[0])), self.precision(), attached as inputs:
            value = self.workload.loss(forward, batch, self._gather)
        return value, (self.exact.statistics() if self.exact.batch_norm else {}, dict(inputs))

    def functional_loss(
        self, params: Stacked, taps: Stacked, fixed: Stacked, seed: Tensor, batch: Batch, first: Tensor
    ) -> tuple[Tensor, tuple[Stacked, Stacked]]:
        """`loss` as a pure function of one trial's tensors."""
        return self.loss(self.forward({**params, **fixed}), self.template, seed, batch, first, taps)

    def metric_sums(self, model: Stacked, batch: Batch) -> dict[str, Tensor]:
        """Metrics of one trial on part of the held-out set; the template must be in evaluation mode."""
        with self.precision():
            return self.workload.metric_sums(self.forward(model), batch)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model evaluates; after it every module trains or evaluates as it did before."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


class Kernel(Protocol):
    """Computes gradients.

    Attributes:
        name: how.
        least: rows that it steps at least, because fewer have other bits.
        copies: whether it needs each batch as one tensor for all trials.
    """

    name: str
    least: int
    copies: bool

    def __call__(self, stack: Stack, batch: Batch, first: Tensor, taps: Stacked) -> Gradients:
        """Gradients of every trial on (K, n, ...) samples, the first of which has index `first`, shape ().

        With taps (zeros, one per linear layer) per-example norms, too.
        """
        ...

    def metric_sums(self, stack: Stack, batch: Batch) -> Stacked:
        """Metrics of every trial on part of the held-out set, which all share."""
        ...

    def padded(self, rows: Sequence[int], held: int) -> list[int]:
        """Rows to hold so that these come first; `held` is how many are held now."""
        ...

    def record(self, *, tapped: bool = False) -> None:
        """Many calls (with taps) are to come of which the next is an example: what makes them fast may be slow once."""
        ...


class VmapKernel:
    """All trials in one call of torch.func.vmap; a lone trial is doubled, because K = 1 has other bits than K >= 2."""

    name = "vmap"
    least = 2
    copies = True

    def __init__(self, trainee: Trainee) -> None:
        self._trainee = trainee
        one = grad_and_value(trainee.functional_loss, argnums=(0, 1), has_aux=True)
        self._eager: Callable[..., Any] = vmap(one, in_dims=(0, 0, 0, 0, 0, None))
        self._traced, self._tapped = Traced(self._eager), Traced(self._with_norms)
        self._plain: Callable[..., Any] = self._traced
        self._metrics = vmap(trainee.metric_sums, in_dims=(0, None))

    def __call__(self, stack: Stack, batch: Batch, first: Tensor, taps: Stacked) -> Gradients:
        """Gradients of every trial."""
        arguments = (stack.params, taps, stack.fixed, stack.dropout_seeds, batch, first)
        norms: Stacked = {}
        if taps:
            grads, loss, statistics, norms = self._tapped(*arguments)
        else:
            (grads, _), (loss, (statistics, _)) = self._plain(*arguments)
        return Gradients(grads=grads, loss=loss, statistics=statistics, norms=norms)

    def _with_norms(
        self, params: Stacked, taps: Stacked, fixed: Stacked, seeds: Tensor, batch: Batch, first: Tensor
    ) -> tuple[Stacked, Tensor, Stacked, Stacked]:
        """Gradients, losses and statistics as ever, and the squared norms of the per-example gradients."""
        assert self._trainee.taps is not None, "taps come from them"
        (grads, tap_grads), (loss, (statistics, inputs)) = self._eager(params, taps, fixed, seeds, batch, first)
        of, rows = self._trainee.taps.squared_norms, batch[0].shape[1]
        return grads, loss, statistics, vmap(lambda i, t: of(i, t, rows))(inputs, tap_grads)

    @torch.no_grad()
    def metric_sums(self, stack: Stack, batch: Batch) -> Stacked:
        """Metrics of every trial."""
        metrics: Stacked = self._metrics(stack.model, batch)
        return metrics

    def padded(self, rows: Sequence[int], held: int) -> list[int]:
        """A lone row twice."""
        return list(rows) if len(rows) > 1 else list(rows) * 2

    def record(self, *, tapped: bool = False) -> None:
        """The next call records."""
        (self._tapped if tapped else self._traced).record()


class CompiledVmapKernel(VmapKernel):
    """The same under torch.compile. Each number of rows is compiled anew, so a pack shrinks by halves only."""

    name = "compiled vmap"

    def __init__(self, trainee: Trainee) -> None:
        super().__init__(trainee)
        # Beyond the limit torch would go on uncompiled, with other bits.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        self._plain = torch.compile(self._eager, dynamic=False)

    def padded(self, rows: Sequence[int], held: int) -> list[int]:
        """As many as the next power of two, filled up with the last row."""
        wanted = max(2, min(held, 1 << (len(rows) - 1).bit_length()))
        return [*rows, *[rows[-1]] * (wanted - len(rows))]


class OneByOneKernel:
    """One trial after another by plain autograd, each on a copy of the model whose tensors are its rows."""

    name = "one by one"
    least = 1
    copies = False

    def __init__(self, trainee: Trainee) -> None:
        self._trainee = trainee
        self._models: list[nn.Module] = []
        self._of: Stacked = {}

    def __call__(self, stack: Stack, batch: Batch, first: Tensor, taps: Stacked) -> Gradients:
        """Gradients of every trial."""
        self._look_at(stack)
        parts = [
            self._one(
                model, stack.dropout_seeds[k], tuple(p[k] for p in batch), first, {n: t[k] for n, t in taps.items()}
            )
            for k, model in enumerate(self._models)
        ]
        return Gradients(
            grads=_stacked([p.grads for p in parts]),
            loss=torch.stack([p.loss for p in parts]),
            statistics=_stacked([p.statistics for p in parts]),
            norms=_stacked([p.norms for p in parts]),
        )

    def _one(self, model: nn.Module, seed: Tensor, batch: Batch, first: Tensor, taps: Stacked) -> Gradients:
        """Gradients of one trial, without the dimension of trials."""
        taps = {n: t.requires_grad_() for n, t in taps.items()}
        weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        loss, (statistics, inputs) = self._trainee.loss(model, model, seed, batch, first, taps)
        wanted = [*weights.values(), *taps.values()]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        norms: Stacked = {}
        if taps and self._trainee.taps:
            tap_grads = dict(zip(taps, grads[len(weights) :], strict=True))
            with torch.no_grad():
                norms = self._trainee.taps.squared_norms(inputs, tap_grads, len(batch[0]))
        own = dict(zip(weights, grads, strict=False))
        detached = {n: s.detach() for n, s in statistics.items()}
        return Gradients(grads=own, loss=loss.detach(), statistics=detached, norms=norms)

    def _look_at(self, stack: Stack) -> None:
        """Point the models at the rows of a stack; its tensors are updated in place or replaced as a whole."""
        tensors = stack.model
        if len(self._models) == len(stack) and all(self._of[n] is t for n, t in tensors.items()):
            return
        self._models = self._models[: len(stack)]
        while len(self._models) < len(stack):
            self._models.append(copy.deepcopy(self._trainee.template))
        for k, model in enumerate(self._models):
            own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for name, tensor in tensors.items():
                own[name].data = tensor[k]
        self._of = tensors

    @torch.no_grad()
    def metric_sums(self, stack: Stack, batch: Batch) -> Stacked:
        """Metrics of every trial."""
        rows = ({n: t[k] for n, t in stack.model.items()} for k in range(len(stack)))
        return _stacked([self._trainee.metric_sums(row, batch) for row in rows])

    def padded(self, rows: Sequence[int], held: int) -> list[int]:
        """Exactly these."""
        return list(rows)

    def record(self, *, tapped: bool = False) -> None:
        """Nothing to prepare."""


KERNELS: dict[str, Callable[[Trainee], Kernel]] = {
    "vmap": VmapKernel,
    "one by one": OneByOneKernel,
    "compiled vmap": CompiledVmapKernel,
}
"""By name. The first is taken unless another is clearly faster."""


def _stacked(rows: Sequence[Stacked]) -> Stacked:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
