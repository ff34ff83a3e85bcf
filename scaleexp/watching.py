"""Gradient norms of any PyTorch loop, for the noise scale: hooks on the parameters, and on the end of a backward pass.

A global batch is cut into shards by what the loop does anyway: each of its A accumulated micro-batches on each of its W
workers is one. A hook on a parameter sees the gradient of one backward pass, summed over every use of the parameter and
before it is added to `.grad` or reduced over workers. When the last of the A passes has ended, reduction included,
`.grad` is the mean over all shards; it is read there, before anybody clips it. With h the gradient of a pass as the
hook sees it and s the loss scale,

    m = A sum |h|^2 / (W s^2) over all passes and workers,    M = |.grad|^2 / s^2,

so that m is the mean of |A h|^2, whose mean over shards is `.grad`, whether or not the loop divides its loss by A.

FSDP2 never holds a worker's own gradient of a whole parameter outside of the backward pass. Where it reduces every
micro-batch, the difference of `.grad` from one to the next is that micro-batch's gradient, a shard of all workers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from scaleexp.engines.device_clock import now
from scaleexp.errors import ConfigError
from scaleexp.wrapping import kind_of

_ROW = 1024
"""Numbers whose squares are added in float32: their sum is right to about 1e-8."""


class LossScaler(Protocol):
    """What multiplies a loss before its backward pass: `torch.amp.GradScaler`."""

    def get_scale(self) -> float:
        """The factor now."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Norms:
    """What one process saw in one step; each is to be summed over processes.

    Attributes:
        small: sum of |h|^2 over backward passes, by parameter, over the loss scale squared.
        big: |.grad|^2, likewise; nothing where another process has the same.
        hidden: backward passes that changed no gradient here.
    """

    small: Mapping[str, Tensor]
    big: Mapping[str, Tensor]
    hidden: Tensor


