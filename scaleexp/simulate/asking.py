"""Which configurations a prediction is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scaleexp.errors import ConfigError
from scaleexp.simulate.tables import CONFIGURATION, Row, checked_row, group_name

_EXTRA = ("accumulation_steps", "grad_bytes", "parallelism")

Asked = tuple[dict[str, Any], str | None]
"""(Arguments of `StepTimeModel.predict`, the group; None where the model has one alone)."""


def asked_at(text: str, group_by: Sequence[str]) -> Asked:
    """What `workers=32,nodes=8,worker_batch=64,model=bert` asks for.

    >>> asked_at("workers=4, nodes=2, worker_batch=8", [])
    ({'workers': 4.0, 'nodes': 2.0, 'worker_batch': 8.0, 'accumulation_steps': 1.0}, None)

    Raises:
        ConfigError: it is not of that form, or a number cannot be.
    """
    cells: dict[str, str] = {}
    for piece in text.split(","):
        name, sign, value = piece.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise ConfigError(f"--at {text} has {piece!r}: write workers=32,nodes=8,worker_batch=64")
        cells[name.strip()] = value.strip()
    known = (*CONFIGURATION, *_EXTRA, *group_by)
    unknown = [name for name in cells if name not in known]
    if unknown:
        raise ConfigError(f"--at {text} names {', '.join(unknown)}: there are {', '.join(known)}")
    missing = [name for name in CONFIGURATION if name not in cells]
    if missing:
        raise ConfigError(f"--at {text} does not say {', '.join(missing)}")
    return asked_of(checked_row(cells, f"--at {text}", step_times=False), group_by)


def asked_of(row: Row, group_by: Sequence[str]) -> Asked:
    """The same of a row of a table.

    Raises:
        ConfigError: it does not say which group.
    """
    numbers: dict[str, Any] = {name: row.numbers[name] for name in (*CONFIGURATION, *_EXTRA) if name in row.numbers}
    if row.cells.get("parallelism"):
        numbers["parallelism"] = row.cells["parallelism"]
    missing = [name for name in group_by if not row.cells.get(name)]
    if missing:
        raise ConfigError(f"{row.where} does not say which {', '.join(missing)}: the model has a group for each")
    return numbers, group_name(row.cells, group_by) if group_by else None
