"""What a run is: what its log, its name and the user say of it, and what is asked for where nobody says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from analysis.sources.logged import Logged
from scaleexp.errors import ConfigError

STATUSES = frozenset({"reached", "limit", "diverged", "stopped", "failed", "running"})
_OWN = frozenset({"batch_size", "lr", "seed", "unit", "workers", "status"})
_UNITS = {"examples": "example", "tokens": "token", "sequences": "sequence", "samples": "sample"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What the user said of every run; None where the log or the name of the run has to say.

    Attributes:
        batch_size: global batch [unit].
        unit: what it counts.
        lr: peak learning rate.
        run_pattern: regular expression with named groups, for the names of runs.
    """

    batch_size: int | None = None
    unit: str | None = None
    lr: float | None = None
    run_pattern: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What one run is; `seed` is None and `lr` 0 where nothing says, `status` empty."""

    batch_size: int
    unit: str
    lr: float
    seed: int | None
    workers: int
    status: str
    group: Mapping[str, str | float | int]


def facts_of(name: str, run: Logged, said: Said) -> Facts:
    """Join what is said of a run; a batch size and a unit must be said, and must not be said twice differently.

    Raises:
        ConfigError: one of the two is missing or contradicted, or a number is none.
    """
    told = {fact: value for fact, value in run.facts.items() if value is not None}
    from_name = _from_name(name, said.run_pattern)
    batch_size = _agreed(name, "batch_size", "--batch-size", said.batch_size, from_name, told)
    if batch_size is None:
        why = f" ({run.why_no_batch})" if run.why_no_batch else ""
        columns = "by --batch-column, " if run.in_columns else ""
        raise ConfigError(
            f"nothing says the global batch size of run {name}{why}: give it by --batch-size, {columns}or by "
            "--run-pattern with a group (?P<batch_size>...)."
        )
    unit = _agreed(name, "unit", "--unit", said.unit, from_name, told)
    if unit is None or not str(unit).strip():
        raise ConfigError(
            f"nothing says what the batch size of run {name} counts: give --unit example, or --unit token for tokens."
        )
    joined = told | from_name | ({"lr": said.lr} if said.lr is not None else {})
    lr = _number(name, "lr", joined.get("lr", 0.0))
    if not (lr >= 0.0 and math.isfinite(lr)):
        raise ConfigError(f"the learning rate of run {name} is {lr:g}: give a positive one by --lr or a column lr.")
    status = str(joined.get("status", ""))
    return Facts(
        batch_size=_positive(name, "batch size", batch_size),
        unit=_UNITS.get(str(unit).strip().lower(), str(unit).strip().lower()),
        lr=lr,
        seed=_whole(name, "seed", joined["seed"]) if "seed" in joined else None,
        workers=_positive(name, "number of workers", joined["workers"]) if "workers" in joined else 1,
        status=status if status in STATUSES else "",
        group={key: _plain(value) for key, value in joined.items() if key not in _OWN and key},
    )


def _from_name(name: str, pattern: str | None) -> dict[str, object]:
    if pattern is None:
        return {}
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ConfigError(f"--run-pattern {pattern!r} is no regular expression: {error}.") from None
    if found is None:
        raise ConfigError(f"--run-pattern {pattern!r} does not match run {name!r}: mend it, or leave the run out.")
    return {key: value for key, value in found.groupdict().items() if value is not None}


def _agreed(
    name: str, fact: str, option: str, given: object, from_name: Mapping[str, object], told: Mapping[str, object]
) -> object:
    """The one value that option, name and log give; None where none of them does."""
    places = {option: given, "--run-pattern": from_name.get(fact), "its log": told.get(fact)}
    values = {place: value for place, value in places.items() if value is not None}
    if len({_plain(_UNITS.get(str(value), value)) for value in values.values()}) > 1:
        listed = ", ".join(f"{value} by {place}" for place, value in values.items())
        raise ConfigError(f"the {fact.replace('_', ' ')} of run {name} is said differently ({listed}): leave one out.")
    return next(iter(values.values()), None)


def _number(name: str, fact: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigError(f"the {fact} of run {name} is {str(value)[:40]!r}, which is no number: mend it.") from None


def _whole(name: str, fact: str, value: object) -> int:
    number = _number(name, fact, value)
    if not math.isfinite(number) or number != round(number):
        raise ConfigError(f"the {fact} of run {name} must be a whole number, got {number:g}.")
    return int(str(value)) if re.fullmatch(r"[+-]?\d+", str(value)) else round(number)


def _positive(name: str, fact: str, value: object) -> int:
    number = _whole(name, fact, value)
    if number < 1:
        raise ConfigError(f"the {fact} of run {name} must be at least 1, got {number}.")
    return number


def _plain(value: object) -> str | float | int:
    """A number where the text of it is one, else the text.

    >>> _plain("64"), _plain("64.0"), _plain("1e3"), _plain("adam")
    (64, 64, 1000, 'adam')
    """
    if isinstance(value, bool):
        return str(value)
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return text
    return round(number) if number == round(number) and abs(number) < 2**53 else number
