"""How many examples a framework's batch holds, whatever it is made of, and how many samples an example is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from scaleexp.errors import ConfigError


def examples_in(batch: Any) -> int:  # noqa: ANN401  # of any data set
    """First dimension of the first tensor in it.

    Raises:
        ConfigError: it holds no tensor.

    >>> import torch
    >>> examples_in({"labels": torch.zeros(3), "x": [torch.zeros(3, 2)]})
    3
    """
    found = _first(batch)
    if found is None or found.ndim == 0:
        raise ConfigError(f"a batch of type {type(batch).__name__} holds no tensor whose first dimension is examples.")
    return len(found)


def samples_per_example(unit: str | None, tokens_per_example: int | None) -> int:
    """What an example counts as: its tokens where they are the unit, else one.

    Raises:
        ConfigError: unit token without its number, or the number with another unit.

    >>> samples_per_example("token", 512), samples_per_example("example", None), samples_per_example(None, None)
    (512, 1, 1)
    """
    if (unit == "token") != (tokens_per_example is not None):
        raise ConfigError("ScaleexpCallback: unit='token' goes with tokens_per_example=, and neither without both.")
    return tokens_per_example or 1


def _first(batch: Any) -> Tensor | None:  # noqa: ANN401  # of any data set
    if isinstance(batch, Tensor):
        return batch
    parts: Sequence[Any] = ()
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        parts = batch
    return next((found for part in parts if (found := _first(part)) is not None), None)
