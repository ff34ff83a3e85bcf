"""The forms that a step time may take, and their derivatives; which one holds is for measurements to say.

With C = a k + c m the computation of k micro-batches and m samples, E_p the expected maximum of p normals, W the part
of the last micro-batch that communication may hide behind, and N the communication:

    step = C (1 + jitter E_p) - W + (W^g + N^g)^(1/g),   W = overlap C (1 + jitter E_p) / k

Forms differ in N, a sum of terms with coefficients >= 0, a set of them for each regime: workers on one node, on two, on
more. Two nodes may have terms of their own: a ring over two nodes passes each link twice, and libraries change their
algorithm there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.simulate.collectives import expected_maximum

FloatArray = npt.NDArray[np.float64]

COMMON = ("compute_fixed_s", "compute_per_sample_s", "jitter", "overlap", "sharpness")
LOWEST = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
HIGHEST = np.array([np.inf, np.inf, 0.5, 1.0, 10.0])

Term = Callable[[FloatArray, FloatArray], FloatArray]

_TERMS: Mapping[str, Term] = {
    "pipelined": lambda p, n: np.ones_like(p),  # 2 V / bandwidth of a tree: the same for any p
    "ring": lambda p, n: 2 * (p - 1) / p,
    "hops": lambda p, n: 2 * (p - 1),  # latency of a ring
    "depth": lambda p, n: 2 * np.log2(p),  # latency of a tree
    "sides": lambda p, n: 4 * (np.sqrt(p) - 1),  # latency of two rings, along the sides of a square of workers
    "slowest": lambda p, n: expected_maximum(p),  # the last of p links
    "node_ring": lambda p, n: 2 * (n - 1) / n,
    "node_hops": lambda p, n: 2 * (n - 1),
    "local_ring": lambda p, n: 2 * (p / n - 1) / (p / n),
}
TRANSFERS = frozenset({"pipelined", "ring", "node_ring", "local_ring"})
"""Terms that grow with the bytes moved; the others are latencies."""
COUNTED = ("ring", "node_ring", "pipelined")
"""Of the terms of one regime the one that all bytes between workers, or nodes, are expected in: the first it has."""

FORMS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ring": (("ring", "hops"), ("pipelined", "ring", "hops")),
    "linear": (("pipelined", "hops"), ("pipelined", "hops")),  # as in AdaptDL
    "tree": (("pipelined", "depth"), ("pipelined", "depth")),
    "torus": (("pipelined", "sides"), ("pipelined", "sides")),
    "waiting": (("ring", "slowest"), ("pipelined", "ring", "slowest")),
    "hierarchical": (("ring",), ("node_ring", "node_hops", "local_ring")),
}
"""Name -> terms of N on one node, between nodes."""
_TWO = ("pipelined", "ring", "depth")
_TYPICAL = (16.0, 4.0)
"""Workers and nodes at which terms are put on one scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Configurations, as arrays of one shape.

    Attributes:
        workers, nodes: of the job.
        worker_batch: samples a worker eats in a step.
        accumulation_steps: micro-batches of a step.
        volume: bytes moved, over those of the reference.
    """

    workers: FloatArray
    nodes: FloatArray
    worker_batch: FloatArray
    accumulation_steps: FloatArray
    volume: FloatArray

    def __getitem__(self, kept: npt.NDArray[np.bool_]) -> Rows:
        return Rows(**{name: getattr(self, name)[kept] for name in self.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One form.

    Attributes:
        name: of `FORMS`.
        two_nodes: whether two nodes have terms of their own.
    """

    name: str
    two_nodes: bool

    @property
    def terms(self) -> tuple[str, ...]:
        """regime.term, in the order of the coefficients."""
        inside, between = FORMS[self.name]
        regimes = {"inside": inside, **({"two_nodes": _TWO} if self.two_nodes else {}), "between": between}
        return tuple(f"{regime}.{term}" for regime, terms in regimes.items() for term in terms)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters, in their order."""
        return COMMON + self.terms

    def design(self, rows: Rows) -> FloatArray:
        """Terms of N, shape (terms, *shape of rows)."""
        held = {
            "inside": rows.nodes == 1,
            "two_nodes": rows.nodes == 2,
            "between": rows.nodes > (2 if self.two_nodes else 1),
        }
        return np.array([_column(term, rows, held) for term in self.terms])

    def typical(self) -> FloatArray:
        """Value of each term at a typical size, shape (terms,)."""
        p, n = (np.array(x) for x in _TYPICAL)
        return np.array([float(_TERMS[term.partition(".")[2]](p, n)) for term in self.terms])


def _column(term: str, rows: Rows, held: Mapping[str, npt.NDArray[np.bool_]]) -> FloatArray:
    regime, _, name = term.partition(".")
    volume = rows.volume if name in TRANSFERS else 1.0
    value = volume * _TERMS[name](rows.workers, rows.nodes)
    return np.where(held[regime] & (rows.workers > 1), value, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Seconds of a step, which add up to it, and what their derivatives need."""

    compute: FloatArray
    straggler: FloatArray
    communication: FloatArray
    window: FloatArray
    moved: FloatArray

    @property
    def total(self) -> FloatArray:
        """The step."""
        return self.compute + self.straggler + self.communication


