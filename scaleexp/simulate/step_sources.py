"""Where step times come from when no model was fitted: one measured number, or the peaks of a data sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from scipy.special import ndtri

from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import HardwareProfile, Precision, peak_flop_per_s
from scaleexp.simulate.collectives import expected_maximum, ring_all_reduce_s
from scaleexp.simulate.link_priors import LINK_EFFICIENCY
from scaleexp.simulate.step_time import FloatArray, Numbers, Prediction

CONFIDENCE = 0.95
_Z = float(ndtri(0.5 + CONFIDENCE / 2))

Ranges = Mapping[str, tuple[float, float]]
RANGES: Ranges = {
    "compute_efficiency": (0.1, 0.6),
    "memory_efficiency": (0.5, 0.9),
    "link_efficiency": LINK_EFFICIENCY,
    "exposed_share": (0.1, 1.0),
    "step_jitter": (0.005, 0.05),
    "launch_s": (1e-3, 3e-2),
}
"""What nobody measured, each a range that holds 95 % of what is thought likely: share of the peak arithmetic rate
(Chowdhery et al. 2022, arXiv:2204.02311, table 3, finds 0.21 to 0.46 in four large language models; small ones attain
less), of the peak of memory and links, of the communication that no computation hides, spread of compute time, and
seconds that a pass through a model takes at least, however small it is, because its kernels have to be launched."""
OPTIMIZER_BYTES = 28
"""Moved per parameter by Adam in float32: parameter, gradient and two moments read, all but the gradient written."""
ONE_NUMBER = "one number, taken to hold for every number of workers, so that no communication is counted"
_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


class StepDraws(Protocol):
    """Plausible step times."""

    def step_time_s(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> FloatArray:
        """Seconds of a step, shape (n draws, *broadcast shape)."""


class StepTimes(Protocol):
    """Anything that predicts step times: a fitted `StepTimeModel`, or one of this module."""

    def predict(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> Prediction:
        """Step times at configurations, with intervals, and what they are made of."""

    def draws(self, n: int, seed: int) -> StepDraws:
        """Plausible models, each the same for every configuration asked of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """One measured step time of one worker batch, taken to hold for every number of workers.

    Attributes:
        measured_s: seconds of a step.
        worker_batch: samples of a worker in it.
    """

    measured_s: float
    worker_batch: int

    def predict(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> Prediction:
        """The measured time everywhere; refused at other worker batches."""
        p, b = np.broadcast_arrays(np.asarray(workers, float), np.asarray(worker_batch, float))
        known = b == self.worker_batch
        times = np.where(known, self.measured_s, np.nan)
        return Prediction(
            step_time_s=times,
            interval=(times, times),
            status=np.where(known, "extrapolated", "refused"),
            reason=np.where(known, ONE_NUMBER, f"the step time given is that of a worker batch of {self.worker_batch}"),
            parts={"compute": times, "communication": np.zeros(p.shape), "straggler": np.zeros(p.shape)},
            confidence=CONFIDENCE,
        )

    def draws(self, n: int, seed: int) -> StepDraws:
        """The same number, n times."""
        return _Drawn(
            lambda *asked: np.broadcast_to(self.predict(*asked).step_time_s, (n, *np.broadcast(*asked).shape))
        )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Draws as a function of (workers, nodes, worker_batch, accumulation_steps)."""

    times: Callable[..., FloatArray]

    def step_time_s(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> FloatArray:
        return self.times(*(np.asarray(x, float) for x in (workers, nodes, worker_batch, accumulation_steps)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Roofline:
    """Step times from data-sheet peaks and the ranges above (Williams et al. 2009, CACM 52(4), 65): wide, as they are.

    compute = max(F b / (peak e_c), a 3 P y / (bandwidth e_m), a launch) + 28 P / (bandwidth e_m), with F flops per
    sample, b samples of a worker in a micro-batches, P parameters of y bytes. communication = exposed share of a ring
    all-reduce of the gradient inside the node, then one between nodes, 2 (n - 1) (V / (n bandwidth e_l) + latency)
    each. straggler = compute times jitter times the expected largest of p normals.

    Attributes:
        profile: of the hardware.
        n_parameters: P.
        flops_per_sample: F, forward and backward; 6 P per token of a transformer (Kaplan 2020, arXiv:2001.08361).
        precision: of the matrix products.
        ranges: of what is not known.
    """

    profile: HardwareProfile
    n_parameters: float
    flops_per_sample: float
    precision: Precision
    ranges: Ranges

    def predict(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> Prediction:
        """At the geometric middle of the ranges, with the interval of draws."""
        asked = [np.asarray(x, float) for x in (workers, nodes, worker_batch, accumulation_steps)]
        middle = {name: np.sqrt(low * high) for name, (low, high) in self.ranges.items()}
        parts = self._parts(middle, *np.broadcast_arrays(*asked))
        total = cast(FloatArray, sum(parts.values()))
        low, high = np.quantile(
            self.draws(400, 0).step_time_s(*asked), (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2), axis=0
        )
        ends = self.ranges["compute_efficiency"]
        rate = f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f} % of their rate"
        said = f"a roofline of data-sheet peaks at {rate}: nothing was measured"
        return Prediction(
            step_time_s=total,
            interval=(low, high),
            status=np.full(total.shape, "extrapolated"),
            reason=np.full(total.shape, said),
            parts=parts,
            confidence=CONFIDENCE,
        )

    def draws(self, n: int, seed: int) -> StepDraws:
        """Efficiencies drawn from lognormals that hold 95 % inside their ranges, no larger than what is possible."""
        rng = np.random.default_rng(seed)
        held = {
            name: np.minimum(np.sqrt(low * high) * np.exp(np.log(high / low) / (2 * _Z) * rng.standard_normal(n)), 1.0)
            for name, (low, high) in self.ranges.items()
        }

        def times(*asked: FloatArray) -> FloatArray:
            shape = (n, *(1,) * np.broadcast(*asked).ndim)
            parts = self._parts({name: v.reshape(shape) for name, v in held.items()}, *np.broadcast_arrays(*asked))
            return cast(FloatArray, sum(parts.values()))

        return _Drawn(times)

    def _parts(
        self, held: Mapping[str, FloatArray], p: FloatArray, nodes: FloatArray, b: FloatArray, a: FloatArray
    ) -> dict[str, FloatArray]:
        bandwidth = self.profile.memory_bytes_per_s * held["memory_efficiency"]
        wide = _BYTES[self.precision]
        arithmetic = (
            self.flops_per_sample * b / (peak_flop_per_s(self.profile, self.precision) * held["compute_efficiency"])
        )
        weights = a * 3 * self.n_parameters * wide / bandwidth
        compute = (
            np.maximum(np.maximum(arithmetic, weights), a * held["launch_s"])
            + OPTIMIZER_BYTES * self.n_parameters / bandwidth
        )
        inside, between = np.ceil(p / nodes), nodes
        volume = self.n_parameters * wide
        ring = self._ring("intra_node", volume, inside, held) + self._ring("inter_node", volume / inside, between, held)
        shape = np.broadcast(compute, ring).shape
        return {
            "compute": np.broadcast_to(compute, shape),
            "communication": np.broadcast_to(held["exposed_share"] * ring, shape),
            "straggler": np.broadcast_to(compute * held["step_jitter"] * expected_maximum(p), shape),
        }

    def _ring(self, link: str, volume: FloatArray | float, n: FloatArray, held: Mapping[str, FloatArray]) -> FloatArray:
        """Seconds of a ring all-reduce of `volume` bytes over n; 0 for n = 1, whatever the link."""
        if (n <= 1).all():
            return np.zeros(n.shape)
        rate, latency = (getattr(self.profile, f"{link}_{what}") for what in ("bytes_per_s", "latency_s"))
        if rate is None or latency is None:
            raise ConfigError(
                f"the profile of {self.profile.name} has no {link}_{'bytes_per_s' if rate is None else 'latency_s'}, "
                "which these workers need: copy it, say yours with its source, and give the file to --hardware."
            )
        return ring_all_reduce_s(volume, n, rate * held["link_efficiency"], latency)
