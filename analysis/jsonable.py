"""Results as JSON: unbounded and unknown numbers are null, never a huge number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def json_safe(value: Any) -> Any:  # noqa: ANN401 - any result in, any JSON out
    """Dataclasses to objects, sequences to arrays, nan and infinities to None.

    >>> json_safe({"b_crit_interval": (3.0, math.inf)})
    {'b_crit_interval': [3.0, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_safe(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def json_interval(ends: tuple[float, float] | None) -> list[float | None]:
    """An interval of a positive quantity: a low end of 0 is as unbounded as a high end of infinity.

    >>> json_interval((0.0, 12.0)), json_interval((3.0, math.inf)), json_interval(None)
    ([None, 12.0], [3.0, None], [None, None])
    """
    return [None, None] if ends is None else [json_safe(end) or None for end in ends]