def parts(theta: FloatArray, rows: Rows, design: FloatArray, slowest: FloatArray | None = None) -> Parts:
    """Seconds of a step.

    Args:
        theta: parameters, shape (parameters,) or (parameters, n draws): then every part has shape (n draws, *rows).
        rows: configurations.
        design: of the form, for these rows.
        slowest: E_p of the rows, where it is known already.
    """
    held = theta.reshape(*theta.shape, *(1,) * rows.workers.ndim) if theta.ndim > 1 else theta
    a, c, jitter, overlap, sharpness = held[:5]
    late = expected_maximum(rows.workers) if slowest is None else slowest
    compute = a * rows.accumulation_steps + c * rows.worker_batch
    window = overlap * compute * (1 + jitter * late) / rows.accumulation_steps
    moved = np.tensordot(theta[5:], design, axes=(0, 0))
    most = np.maximum(np.maximum(window, moved), 1e-12)
    together = most * ((window / most) ** sharpness + (moved / most) ** sharpness) ** (1 / sharpness)
    return Parts(
        compute=compute,
        straggler=compute * jitter * late,
        communication=together - window,
        window=window,
        moved=moved,
    )


def gradient(theta: FloatArray, rows: Rows, design: FloatArray, slowest: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(step [s], its derivatives by the parameters, shape (rows, parameters)); rows of one dimension."""
    found = parts(theta, rows, design, slowest)
    jitter, overlap, g = theta[2:5]
    k, late = rows.accumulation_steps, 1 + jitter * slowest
    window, moved = np.maximum(found.window, 1e-12), np.maximum(found.moved, 1e-12)
    together = found.communication + found.window
    most = np.maximum(window, moved)
    by_window = (window / np.maximum(together, 1e-12)) ** (g - 1)
    by_moved = (moved / np.maximum(together, 1e-12)) ** (g - 1)
    powers = (window / most) ** g, (moved / most) ** g
    weighed = (powers[0] * np.log(window / most) + powers[1] * np.log(moved / most)) / (powers[0] + powers[1])
    by_g = together * (weighed / g - np.log(powers[0] + powers[1]) / g**2)
    compute = found.compute
    of_compute = late * (1 - overlap / k * (1 - by_window))
    by = [
        of_compute * k,
        of_compute * rows.worker_batch,
        compute * slowest * (1 - overlap / k * (1 - by_window)),
        compute * late / k * (by_window - 1),
        by_g,
    ]
    return found.total, np.column_stack([*by, *(by_moved * column for column in design)])
