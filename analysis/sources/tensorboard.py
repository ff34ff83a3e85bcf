"""TensorBoard event files: a directory that holds some is one run, whose files are its attempts one after another.

Scalars of `simple_value`, as most writers store them, are float32: a value of 0.1 comes back as 0.10000000149011612.
What was written in double precision (a scalar tensor) comes back as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.sources.logged import LR_NAME, Logged, Named, Reading, Series, Source, range_of
from analysis.sources.tfevents import Scalar, scalars


def read(sources: Sequence[Source], named: Named) -> Reading:
    """One run per directory, each scalar tag a metric of it.

    Raises:
        ConfigError: a column was named, and an event file has none.
    """
    named.refuse("a TensorBoard event file", "run", "batch", "steps", "samples")
    by_run: dict[Path, list[Source]] = {}
    for source in sources:
        by_run.setdefault(source.path.parent, []).append(source)
    runs, rows, problems = [], {}, []
    for run, files in by_run.items():
        found: list[Scalar] = []
        for source in sorted(files, key=lambda file: file.path.name):  # the name begins with the time of its start
            here, rows[source.path], said = scalars(source.content)
            problems += [f"{source.path}: {sentence}." for sentence in said]
            found += here
        paths = tuple(source.path for source in files)
        rates = range_of(_in_digits(scalar.value) for scalar in found if LR_NAME.search(scalar.tag))
        runs.append(Logged(run=run, files=paths, series=_series(found), facts={}, logged_lr=rates, in_columns=False))
    return Reading(runs=runs, rows=rows, problems=problems)


def _series(found: Sequence[Scalar]) -> dict[str, Series]:
    by_tag: dict[str, list[Scalar]] = {}
    for scalar in found:
        by_tag.setdefault(scalar.tag, []).append(scalar)
    return {
        tag: Series(
            counted="steps",
            counts=np.array([scalar.step for scalar in of_tag], dtype=np.float64),
            values=np.array([scalar.value for scalar in of_tag], dtype=np.float64),
        )
        for tag, of_tag in by_tag.items()
    }


def _in_digits(value: float) -> float:
    """The shortest decimal that single precision stores as this, for it was written as a decimal.

    >>> _in_digits(0.10000000149011612), _in_digits(0.1)
    (0.1, 0.1)
    """
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value
