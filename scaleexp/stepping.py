"""What a script says of its steps and evaluations: checked, as numbers, and until it can be logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from scaleexp.errors import ConfigError
from scaleexp.trial_context import TrialContext


class Step(NamedTuple):
    """A step whose loss may still be under way on a device; its number, learning rate, loss and wall time [seconds]."""

    step: int
    lr: float
    loss: torch.Tensor | float
    step_s: float


class Evaluation(NamedTuple):
    """Metrics after a step that is not logged yet; how long that took [seconds]."""

    step: int
    values: Mapping[str, float]
    eval_s: float


def check_step(
    trial: TrialContext, taken: int, *, loss: object, batch_size: int | None, step: int | None, alone: bool
) -> None:
    """Refuse a step of another batch size than the trial's, or another step than the one after `taken`.

    Raises:
        ConfigError: it is one, or says nothing of its batch size or its loss.
    """
    call = f"and got none after step {taken}: give run.step(loss=..., batch_size={trial.batch_size})."
    if batch_size is None:
        raise ConfigError(
            f"run.step needs batch_size=, the samples that all workers ate in this step, {call} It is stated, never "
            "guessed."
        )
    if loss is None:
        raise ConfigError(f"run.step needs loss=, the mean loss of this process's part of the batch, {call}")
    if batch_size != trial.batch_size:
        said = "stated" if alone else "planned"
        raise ConfigError(
            f"Step {taken + 1} ate {batch_size!r} samples and {trial.batch_size} were {said}: train on "
            f"{trial.batch_size} over all workers in every step, and drop a last batch that is smaller."
        )
    if step is not None and step != taken + 1:
        way = "went backwards" if step <= taken else "left steps out"
        raise ConfigError(
            f"run.step {way}: got step {step} after step {taken}. Call it once per optimizer step, and "
            "run.resume(step) after going back to a checkpoint."
        )


def number_of(loss: object) -> torch.Tensor | float:
    """A loss that need not be waited for as a number, and any other as a tensor that holds no graph."""
    if isinstance(loss, torch.Tensor):
        if loss.numel() != 1:
            raise ConfigError(f"run.step got a loss of shape {tuple(loss.shape)}: give its mean over the batch.")
        return float(loss.detach()) if loss.device.type == "cpu" else loss.detach()
    return value_of("loss", loss)


def value_of(name: str, value: Any) -> float:  # noqa: ANN401  # whatever a script gives
    """A metric as a number.

    >>> value_of("val_loss", torch.tensor(0.5))
    0.5
    """
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{name} is {value!r}: give a number, or a tensor of one.") from None
