"""A model of the step time: load it, ask it, carry its uncertainty on.

model = StepTimeModel.load("model.json")
model.predict(32, 8, 64).step_time_s                   # arrays broadcast: workers, nodes, worker_batch
model.draws(200, seed=0).step_time_s(32, 8, 64)        # (200,): the same over plausible parameters
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError
from scaleexp.simulate.collectives import Parallelism
from scaleexp.simulate.forms import Form, Rows
from scaleexp.simulate.group_model import Drawn, GroupModel, Member, judged
from scaleexp.simulate.model_file import read_model, write_model

FloatArray = npt.NDArray[np.float64]
Numbers = float | npt.ArrayLike

CONFIDENCE = 0.9
_DRAWS = 400
_AT_ONCE = 200_000
"""Draws times configurations held in memory at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Step times; every array has the shape to which workers, nodes, worker_batch and accumulation broadcast.

    Attributes:
        step_time_s: seconds of one optimizer step; nan where refused, as are interval and parts.
        interval: (low, high) [s] at `confidence`, for one measured step time there.
        status: interpolated | extrapolated | refused, of strings.
        reason: a few words each; empty where interpolated.
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
    """Plausible models of one group: each draw is one model, the same for every configuration asked of it."""

    drawn: Drawn

    def step_time_s(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> FloatArray:
        """Mean seconds of a step, shape (n draws, *broadcast shape); what `predict` refuses is not held back here.

        Raises:
            ConfigError: workers, nodes or a batch that cannot be.
        """
        rows = self.drawn.group.rows(workers, nodes, worker_batch, accumulation_steps)
        check(rows)
        return self.drawn.steps(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimeModel:
    """Step time against workers, nodes and worker batch, for one group of measurements or several.

    Attributes:
        groups: name -> model; the name is empty where there is one group alone.
        group_by: columns whose values, joined by " / ", name the groups.
    """

    groups: Mapping[str, GroupModel]
    group_by: tuple[str, ...] = ()

    @classmethod
    def by_hand(
        cls,
        *,
        compute_fixed_s: float,
        compute_per_sample_s: float,
        transfer_s: float = 0.0,
        latency_s: float = 0.0,
        jitter: float = 0.0,
        overlap: float = 0.0,
        sharpness: float = 10.0,
    ) -> StepTimeModel:
        """A model of known numbers: a ring over all workers, on one node as between nodes; no uncertainty.

        step = C (1 + jitter E_p) + what of the ring is not hidden, C = compute_fixed_s x accumulation steps +
        compute_per_sample_s x worker_batch, ring = transfer_s 2 (p - 1) / p + latency_s 2 (p - 1).

        >>> StepTimeModel.by_hand(compute_fixed_s=0.1, compute_per_sample_s=0.01).predict(4, 1, 10).step_time_s.item()
        0.2
        """
        form = Form(name="ring", two_nodes=False)
        ring = {"ring": transfer_s, "hops": latency_s}
        terms = [ring.get(term.partition(".")[2], 0.0) for term in form.terms]
        theta = np.array([compute_fixed_s, compute_per_sample_s, jitter, overlap, sharpness, *terms])
        nothing = np.zeros((len(theta), len(theta)))
        member = Member(form=form, weight=1.0, error=np.nan, theta=theta, covariance=nothing)
        return cls(groups={"": GroupModel(members=(member,), spread=0.0, drift=0.0, node_drift=0.0, measured=None)})

    @classmethod
    def load(cls, path: str | Path) -> StepTimeModel:
        """Read what `save` wrote.

        Raises:
            ConfigError: no such file, or not a model of step times.
        """
        groups, group_by = read_model(Path(path))
        return cls(groups=groups, group_by=group_by)

    def save(self, path: str | Path) -> None:
        """Write it as JSON.

        Raises:
            ConfigError: it cannot be written there.
        """
        write_model(Path(path), self.groups, self.group_by)

    def predict(
        self,
        workers: Numbers,
        nodes: Numbers,
        worker_batch: Numbers,
        accumulation_steps: Numbers = 1,
        *,
        group: str | None = None,
        grad_bytes: Numbers | None = None,
        parallelism: Parallelism | None = None,
    ) -> Prediction:
        """Step times there.

        Args:
            workers: data-parallel workers.
            nodes: machines that they are spread over evenly.
            worker_batch: samples a worker eats in a step: micro-batch x accumulation steps.
            accumulation_steps: micro-batches of a step.
            group: which one, where there are several.
            grad_bytes: of the gradients, where it is not what the group was measured with and that is known.
            parallelism: ddp or fsdp, where it is not what was measured.

        Raises:
            ConfigError: workers, nodes or a batch that cannot be, or an unknown group.
        """
        model = self.group(group)
        rows = model.rows(workers, nodes, worker_batch, accumulation_steps, grad_bytes, parallelism)
        check(rows)
        status, reason = judged(model, rows)
        known = np.where(status == "refused", np.nan, 1.0)
        parts = {name: seconds * known for name, seconds in model.parts(rows).items()}
        low, high = _interval(model, rows)
        total = sum(parts.values(), np.zeros(rows.workers.shape))
        return Prediction(
            step_time_s=total,
            interval=(np.minimum(low * known, total), np.maximum(high * known, total)),
            status=status,
            reason=reason,
            parts=parts,
            confidence=CONFIDENCE,
        )

    def draws(self, n: int, seed: int, *, group: str | None = None) -> Draws:
        """`n` plausible models of a group: a form, its parameters, how the truth drifts beyond what was measured.

        Raises:
            ConfigError: an unknown group.
        """
        return Draws(drawn=self.group(group).drawn(n, np.random.default_rng(seed)))

    def group(self, name: str | None) -> GroupModel:
        """The model of a group; the name may be left out where there is one.

        Raises:
            ConfigError: an unknown group, or none named where there are several.
        """
        if name is None and len(self.groups) == 1:
            return next(iter(self.groups.values()))
        if name is None or name not in self.groups:
            got = "none was" if name is None else f"got {name!r}"
            raise ConfigError(f"the model has the groups {', '.join(self.groups) or 'of no name'}: name one, {got}")
        return self.groups[name]


def check(rows: Rows) -> None:
    """Refuse configurations that cannot be.

    Raises:
        ConfigError: naming the first.
    """
    for name in ("workers", "nodes", "worker_batch", "accumulation_steps"):
        values = np.ravel(getattr(rows, name))
        wrong = ~(np.isfinite(values) & (values > 0) & ((values >= 1) | (name == "worker_batch")))
        if wrong.any():
            raise ConfigError(
                f"{name} must be {'positive' if name == 'worker_batch' else '1 or more'}, got {values[wrong][0]:g}"
            )
    many = np.ravel(rows.nodes > rows.workers)
    if many.any():
        n, p = np.ravel(rows.nodes)[many][0], np.ravel(rows.workers)[many][0]
        raise ConfigError(f"{n:g} nodes cannot share {p:g} workers: every node has one or more")


def _interval(model: GroupModel, rows: Rows) -> tuple[FloatArray, FloatArray]:
    """Ends of the interval of one measured step time, from draws that are the same for whoever asks."""
    flat = Rows(**{name: np.ravel(getattr(rows, name)) for name in Rows.__slots__})
    rng = np.random.default_rng(0)
    drawn = model.drawn(_DRAWS, rng)
    noise = np.exp(model.spread * rng.standard_normal((_DRAWS, 1)))
    ends = [np.zeros((2, 0))]
    for begin in range(0, flat.workers.size, _AT_ONCE // _DRAWS):
        some = np.zeros(flat.workers.size, dtype=bool)
        some[begin : begin + _AT_ONCE // _DRAWS] = True
        tail = (1 - CONFIDENCE) / 2
        ends.append(np.quantile(drawn.steps(flat[some]) * noise, [tail, 1 - tail], axis=0))
    low, high = np.concatenate(ends, axis=1).reshape(2, *rows.workers.shape)
    return low, high
