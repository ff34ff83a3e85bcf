"""What a script says about its trial, against what a study planned for it; alone, what it says is the trial.

Batch, unit, workers, learning rate and seed are stated or refused, never guessed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scaleexp.errors import ConfigError
from scaleexp.study_parts import MAX_COUNT, as_trained
from scaleexp.trial_context import TargetValue, TrialContext
from scaleexp.trial_id import content_hash

NO_LIMIT = MAX_COUNT
"""Samples of a trial, or of its evaluation cadence, where nobody stated any."""

_TARGET = re.compile(r"^\s*([^\s<>=]+)\s*(<=|>=)\s*(\S+)\s*$")
_MEANINGS = {
    "storage": "the directory, or the address, that the log is written to",
    "batch_size": "the global batch, micro-batch x accumulation steps x workers",
    "unit": "what a sample is, 'example' or 'token'",
    "workers": "the data-parallel workers",
    "lr": "the peak learning rate",
    "seed": "of data order and initialisation",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stated:
    """What a script says; None where it says nothing. See `scaleexp.tracking.track`."""

    storage: str | None
    batch_size: int | None
    unit: Literal["example", "token"] | None
    workers: int | None
    lr: float | None
    seed: int | None
    accumulation_steps: int | None
    name: str | None
    hyperparameters: Mapping[str, Any] | None
    n_train: int | None
    targets: Sequence[str]
    limit_samples: int | None
    evaluate_every: int | None
    dtype: str | None
    data_sha256: str | None


def settled(stated: Stated, planned: TrialContext | None) -> TrialContext:
    """The trial: the planned one, with which all that is stated agrees, or the stated one.

    Raises:
        ConfigError: something is missing, is nonsense, or is not what was planned.
    """
    return _agreeing(stated, planned) if planned is not None else _alone(stated)


def _agreeing(stated: Stated, planned: TrialContext) -> TrialContext:
    """The planned trial."""
    planned_names = ("batch_size", "unit", "workers", "accumulation_steps", "lr", "seed")
    for name in planned_names:
        here, there = getattr(stated, name), getattr(planned, name)
        if here is not None and (as_trained(here) != there if name == "lr" else here != there):
            raise ConfigError(
                f"This script states {name}={here} and the study {planned.study!r} planned {there} for trial "
                f"{planned.key}: take it from scaleexp.current_trial().{name}."
            )
    if stated.targets and set(map(target_of, stated.targets)) != set(planned.targets):
        raise ConfigError(
            f"This script states targets {list(stated.targets)}, which are not those of the study {planned.study!r}: "
            "leave them out, the study says them."
        )
    return planned


def _alone(stated: Stated) -> TrialContext:
    """The trial of a script that no study launched."""
    values: dict[str, Any] = {name: getattr(stated, name) for name in _MEANINGS}
    for name, value in values.items():
        if value is None:
            raise ConfigError(f"scaleexp.track needs {name}=: {_MEANINGS[name]}. It is stated, never guessed.")
    for name in ("batch_size", "workers", "accumulation_steps", "limit_samples", "evaluate_every"):
        _check_count(name, getattr(stated, name))
    if values["unit"] not in ("example", "token"):
        raise ConfigError(f"scaleexp.track got unit={values['unit']!r}: a sample is an 'example' or a 'token'.")
    micro_batch, lr = _micro_batch(stated), as_trained(float(values["lr"]))
    workload = {"name": "script", "script": Path(sys.argv[0]).name}
    optimizer = dict(stated.hyperparameters or {})
    dtype, data = stated.dtype or "not stated", stated.data_sha256 or ""
    trial_id = content_hash(
        workload=workload,
        data_sha256=data,
        optimizer=optimizer,
        lr=lr,
        batch_size=values["batch_size"],
        dtype=dtype,
        seed=values["seed"],
        warmup_samples=0,
    )
    return TrialContext(
        storage=str(values["storage"]),
        key=trial_id,
        trial_id=trial_id,
        seed=int(values["seed"]),
        batch_size=int(values["batch_size"]),
        workers=int(values["workers"]),
        micro_batch=micro_batch,
        accumulation_steps=stated.accumulation_steps or 1,
        lr=lr,
        unit=values["unit"],
        limit_samples=stated.limit_samples or NO_LIMIT,
        evaluate_every_samples=stated.evaluate_every or NO_LIMIT,
        hyperparameters=optimizer,
        targets=tuple(target_of(text) for text in stated.targets),
        study=stated.name or Path(sys.argv[0]).stem or "script",
        workload=workload,
        dtype=dtype,
        n_train=stated.n_train,
        data_sha256=data,
    )


def _check_count(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigError(f"scaleexp.track got {name}={value!r}: it is a whole number, 1 or more.")


def _micro_batch(stated: Stated) -> int:
    assert stated.batch_size is not None
    assert stated.workers is not None
    parts = stated.workers * (stated.accumulation_steps or 1)
    if stated.batch_size % parts:
        raise ConfigError(
            f"scaleexp.track got batch_size={stated.batch_size}, which {stated.workers} workers with "
            f"{stated.accumulation_steps or 1} accumulation steps cannot share equally: batch_size is the global "
            "batch, micro-batch x accumulation_steps x workers."
        )
    return stated.batch_size // parts


def target_of(text: str) -> TargetValue:
    """A target as a script writes it.

    Raises:
        ConfigError: it is none.

    >>> target_of("val_loss <= 0.5")
    TargetValue(metric='val_loss', value=0.5, direction='min')
    """
    match = _TARGET.match(text) if isinstance(text, str) else None
    try:
        value = float(match.group(3)) if match else None
    except ValueError:
        value = None
    if match is None or value is None:
        raise ConfigError(f"{text!r} is no target: write 'val_loss <= 0.5' or 'val_accuracy >= 0.9'.")
    return TargetValue(metric=match.group(1), value=as_trained(value), direction="min" if "<" in text else "max")
