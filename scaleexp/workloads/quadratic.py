"""The noisy quadratic model (Zhang et al. 2019, arXiv:1907.04164): its expected loss is known in closed form.

Loss of sample s at x in R^d: 1/2 sum_i h_i x_i^2 + sum_i sqrt(c_i) z_si x_i with z ~ N(0, I) drawn by counter, so its
gradient is exactly h x + sqrt(c) z: it runs through every engine as any model does. Curvatures are h_i = i^-decay and
c_i = noise h_i; x starts at 1 in every coordinate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from scaleexp.errors import ConfigError
from scaleexp.sampling import counter_normals
from scaleexp.workloads.base import Batch, Direction, Forward, Gather

_NUMBERS_AHEAD, _SEEDS_AHEAD = 1 << 14, 256
"""Noise that is drawn ahead for a data seed, 128 kB, and for how many of them: at most 32 MB."""


class _Point(nn.Module):
    """The parameter x; called with one row of weights per sample it gives their inner products with x."""

    def __init__(self, dimensions: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(dimensions, dtype=dtype))

    def forward(self, rows: Tensor, squared: bool = False) -> Tensor:
        """Rows (B, d) -> rows @ x, or rows @ x^2 when squared; shape (B,)."""
        return rows @ (self.x * self.x if squared else self.x)


class Quadratic:
    """The noisy quadratic.

    Args:
        dimensions: d.
        decay: h_i = i^-decay.
        noise: c_i = noise h_i, the variance of the per-sample gradient.

    Raises:
        ConfigError: no dimensions, or a negative or non-finite noise or decay.
    """

    unit: Literal["example", "token"] = "example"
    metrics: Mapping[str, Direction] = {"expected_loss": "min"}
    couples_examples = False
    random = False
    n_train: int | None = None
    n_eval = 1

    def __init__(
        self, *, dimensions: int = 100, decay: float = 1.0, noise: float = 1.0, dtype: torch.dtype = torch.float32
    ) -> None:
        if not isinstance(dimensions, int) or dimensions < 1:
            raise ConfigError(f"workload.dimensions is {dimensions!r}: give a whole number of at least 1")
        for name, value in (("decay", decay), ("noise", noise)):
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ConfigError(f"workload.{name} is {value!r}: give a number of at least 0")
        self._dtype = dtype
        h = np.arange(1, dimensions + 1, dtype=np.float64) ** -float(decay)
        self._h = torch.from_numpy(h).to(dtype)
        self._sqrt_c = np.sqrt(noise * h)
        self._rows_ahead = max(1, _NUMBERS_AHEAD // dimensions)
        self._ahead: dict[
            int, tuple[int, Tensor]
        ] = {}  # by data seed: index of the first sample, and the rows from it on
        self.data_sha256 = hashlib.sha256(f"quadratic {dimensions} {decay!r} {noise!r}".encode()).hexdigest()

    def model(self, init_seed: int) -> nn.Module:
        """X = 1: the start is the same for every seed."""
        return _Point(len(self._h), self._dtype)

    def batch(self, data_seed: int, start: int, stop: int) -> Batch:
        """Scaled noise sqrt(c) z of each sample, shape (B, d); of small batches drawn ahead, for few cost like many."""
        if stop - start >= self._rows_ahead:
            return (self._noise(data_seed, start, stop),)
        first, held = self._ahead.get(data_seed, (0, None))
        if held is None or start < first or stop > first + len(held):
            if len(self._ahead) >= _SEEDS_AHEAD:
                self._ahead.clear()
            first, held = start, self._noise(data_seed, start, start + self._rows_ahead)
            self._ahead[data_seed] = (first, held)
        return (held[start - first : stop - first],)

    def _noise(self, data_seed: int, start: int, stop: int) -> Tensor:
        z = counter_normals(start, stop, len(self._h), seed=data_seed)
        return torch.from_numpy(z * self._sqrt_c).to(self._dtype)

    def loss(self, forward: Forward, batch: Batch, gather: Gather) -> Tensor:
        """Mean over the samples of 1/2 h x^2 + sqrt(c) z x."""
        (noise,) = batch
        return 0.5 * forward(self._h[None, :], squared=True).sum() + forward(noise).mean()

    def eval_batch(self, start: int, stop: int) -> Batch:
        """The curvatures: the expected loss needs no sample."""
        return (self._h[None, :][start:stop],)

    def metric_sums(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Expected loss 1/2 sum h x^2."""
        (h,) = batch
        return {"expected_loss": 0.5 * forward(h, squared=True).double().sum()}
