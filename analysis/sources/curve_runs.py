"""Training curves of one metric and one unit, whoever logged them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa

from analysis.sources.files import Kind
from analysis.sources.logged import FloatArray
from scaleexp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One run.

    Attributes:
        run: its name.
        batch_size: global batch [unit].
        workers: 1 unless the log says.
        lr: peak learning rate; 0 where nothing says.
        seed: of the run, or counted through within a batch size and LR.
        group: everything else that is constant in the run: model size, recipe, ...
        samples: at each evaluation [unit], ascending, each once, shape (N,).
        values: of the metric, shape (N,).
        status: as the log says, else "diverged" if a value is not finite, else empty.
    """

    run: str
    batch_size: int
    workers: int
    lr: float
    seed: int
    group: Mapping[str, str | float | int]
    samples: FloatArray
    values: FloatArray
    status: str

    def with_seed(self, seed: int) -> Self:
        """The same run under another seed."""
        return replace(self, seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadFile:
    """Where curves come from: `rows` records of the file `path`, which has this sha256 and is of this kind."""

    path: str
    kind: Kind
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """The runs of one or more files.

    Attributes:
        metric: what the values are of.
        unit: what batch sizes and samples count: example, token, ...
        runs: in the order of the files.
        provenance: the files.
        problems: one sentence for each thing left out, or taken to mean something.
    """

    metric: str
    unit: str
    runs: tuple[Curve, ...]
    provenance: tuple[ReadFile, ...]
    problems: tuple[str, ...]

    def table(self) -> pa.Table:
        """A long table of every evaluation, which `read_curves` reads back to the same."""
        rows = [curve.samples.size for curve in self.runs]
        of_run = {
            name: [getattr(curve, name) for curve in self.runs]
            for name in ("run", "batch_size", "workers", "lr", "seed", "status")
        }
        for name in dict.fromkeys(key for curve in self.runs for key in curve.group):
            cells = [curve.group.get(name) for curve in self.runs]
            text = any(isinstance(cell, str) for cell in cells)
            of_run[name] = [None if cell is None else str(cell) if text else cell for cell in cells]
        which = np.repeat(np.arange(len(rows)), rows)
        columns = {name: pa.array(cells).take(which) for name, cells in of_run.items()}
        for name, own in (("samples", "samples"), ("value", "values")):
            columns[name] = pa.array(np.concatenate([getattr(curve, own) for curve in self.runs]))
        return pa.table(columns | {"unit": pa.array([self.unit] * which.size)})


def split(curves: Curves, columns: Sequence[str]) -> tuple[tuple[dict[str, str | float | int], Curves], ...]:
    """The runs apart by the values of group columns.

    Raises:
        ConfigError: a run lacks one of the columns.
    """
    groups: dict[tuple[str | float | int, ...], list[Curve]] = {}
    for curve in curves.runs:
        lacking = [name for name in columns if name not in curve.group]
        if lacking:
            there = f"name one of {', '.join(curve.group)}, or " if curve.group else ""
            raise ConfigError(
                f"run {curve.run} has no {lacking[0]!r} to group by: {there}give it in a column of that name or by "
                "--run-pattern."
            )
        groups.setdefault(tuple(curve.group[name] for name in columns), []).append(curve)
    return tuple(
        (dict(zip(columns, values, strict=True)), replace(curves, runs=tuple(of_group)))
        for values, of_group in groups.items()
    )
