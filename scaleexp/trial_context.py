"""What a script is told about the trial that it is to train, through one environment variable.

A study that launches a script sets `SCALEEXP_TRIAL` to JSON; the script asks `scaleexp.current_trial()`, and
`scaleexp.track` records the trial in the study's storage. Neither torch nor Ray is needed for that.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from scaleexp.errors import ConfigError
from scaleexp.schema import Target, trial_key

VARIABLE = "SCALEEXP_TRIAL"
VERSION = 1
"""Of the JSON in the variable; fields are only ever added, and added ones have defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetValue:
    """A metric and the hardest of the values at which the trial counts as done."""

    metric: str
    value: float
    direction: Literal["min", "max"]

    def to_target(self) -> Target:
        """As the loop and the plan hold it."""
        return Target(metric=self.metric, values=[self.value], direction=self.direction)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialContext:
    """One trial of a study, as the script that trains it is told.

    Attributes:
        storage: where the study lives: an absolute path, or an address.
        key: name of the trial's directory, `id` or `id@realisation`.
        trial_id: content hash of what changes the mathematics.
        realisation: empty for the first way it is run, else its name.
        seed: of data order and initialisation.
        batch_size: B = micro_batch x accumulation_steps x workers [samples].
        workers: data-parallel workers.
        micro_batch: samples that a worker passes through the model at once.
        accumulation_steps: micro-batches that a worker adds up before the optimizer step.
        lr: peak learning rate.
        unit: what a sample is: example or token.
        limit_samples: where the trial ends that has not reached its targets [samples].
        evaluate_every_samples: evaluate at the first step boundary past each multiple of this [samples].
        hyperparameters: the other settings of the optimizer, as trial.json says them under `optimizer`, and the
            script's own of the study.
        targets: what ends the trial: the hardest value of every metric, each confirmed by the next evaluation.
        warmup_samples: samples over which the LR rises linearly to its peak.
        commit_every_s: wall time from one commit to the next [seconds].
        noise_every_samples: samples from one measurement of gradient norms to the next; None leaves it to the script.
        deadline_unix_s: Unix time after which the trial stops unfinished [seconds]; None for no limit.
        deadline_cause: the limit that set it, in words.
        held_s: how long the driver will have held its lease at the deadline, by its own clock [seconds]; None to go by
            this machine's alone.
        fence: number of the driver's lease: nothing is committed once another has a higher one.
        study: name of the study.
        workload: what trial.json says of it: a name and options.
        dtype: precision of the training, as the study says it.
        n_train: size of the training set [samples]; None for a stream without end, or where nobody said it.
        data_sha256: of the data; empty where nobody said it.
        git_sha: of the working tree that the study was started in.
        code: file of the script and its sha256, where it was found, for the realisation of every commit: the study
            counts on no two versions of it in one study, and this says whether there were.
        state_dir: directory of this trial's own for what the script goes on from; None where there is none.

    Raises:
        ConfigError: the numbers do not fit together.
    """

    storage: str
    key: str
    trial_id: str
    realisation: str = ""
    seed: int
    batch_size: int
    workers: int
    micro_batch: int
    accumulation_steps: int
    lr: float
    unit: Literal["example", "token"]
    limit_samples: int
    evaluate_every_samples: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[TargetValue, ...] = ()
    warmup_samples: int = 0
    commit_every_s: float = 30.0
    noise_every_samples: int | None = None
    deadline_unix_s: float | None = None
    deadline_cause: str = ""
    held_s: float | None = None
    fence: int | None = None
    study: str = ""
    workload: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    n_train: int | None = None
    data_sha256: str = ""
    git_sha: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    state_dir: str | None = None

    def __post_init__(self) -> None:
        problem = _misfit(self)
        if problem:
            raise ConfigError(f"this is no trial: {problem}.")

    @property
    def worker_batch(self) -> int:
        """Samples per worker and step."""
        return self.micro_batch * self.accumulation_steps

    @property
    def limit_steps(self) -> int:
        """Steps that fit into the limit."""
        return self.limit_samples // self.batch_size

    def to_env(self) -> dict[str, str]:
        """The one variable that tells it to a process.

        >>> context = TrialContext(storage="/runs/a", key="3f2a", trial_id="3f2a", seed=0, batch_size=64, workers=4,
        ...     micro_batch=8, accumulation_steps=2, lr=0.1, unit="example", limit_samples=1000,
        ...     evaluate_every_samples=128)
        >>> TrialContext.from_env(context.to_env()) == context, context.worker_batch, context.limit_steps
        (True, 16, 15)
        """
        return {VARIABLE: json.dumps({"version": VERSION, **asdict(self)})}

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> TrialContext | None:
        """The trial that the variable tells of; None where it is not set.

        Raises:
            ConfigError: it holds something else.
        """
        text = environ.get(VARIABLE)
        if text is None:
            return None
        try:
            content = json.loads(text)
        except ValueError as error:
            raise _nonsense(f"it is no JSON ({error})") from None
        if not isinstance(content, dict) or not isinstance(content.get("version"), int):
            raise _nonsense("it holds no version")
        if content.pop("version") > VERSION:
            raise _nonsense("it was written by a later version: upgrade scaleexp where the script runs")
        return _validated(content)


def current_trial() -> TrialContext | None:
    """The trial that a study wants this process to train; None outside of a study.

    Raises:
        ConfigError: the environment says something that is no trial.
    """
    return TrialContext.from_env(os.environ)


def _validated(content: dict[str, Any]) -> TrialContext:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(TrialContext).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise _nonsense(f"{place}: {said}" if place else said) from None


def _nonsense(what: str) -> ConfigError:
    return ConfigError(
        f"The environment variable {VARIABLE} holds no trial of a study, {what.rstrip('.')}: a study sets it for the "
        "script that it launches, so unset it to run the script alone."
    )


def _misfit(context: TrialContext) -> str:
    """What of the numbers does not fit together, in a clause; empty if all do."""
    counts = ("batch_size", "workers", "micro_batch", "accumulation_steps", "limit_samples", "evaluate_every_samples")
    for name in counts:
        if getattr(context, name) < 1:
            return f"{name} is {getattr(context, name)}, and must be 1 or more"
    product = context.worker_batch * context.workers
    if context.batch_size != product:
        return (
            f"batch_size is {context.batch_size}, and micro_batch x accumulation_steps x workers = "
            f"{context.micro_batch} x {context.accumulation_steps} x {context.workers} = {product}"
        )
    if not (math.isfinite(context.lr) and context.lr > 0):
        return f"lr is {context.lr}, and must be above 0"
    if context.key != trial_key(context.trial_id, context.realisation):
        return f"key is {context.key!r}, and the trial's is {trial_key(context.trial_id, context.realisation)!r}"
    return ""
