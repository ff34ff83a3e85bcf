"""Optimizers on stacked parameters: K trials side by side, each with its own learning rate.

Every tensor has shape (K, ...): K independent copies of one parameter. Updates are in place and elementwise over K, so
no trial can touch another, and they follow torch.optim's conventions exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from scaleexp.errors import ConfigError


class Optimizer(Protocol):
    """State of K trials' optimizer."""

    def update(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """One step in place; `lr` has shape (K,)."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop every trial but these rows, shape (K',)."""
        ...


def _per_trial(lr: Tensor, like: Tensor) -> Tensor:
    """(K,) -> (K, 1, ..., 1), so that it multiplies a stacked parameter trial by trial."""
    return lr.to(like.dtype).view(-1, *([1] * (like.dim() - 1)))


class SGD:
    """Stochastic gradient descent: v <- momentum v + g; x <- x - lr v, or lr (g + momentum v) with Nesterov.

    Weight decay adds weight_decay x to g, as in torch.optim.SGD (dampening 0).
    """

    def __init__(
        self, params: Sequence[Tensor], *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        self._momentum, self._nesterov, self._weight_decay = momentum, nesterov, weight_decay
        self._velocity = [torch.zeros_like(p) for p in params] if momentum else []

    @torch.no_grad()
    def update(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """One step in place."""
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if self._weight_decay:
                g = g + self._weight_decay * p
            if self._momentum:
                v = self._velocity[i].mul_(self._momentum).add_(g)
                g = g + self._momentum * v if self._nesterov else v
            p.addcmul_(g, _per_trial(lr, p), value=-1.0)

    def keep(self, rows: Tensor) -> None:
        """Drop every trial but these rows."""
        self._velocity = [v[rows].clone() for v in self._velocity]


class AdamW:
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019, arXiv:1711.05101).

    x <- (1 - lr weight_decay) x - lr m_hat / (sqrt(v_hat) + eps), as in torch.optim.AdamW.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self._beta1, self._beta2, self._eps, self._weight_decay = beta1, beta2, eps, weight_decay
        self._first = [torch.zeros_like(p) for p in params]
        self._second = [torch.zeros_like(p) for p in params]
        self._steps = 0

    @torch.no_grad()
    def update(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """One step in place."""
        self._steps += 1
        correction1 = 1.0 - self._beta1**self._steps
        correction2 = 1.0 - self._beta2**self._steps
        for p, g, m, v in zip(params, grads, self._first, self._second, strict=True):
            rate = _per_trial(lr, p)
            p.mul_(1.0 - rate * self._weight_decay)
            m.mul_(self._beta1).add_(g, alpha=1.0 - self._beta1)
            v.mul_(self._beta2).addcmul_(g, g, value=1.0 - self._beta2)
            p.sub_(rate / correction1 * m / ((v / correction2).sqrt_().add_(self._eps)))

    def keep(self, rows: Tensor) -> None:
        """Drop every trial but these rows."""
        self._first = [m[rows].clone() for m in self._first]
        self._second = [v[rows].clone() for v in self._second]


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"sgd": SGD, "adamw": AdamW}


def make_optimizer(spec: Mapping[str, Any], params: Sequence[Tensor]) -> Optimizer:
    """The optimizer of a study: `{"name": "sgd", "momentum": 0.9}` on these stacked parameters.

    Raises:
        ConfigError: an unknown name.
    """
    options = {k: v for k, v in spec.items() if k != "name"}
    if spec["name"] not in OPTIMIZERS:
        raise ConfigError(f"optimizer is {spec['name']!r}: choose one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[spec["name"]](params, **options)