class Watch:
    """Hooks on a model that measure one step when they are armed, and are not there otherwise.

    Args:
        model: as it is trained, wrapped already.
        accumulation_steps: A, backward passes before the optimizer steps.
        workers: W.
        scaler: of the loss, for float16.

    Attributes:
        kind: how gradients are reduced.
        shards: n that a batch is cut into.
        unresolved: why nothing can be measured, in a clause; empty where it can.
        names: of the trained parameters, in the model's order.
        n_parameters: how many numbers these are.

    Raises:
        ConfigError: the model is not wrapped and has several workers, or averages over another number of them.
    """

    def __init__(
        self, model: nn.Module, *, accumulation_steps: int, workers: int, scaler: LossScaler | None = None
    ) -> None:
        self._model = getattr(model, "_orig_mod", model)  # inside of torch.compile
        self._accumulation, self._workers, self._scaler = accumulation_steps, workers, scaler
        self.kind, self.unresolved = kind_of(self._model, workers)
        self._named = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        if not self._named:
            raise ConfigError("run.watch(model) found no parameter that requires a gradient: give the trained model.")
        self.names = list(self._named)
        self.n_parameters = sum(p.numel() for p in self._named.values())
        self.shards = accumulation_steps * (1 if self.kind == "fsdp" else workers)
        if self.shards < 2 and not self.unresolved:
            alone = "FSDP shows the mean over workers only" if self.kind == "fsdp" else "a step is one micro-batch"
            self.unresolved = f"{alone}, so a batch has no parts to compare: set accumulation_steps to 2 or more"
        self._handles: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self._queued, self._passes, self._hidden = False, 0, 0
        self._fired: dict[str, int] = {}
        self._squares: dict[str, list[Tensor]] = {}
        self._before: dict[str, Tensor] = {}
        self._norms: Norms | None = None
        self._empty_passes: list[Tensor] = []

    def arm(self) -> None:
        """Measure the step that comes."""
        self.disarm()
        self._reset()
        if self.kind == "fsdp":
            self._handles = [self._model.register_forward_hook(self._on_forward)]
        else:
            self._handles = [p.register_hook(partial(self._on_gradient, n)) for n, p in self._named.items()]

    def disarm(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def taken(self) -> Norms | str:
        """What the step showed that was armed for, or why it showed nothing."""
        self.disarm()
        passes = self._passes if self.kind == "fsdp" else max(self._fired.values(), default=0)
        if passes != self._accumulation or self._norms is None:
            return (
                f"a step had {passes} backward passes through the model, and accumulation_steps is "
                f"{self._accumulation}: state how many there are"
            )
        return self._norms

    def shard_mean(self, small: float) -> float:
        """M's counterpart m from the sum of squares over all processes."""
        return self._accumulation * small / (1 if self.kind == "fsdp" else self._workers)

    def seconds(self, *, repeats: int = 5) -> float:
        """Seconds that measuring adds to a step on this process; changes nothing."""
        device = next(iter(self._named.values())).device

        def measuring() -> float:
            begin = now(device)
            self.arm()
            for _ in range(self._accumulation):
                for name, p in self._named.items():
                    self._on_gradient(name, _local(p.detach()), queue=False)
            self._finish({n: _local(p.detach()) for n, p in self._named.items()})
            self.disarm()
            took = now(device) - begin
            self._reset()
            return took

        return statistics.median(measuring() for _ in range(repeats))

    # -- what happens in a backward pass ------------------------------------------------------------------------------

    def _on_gradient(self, name: str, gradient: Tensor, *, queue: bool = True) -> None:
        """A parameter's gradient of this pass, not yet accumulated nor reduced."""
        self._squares.setdefault(name, []).append(_square(gradient))
        self._fired[name] = self._fired.get(name, 0) + 1
        if queue:
            self._queue()

    def _on_forward(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401  # of any model
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._queue())

    def _queue(self) -> None:
        """Once a pass: be called when it has ended."""
        if not self._queued and self._handles:
            self._queued = True
            Variable._execution_engine.queue_callback(self._after_pass)

    def _after_pass(self) -> None:
        """Gradients are computed; what reduces them was queued by now, so one more call comes after it."""
        Variable._execution_engine.queue_callback(self._end_of_pass)

    def _end_of_pass(self) -> None:
        self._queued = False
        grads = {n: _local(p.grad.detach()) for n, p in self._named.items() if p.grad is not None}
        if self.kind == "fsdp":
            self._passes += 1
            self._differences(grads)
        elif max(self._fired.values(), default=0) < self._accumulation:
            return
        self._finish(grads)

    def _differences(self, grads: Mapping[str, Tensor]) -> None:
        """What this pass added to the reduced gradients."""
        squares = {n: _square(g - self._before[n] if n in self._before else g) for n, g in grads.items()}
        for name, square in squares.items():
            self._squares.setdefault(name, []).append(square)
        total = torch.stack(list(squares.values())).sum() if squares else torch.zeros((), dtype=torch.float64)
        self._empty_passes.append((total == 0).double())
        if self._passes < self._accumulation:
            self._before = {n: g.clone() for n, g in grads.items()}

    def _finish(self, grads: Mapping[str, Tensor]) -> None:
        """All passes of the step are over: what they showed, without the loss scale."""
        scale = 1.0 / float(self._scaler.get_scale()) ** 2 if self._scaler is not None else 1.0
        hidden = torch.stack(self._empty_passes).sum() if self._empty_passes else torch.zeros(())
        self._norms = Norms(
            small={n: torch.stack(parts).sum() * scale for n, parts in self._squares.items()},
            big={n: _square(g) * scale for n, g in grads.items()},
            hidden=hidden,
        )


def _square(tensor: Tensor) -> Tensor:
    """|x|^2 in float64, shape (); rows of a few numbers in float32 first, which is as exact and 3x faster.

    >>> float(_square(torch.full((3, 1000), 2.0)))
    12000.0
    """
    flat = tensor.reshape(-1)
    rows, single = len(flat) // _ROW, torch.promote_types(flat.dtype, torch.float32)
    whole = torch.linalg.vector_norm(flat[: rows * _ROW].view(rows, _ROW), dim=1, dtype=single).double()
    rest: Tensor = torch.linalg.vector_norm(flat[rows * _ROW :], dtype=torch.float64)
    return rest**2 + whole.square().sum() if rows else rest**2


def _local(tensor: Tensor) -> Tensor:
    """This process's part."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _tensors(output: Any) -> Iterator[Tensor]:  # noqa: ANN401  # of any model
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _tensors(value)


def sum_of(squares: Mapping[str, Tensor]) -> Tensor:
    """Of all parameters, shape ()."""
    return torch.stack(list(squares.values())).sum()


def resolved(small: float, big: float) -> bool:
    """Whether norms are numbers: a loss scale that was too large makes them infinite.

    >>> resolved(1.0, 2.0), resolved(math.inf, math.inf)
    (True, False)
    """
    return math.isfinite(small) and math.isfinite(big)
