"""Step times of one group of measurements: several fitted forms, weighed, and how far from what was measured they are.

No form is the true one. Each keeps its weight, so that where they part ways, beyond the measurements, the interval
widens; on top of that the truth is taken to wander off from any form by a random walk, `drift` per doubling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.simulate.bounded_normal import bounded_normal
from scaleexp.simulate.collectives import Parallelism, volume_ratio
from scaleexp.simulate.forms import HIGHEST, LOWEST, Form, Rows, parts

FloatArray = npt.NDArray[np.float64]
Numbers = float | npt.ArrayLike

MOST_DOUBLINGS = 4.0
"""Further than 16 times beyond what was measured nothing is predicted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a group was fitted to.

    Attributes:
        rows: how many.
        workers, nodes, micro_batch: (least, most); micro_batch is the worker batch over its accumulation steps.
        node_counts: distinct counts of two nodes or more.
        grad_bytes: of a volume of 1; None where it was not said.
        parallelism: of it.
    """

    rows: int
    workers: tuple[float, float]
    nodes: tuple[float, float]
    micro_batch: tuple[float, float]
    node_counts: int
    grad_bytes: float | None = None
    parallelism: Parallelism = "ddp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One form: its weight, the error it made on rows held out (nan where none could be), parameters, covariance."""

    form: Form
    weight: float
    error: float
    theta: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupModel:
    """All forms of one group.

    Attributes:
        members: forms; weights add up to 1.
        spread: standard deviation of log step times about the forms.
        drift: likewise of the drift for each doubling beyond the measured workers or micro-batch.
        node_drift: for each doubling beyond the measured nodes.
        measured: what it was fitted to; None for numbers given by hand.
    """

    members: tuple[Member, ...]
    spread: float
    drift: float
    node_drift: float
    measured: Measured | None

    def parts(self, rows: Rows) -> dict[str, FloatArray]:
        """Weighted means of the forms' seconds, by part."""
        found: dict[str, FloatArray] = {}
        rows = self.told(rows)
        for member in self.members:
            own = parts(member.theta, rows, member.form.design(rows))
            for name in ("compute", "communication", "straggler"):
                found[name] = found.get(name, 0.0) + member.weight * getattr(own, name)
        return found

    def told(self, rows: Rows) -> Rows:
        """The configurations whose communication the data tell of.

        Where one count of nodes above one was measured, more workers came with more of them on a node, and growth with
        nodes is not in the data: more nodes communicate like the measured ones with as many workers on each.
        """
        m = self.measured
        if m is None or m.node_counts != 1:
            return rows
        nodes = np.minimum(rows.nodes, m.nodes[1])
        workers = rows.workers * nodes / rows.nodes
        return Rows(**{name: getattr(rows, name) for name in Rows.__slots__} | {"workers": workers, "nodes": nodes})

    def drawn(self, n: int, rng: np.random.Generator) -> Drawn:
        """`n` plausible models: a form by its weight, parameters by their covariance, a drift."""
        chosen = rng.choice(len(self.members), size=n, p=[m.weight for m in self.members])
        thetas = []
        for index, member in enumerate(self.members):
            count = int((chosen == index).sum())
            low = np.concatenate([LOWEST, np.zeros(len(member.theta) - len(LOWEST))])
            high = np.concatenate([HIGHEST, np.full(len(member.theta) - len(HIGHEST), np.inf)])
            thetas.append(bounded_normal(member.theta, member.covariance, low, high, count, rng))
        return Drawn(group=self, thetas=tuple(thetas), walks=rng.standard_normal((2, n)))

    def doublings(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """(Of workers and micro-batch, of nodes) beyond what was measured, on either side."""
        if self.measured is None:
            return np.zeros(rows.workers.shape), np.zeros(rows.workers.shape)
        m, micro = self.measured, rows.worker_batch / rows.accumulation_steps
        return _beyond(rows.workers, m.workers) + _beyond(micro, m.micro_batch), _beyond(rows.nodes, m.nodes)

    def rows(
        self,
        workers: Numbers,
        nodes: Numbers,
        worker_batch: Numbers,
        accumulation_steps: Numbers,
        grad_bytes: Numbers | None = None,
        parallelism: Parallelism | None = None,
    ) -> Rows:
        """Configurations with the bytes they move, over those of the reference."""
        asked = (workers, nodes, worker_batch, accumulation_steps, 1.0 if grad_bytes is None else grad_bytes)
        p, n, batch, k, size = np.broadcast_arrays(*(np.asarray(x, float) for x in asked))
        reference = self.measured.grad_bytes if self.measured else None
        own = self.measured.parallelism if self.measured else "ddp"
        size = size / reference if reference and grad_bytes is not None else np.ones(p.shape)
        volume = size * volume_ratio(parallelism or own, k)
        return Rows(workers=p, nodes=n, worker_batch=batch, accumulation_steps=k, volume=volume)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Plausible models of one group; each is the same for every configuration asked of it."""

    group: GroupModel
    thetas: tuple[FloatArray, ...]
    walks: FloatArray

    def steps(self, rows: Rows) -> FloatArray:
        """Mean seconds of a step there, shape (n draws, *rows)."""
        told = self.group.told(rows)
        found = np.concatenate(
            [
                _about(theta, told, member)
                for theta, member in zip(self.thetas, self.group.members, strict=True)
                if theta.shape[1]
            ]
        )
        far, nodes = self.group.doublings(rows)
        walk = self.walks.reshape(2, -1, *(1,) * rows.workers.ndim)
        return np.asarray(
            found * np.exp(walk[0] * self.group.drift * np.sqrt(far) + walk[1] * self.group.node_drift * np.sqrt(nodes))
        )


def _about(theta: FloatArray, rows: Rows, member: Member) -> FloatArray:
    """Steps of the draws, put about the fit: drawing only coefficients >= 0 would shift them all upwards."""
    design = member.form.design(rows)
    drawn = np.log(parts(theta, rows, design).total)
    return np.asarray(np.exp(drawn - drawn.mean(axis=0)) * parts(member.theta, rows, design).total)


def _beyond(value: FloatArray, held: Sequence[float]) -> FloatArray:
    return np.maximum(np.log2(value / held[1]), 0.0) + np.maximum(np.log2(held[0] / value), 0.0)


def judged(group: GroupModel, rows: Rows) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """(Status, reason) of every configuration."""
    held = zip(
        *(x.ravel().tolist() for x in (rows.workers, rows.nodes, rows.worker_batch / rows.accumulation_steps)),
        strict=True,
    )
    found = [_judged(group.measured, *asked) for asked in held]
    status, reason = (np.array([pair[i] for pair in found], dtype=str).reshape(rows.workers.shape) for i in (0, 1))
    return status, reason


def _judged(measured: Measured | None, workers: float, nodes: float, micro_batch: float) -> tuple[str, str]:
    if measured is None:
        return "interpolated", ""
    if nodes > 1 and measured.nodes[1] == 1:
        return "refused", f"{nodes:g} nodes, and nothing was measured between nodes: measure two nodes or more"
    asked = {
        "workers": (workers, measured.workers),
        "nodes": (nodes, measured.nodes),
        "samples a micro-batch": (micro_batch, measured.micro_batch),
    }
    outside = [
        (float(_beyond(np.array(value), held)), f"{value:g} {name}, measured {_range(held)}")
        for name, (value, held) in asked.items()
        if not held[0] <= value <= held[1]
    ]
    if not outside:
        return "interpolated", ""
    said = "; ".join(text for _, text in outside)
    if nodes > measured.nodes[1] and measured.node_counts == 1:
        said += "; one count of nodes was measured, so communication is taken not to grow with nodes: measure another"
    if max(far for far, _ in outside) > MOST_DOUBLINGS:
        return "refused", f"more than {2**MOST_DOUBLINGS:g} times outside what was measured: {said}"
    return "extrapolated", said


def _range(held: tuple[float, float]) -> str:
    return f"{held[0]:g}" if held[0] == held[1] else f"{held[0]:g} to {held[1]:g}"
