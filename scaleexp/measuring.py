"""Which steps of a loop measure gradient norms: at a cadence stated, on record, or found by timing some steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from scaleexp.engines.choose import cadence
from scaleexp.errors import ConfigError
from scaleexp.ranks import Ranks
from scaleexp.trial_context import TrialContext
from scaleexp.watching import LossScaler, Watch

COLD = 2.0
"""In a step, where gradients push other things out of the caches, measuring took 1.7 times what it takes by itself."""
TIMED = 5
"""Steps that are timed to find a cadence, after the first one."""


class Measuring:
    """A watched model, and which of its steps are measured.

    Args:
        watch: hooks on the model.
        every: steps from one measurement to the next; None where timing is to decide it.
        per_layer: whether the norms of every parameter are kept.

    Attributes:
        armed: whether the step that comes is measured.
        every: of the arguments, and once it is decided, what it is.
    """

    def __init__(self, watch: Watch, *, every: int | None, per_layer: bool) -> None:
        self.watch, self.every, self.per_layer = watch, every, per_layer
        self.armed = False
        self._times: list[float] = []

    def prepare(self, taken: int) -> None:
        """Arm the hooks if the step after `taken` steps is one to measure."""
        self.armed = self.every is not None and not self.watch.unresolved and taken % self.every == 0
        if self.armed:
            self.watch.arm()

    def timed(self, step_s: float) -> bool:
        """Whether enough plain steps were timed to decide on a cadence; the first one is not like the others."""
        if self.every is not None or self.watch.unresolved:
            return False
        self._times.append(step_s)
        return len(self._times) > TIMED

    def decide(self, ranks: Ranks) -> Mapping[str, float]:
        """Fix the cadence by what rank 0 measured; what it rests on. Every process calls this."""
        plain_s = min(self._times[1:])  # on a busy machine plain steps would look long, and measuring cheap
        extra_s = COLD * self.watch.seconds()
        own = float(cadence(plain_s, plain_s + extra_s)) if ranks.rank == 0 else 0.0
        (agreed,) = ranks.summed([own])
        self.every = max(1, round(agreed))
        return {"plain_s": plain_s, "measuring_s": plain_s + extra_s, "noise_cost": extra_s / (plain_s * self.every)}

    @property
    def realisation(self) -> dict[str, object]:
        """What commits say of it."""
        said: dict[str, object] = {"noise_shards": self.watch.shards, "reduced_by": self.watch.kind}
        if self.watch.unresolved:
            said["noise_unresolved"] = self.watch.unresolved
        elif self.every is not None:
            said["noise_every_steps"] = self.every
        return said


def measuring_of(
    model: nn.Module, trial: TrialContext, *, every: int | None, scaler: LossScaler | None, per_layer: bool
) -> Measuring:
    """Hooks on a trial's model, at a cadence that is stated, that of its study, or one that is to be timed.

    Raises:
        ConfigError: a cadence that is none, a model that is not wrapped yet, or workers that are not the model's.
    """
    if every is not None and every < 1:
        raise ConfigError(f"run.watch got every={every}: it is a number of steps, 1 or more.")
    watch = Watch(model, accumulation_steps=trial.accumulation_steps, workers=trial.workers, scaler=scaler)
    if every is None and trial.noise_every_samples is not None:
        every = max(1, math.ceil(trial.noise_every_samples / trial.batch_size))
    return Measuring(watch, every=every, per_layer=per_layer)


def synchronised(loss: object) -> None:
    """Wait for the device of a loss: a time taken after it is that of the work, not of its launch."""
    if isinstance(loss, torch.Tensor) and loss.device.type == "cuda":
        torch.cuda.synchronize(loss.device)
