"""Lengths of time, counts of workers and intervals, as people type them."""

from __future__ import annotations

import re
from math import isfinite

from scaleexp.errors import ConfigError

SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
MAX_WORKERS = 2**20
_MOST = 10_000


def seconds(text: str, name: str) -> float:
    """A length of time with its unit, in seconds.

    Args:
        text: a number above 0 and one of s, m, h, d.
        name: of the option, for the message.

    Raises:
        ConfigError: anything else.

    >>> seconds("24h", "--deadline"), seconds("1.5 d", "--deadline")
    (86400.0, 129600.0)
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(s|min|m|h|d)\s*", text)
    try:
        value = float(found[1]) * SECONDS[found[2]] if found else 0.0
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise ConfigError(
            f"{name} is a length of time above 0 with its unit, such as 24h, 90m, 60s or 2d; got {text!r}."
        )
    return value


def worker_counts(text: str, name: str) -> tuple[int, ...]:
    """Numbers of workers: a list, or the powers of two of a range with its ends.

    Raises:
        ConfigError: no whole numbers of 1 or more.

    >>> worker_counts("1:8", "--workers"), worker_counts("6, 2", "--workers"), worker_counts("3:9", "--workers")
    ((1, 2, 4, 8), (2, 6), (3, 4, 8, 9))
    """
    wanted = f"{name} is a list such as 8,16,32 or a range such as 1:4096"
    try:
        ends = [int(part) for part in text.split(":")] if ":" in text else []
        counts = ends or [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{wanted}; got {text!r}.") from None
    if any(not 1 <= n <= MAX_WORKERS for n in counts) or len(counts) > _MOST:
        raise ConfigError(f"{wanted}, of 1 to {MAX_WORKERS:,} workers each; got {text!r}.")
    if ends:
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ConfigError(f"{wanted}, from the smaller to the larger; got {text!r}.")
        counts = [*ends, *(2**k for k in range(MAX_WORKERS.bit_length()) if ends[0] <= 2**k <= ends[1])]
    return tuple(sorted(set(counts)))


def two_ends(text: str, name: str) -> tuple[float, float]:
    """An interval LOW:HIGH of positive numbers.

    Raises:
        ConfigError: anything else.

    >>> two_ends("76:107", "--b-crit-interval")
    (76.0, 107.0)
    """
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not (0 < low <= high and isfinite(high)):
        raise ConfigError(f"{name} is LOW:HIGH, two numbers above 0 such as 76:107; got {text!r}.")
    return low, high


def positive(value: float | None, name: str) -> None:
    """Refuse a number that is given and not above 0.

    Raises:
        ConfigError: it is not.
    """
    if value is not None and not (isfinite(value) and value > 0):
        raise ConfigError(f"{name} must be a number above 0, got {value:g}.")
