"""A model of the step time: load it, ask it, carry its uncertainty on.

model = StepTimeModel.load("model.json")
model.predict(32, 8, 64).step_time_s                   # arrays broadcast: workers, nodes, worker_batch
model.draws(200, seed=0).step_time_s(32, 8, 64)        # (200,): the same over plausible parameters
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
Numbers = float | npt.ArrayLike


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Step times; every array has the shape to which workers, nodes, worker_batch and accumulation broadcast.

    Attributes:
        step_time_s: seconds of one optimizer step; nan where refused.
        interval: (low, high) [s] at `confidence`, for one measured step time there.
        status: interpolated | extrapolated | refused, of strings.
        reason: one sentence each; empty where interpolated.
        parts: name -> seconds, which add up to step_time_s: compute, communication (what is exposed), straggler.
        confidence: of `interval`.
    """

    step_time_s: FloatArray
    interval: tuple[FloatArray, FloatArray]
    status: npt.NDArray[np.str_]
    reason: npt.NDArray[np.str_]
    parts: Mapping[str, FloatArray]
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Plausible parameters of one group: each draw is one model, the same for every configuration asked of it."""

    parameters: Mapping[str, FloatArray]

    def step_time_s(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> FloatArray:
        """Seconds of a step, shape (n draws, *broadcast shape)."""
        asked = np.broadcast_arrays(*(np.asarray(x, float) for x in (workers, nodes, worker_batch, accumulation_steps)))
        held = {k: v.reshape(-1, *(1,) * asked[0].ndim) for k, v in self.parameters.items()}
        return sum(_parts(held, *asked).values(), np.zeros(()))


def _parts(
    held: Mapping[str, FloatArray | float], workers: FloatArray, nodes: FloatArray, batch: FloatArray, steps: FloatArray
) -> dict[str, FloatArray]:
    compute = steps * held["compute_fixed_s"] + held["compute_per_sample_s"] * batch
    communication = held["transfer_s"] * 2 * (workers - 1) / workers + held["latency_s"] * 2 * (workers - 1)
    return {"compute": compute, "communication": communication, "straggler": np.zeros(np.shape(communication))}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimeModel:
    """Step time against workers, nodes and worker batch, for one group of measurements or several.

    Attributes:
        groups: name -> parameters; the name is empty where there is one group alone.
    """

    groups: Mapping[str, Mapping[str, float]]

    @classmethod
    def by_hand(
        cls, *, compute_fixed_s: float, compute_per_sample_s: float, transfer_s: float = 0.0, latency_s: float = 0.0
    ) -> StepTimeModel:
        """A model of known numbers: a ring over all workers, no overlap, no uncertainty."""
        given = {
            "compute_fixed_s": compute_fixed_s,
            "compute_per_sample_s": compute_per_sample_s,
            "transfer_s": transfer_s,
            "latency_s": latency_s,
        }
        return cls(groups={"": given})

    @classmethod
    def load(cls, path: str | Path) -> StepTimeModel:
        """Read what `save` wrote.

        Raises:
            ConfigError: no such file, or not a model of step times.
        """
        try:
            return cls(groups=json.loads(Path(path).read_text())["groups"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a model of step times ({error}): make one with `simulate fit`") from None

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps({"groups": {k: dict(v) for k, v in self.groups.items()}}, indent=1) + "\n")

    def predict(
        self,
        workers: Numbers,
        nodes: Numbers,
        worker_batch: Numbers,
        accumulation_steps: Numbers = 1,
        *,
        group: str | None = None,
    ) -> Prediction:
        """Step times there.

        Args:
            workers: data-parallel workers.
            nodes: machines that they are spread over evenly.
            worker_batch: samples a worker eats in a step: micro-batch x accumulation steps.
            accumulation_steps: micro-batches of a step.
            group: which one, where there are several.

        Raises:
            ConfigError: workers, nodes or batch that cannot be, or an unknown group.
        """
        asked = np.broadcast_arrays(*(np.asarray(x, float) for x in (workers, nodes, worker_batch, accumulation_steps)))
        parts = _parts(self._group(group), *asked)
        total = sum(parts.values(), np.zeros(()))
        shape = np.shape(total)
        return Prediction(
            step_time_s=total,
            interval=(total, total),
            status=np.full(shape, "interpolated"),
            reason=np.full(shape, ""),
            parts=parts,
            confidence=0.9,
        )

    def draws(self, n: int, seed: int, *, group: str | None = None) -> Draws:
        """Plausible parameters, `n` of them."""
        return Draws(parameters={k: np.full(n, v) for k, v in self._group(group).items()})

    def _group(self, name: str | None) -> Mapping[str, float]:
        if name is None and len(self.groups) == 1:
            return next(iter(self.groups.values()))
        if name is None or name not in self.groups:
            raise ConfigError(f"the model has the groups {', '.join(self.groups)}: name one of them, got {name!r}")
        return self.groups[name]
