"""What a trial is, in one row: its facts, how it stands and how it was realised, nested settings flattened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from analysis.read import TrialLog
from scaleexp.redact import redact

Scalar = str | int | float | bool | None

_LEFT_OUT = frozenset({"schema_version"})
_UNITS = {
    "batch_size": "samples",
    "micro_batch": "samples",
    "limit_samples": "samples",
    "samples": "samples",
    "n_train": "samples",
    "workers": "workers",
    "step": "steps",
}


def facts_row(trial: TrialLog) -> dict[str, Scalar]:
    """Every fact of a trial by its dotted name; secrets are replaced by what they are called."""
    commit = trial.commit
    facts = {name: value for name, value in trial.facts.items() if name not in _LEFT_OUT}
    stands: dict[str, Any] = {"status": "running"}
    if commit:
        of_commit = ("status", "cause", "step", "samples", "attempt", "elapsed_s", "committed_utc")
        stands = {name: commit[name] for name in of_commit}  # type: ignore[literal-required]
        stands |= {f"realisation.{name}": value for name, value in flat(commit["realisation"])}
    return {name: without_secret(name, value) for name, value in (*flat(facts), *stands.items())}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Dotted name and value of every leaf; a list is its JSON.

    >>> dict(flat({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}))
    {'optimizer.name': 'sgd', 'optimizer.betas': '[0.9, 0.99]'}
    """
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", json.dumps(value)
        else:
            yield f"{prefix}{name}", value


def without_secret(name: str, value: Scalar) -> Scalar:
    """A text without secrets, which its name may give away too.

    >>> without_secret("workload.api_key", "hunter2hunter2"), without_secret("workload.name", "digits")
    ('***', 'digits')
    """
    if not isinstance(value, str):
        return value
    start = f"{name}="
    text = redact(start + value)
    return text.removeprefix(start) if text.startswith(start) else redact(value)


def facts_table(trials: Sequence[TrialLog]) -> pa.Table:
    """One row per trial; a column for every fact that any of them has, its unit in the metadata of the field."""
    rows = [facts_row(trial) for trial in trials]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _array([row.get(name) for row in rows]) for name in names}
    fields = [pa.field(name, array.type, metadata={"unit": unit_of(name)}) for name, array in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata={"scaleexp.table": "trials"}))


def unit_of(name: str) -> str:
    """What one counts; seconds end in `_s`, bytes in `_bytes`.

    >>> unit_of("elapsed_s"), unit_of("batch_size"), unit_of("optimizer.momentum")
    ('seconds', 'samples', '')
    """
    if name in _UNITS:
        return _UNITS[name]
    return "seconds" if name.endswith("_s") else "bytes" if name.endswith("_bytes") else ""


def _array(values: Sequence[Scalar]) -> pa.Array:
    """Of one type: what a workload sets may be a number in one trial and a word in another, and then all are texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if len(kinds) > 1:
        return pa.array(list(_texts(values)), pa.string())
    return pa.array(list(values), pa.string() if not kinds else None)


def _texts(values: Iterable[Scalar]) -> Iterator[str | None]:
    for value in values:
        yield value if isinstance(value, str) or value is None else json.dumps(value)
