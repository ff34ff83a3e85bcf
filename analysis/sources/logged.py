"""What every format of training curves is read into, before batch sizes and units are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

LR_NAME = re.compile(r"(?:^|[/.])(?:lr|learning_rate)(?:-[^/]+(?:/pg\d+)?)?$")
"""Names under which loops log a learning rate: `train/learning_rate`, `lr`, Lightning's `lr-AdamW/pg1`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file.

    Attributes:
        path: where it is.
        content: its bytes.
    """

    path: Path
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What the user called things; None where the format's own names are looked for.

    Attributes:
        metric: the metric wanted.
        run_column, batch_column, steps_column, samples_column: names of columns.
    """

    metric: str | None = None
    run_column: str | None = None
    batch_column: str | None = None
    steps_column: str | None = None
    samples_column: str | None = None

    def refuse(self, file: str, *columns: Literal["run", "batch", "steps", "samples"]) -> None:
        """Refuse names of columns that such a file cannot have.

        Raises:
            ConfigError: one of them was named.
        """
        for column in columns:
            if getattr(self, f"{column}_column"):
                raise ConfigError(f"--{column}-column names a column, and {file} has none for that: leave it out.")

    @property
    def counted(self) -> Literal["steps", "samples"]:
        """What a log counts whose own count is that of steps."""
        return "samples" if self.samples_column else "steps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One metric of one run, in the order in which it was logged.

    Attributes:
        counted: what `counts` counts, optimizer steps taken or samples eaten.
        counts: shape (N,).
        values: shape (N,); nan where the run's value was lost.
    """

    counted: Literal["steps", "samples"]
    counts: FloatArray
    values: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """One run as its log tells it.

    Attributes:
        run: its name; a path where the log gives none.
        files: what it was read from.
        series: by metric.
        facts: what the log says of the whole run: batch_size, lr, seed, unit, and whatever else is constant in it.
        logged_lr: smallest and largest learning rate that it logged along the way; None where it logged none.
        why_no_batch: what the log has in place of a global batch size, for the message that asks for one.
        in_columns: whether its facts may be in columns, which the user could name.
    """

    run: str | Path
    files: tuple[Path, ...]
    series: Mapping[str, Series]
    facts: Mapping[str, object]
    logged_lr: tuple[float, float] | None = None
    why_no_batch: str = ""
    in_columns: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one format's reader returns.

    Attributes:
        runs: in the order of the files.
        rows: file -> records read from it.
        problems: one sentence for each thing left out or taken to mean something.
    """

    runs: Sequence[Logged]
    rows: Mapping[Path, int]
    problems: Sequence[str] = field(default=())


def range_of(rates: Iterable[float]) -> tuple[float, float] | None:
    """Smallest and largest learning rate of those that are numbers; None where none is.

    >>> range_of([0.0, 0.1, float("nan"), 0.05]), range_of([])
    ((0.0, 0.1), None)
    """
    found = [rate for rate in rates if np.isfinite(rate)]
    return (min(found), max(found)) if found else None
