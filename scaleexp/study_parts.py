"""The parts of a study file, each a small validated, frozen model.

Numbers are strict: text is no number and 2.5 is no count, but 1e6 is a fair way to write a million. Every float is
rounded to 12 significant digits at the door and trained as rounded, so a trial's id and its arithmetic agree.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

T = TypeVar("T")

MAX_COUNT = 2**53
"""Counts beyond this are not exact as floats, and no run has that many of anything."""
MAX_LIST = 10_000
"""No list of a study is longer."""


def as_trained(value: float) -> float:
    """A float rounded to 12 significant digits: what a trial trains with and what its id hashes.

    >>> as_trained(0.1 * 3)
    0.3
    """
    return float(f"{value:.12g}")


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Positive = Annotated[int, BeforeValidator(_integral), Field(gt=0, le=MAX_COUNT)]
"""Whole number, 1 or more; 1e6 is accepted for 1000000."""
NonNegative = Annotated[int, BeforeValidator(_integral), Field(ge=0, le=MAX_COUNT)]
"""Whole number, 0 or more."""
Real = Annotated[float, AfterValidator(as_trained)]
"""Finite float, rounded to 12 significant digits."""
PositiveReal = Annotated[float, Field(gt=0), AfterValidator(as_trained)]
"""The same, above 0."""
Fraction = Annotated[float, Field(ge=0, lt=1), AfterValidator(as_trained)]
"""The same, in [0, 1)."""
Many = Annotated[tuple[T, ...], Field(strict=False, min_length=1, max_length=MAX_LIST)]
"""Non-empty list, kept as a tuple."""


class Part(BaseModel):
    """What every part of a study has in common: frozen, strict, no unknown keys, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _option(value: object) -> object:
    """A workload option: a scalar or a list of scalars, floats rounded as trained."""
    if isinstance(value, list | tuple):
        return [_scalar(item) for item in value]
    return _scalar(value)


def _scalar(value: object) -> object:
    if not isinstance(value, bool | int | float | str | None):
        raise ValueError(f"an option is a number, a text, true, false, null, or a list of these; got {value!r}")
    return as_trained(value) if isinstance(value, float) else value


def _given(value: object) -> object:
    if value is None:
        raise ValueError("it is null; give a number, a text, true or false, or leave it out")
    return _scalar(value)


Scalar = Annotated[Any, AfterValidator(_given)]
"""A number, a text, true or false; floats are rounded as trained."""


class WorkloadSpec(Part):
    """A data set, a model and a loss. The file is flat: `{name: classifier, model: mlp, hidden: [64]}`."""

    name: Annotated[str, Field(min_length=1)]
    """Built-in workload, `module:Class`, or an entry point of the group `scaleexp.workloads`."""
    options: dict[str, Any] = {}
    """Every other key of the file: arguments of the workload, which validates them itself."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: object) -> object:
        if isinstance(data, dict) and not isinstance(data.get("options"), dict):
            return {
                **{key: value for key, value in data.items() if key == "name"},
                "options": {key: value for key, value in data.items() if key != "name"},
            }
        return data

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: _option(value) for key, value in options.items()}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


class Sgd(Part):
    """v <- momentum v + g + weight_decay w;  w <- w - lr v  (nesterov: w <- w - lr (g + momentum v))."""

    name: Literal["sgd"]
    """Stochastic gradient descent."""
    momentum: Fraction = 0.0
    """Heavy-ball momentum in [0, 1)."""
    nesterov: bool = False
    """Look-ahead gradient; needs momentum."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    """Coefficient of w in the gradient (coupled, as in torch.optim.SGD)."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class AdamW(Part):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101)."""

    name: Literal["adamw"]
    """Adam, weight decay outside of the moments."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveReal = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    """The step subtracts lr weight_decay w."""


class Lars(Part):
    """v <- momentum v + lr local (g + weight_decay w);  w <- w - v  (You et al. 2017, arXiv:1708.03888).

    local = trust_coefficient |w| / (|g| + weight_decay |w|), for every parameter tensor.
    """

    name: Literal["lars"]
    """Layer-wise adaptive rate scaling."""
    momentum: Fraction = 0.9
    """Heavy-ball momentum in [0, 1)."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    """Coefficient of w in the gradient and in the local rate."""
    trust_coefficient: PositiveReal = 0.001
    """How far a layer is trusted to move in a step, as a share of its norm, before the LR."""
    exclude_vectors: bool = True
    """Parameters of one dimension (biases, norm gains) take plain momentum steps: local = 1, no weight decay."""


class Lamb(Part):
    """Adam whose every step is as long as lr times the weights it moves (You et al. 2019, arXiv:1904.00962)."""

    name: Literal["lamb"]
    """Layer-wise adaptive moments."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveReal = 1e-6
    """Added to the root of the second moment."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.01
    """Coefficient of w in the update, before it is scaled to the norm of w."""
    exclude_vectors: bool = True
    """Parameters of one dimension (biases, norm gains) take Adam's steps: unscaled, no weight decay."""


Optimizer = Annotated[Sgd | AdamW | Lars | Lamb, Field(discriminator="name")]


class Base(Part):
    """Where the scaling rules start: the pair that was tuned."""

    batch_size: Positive
    """Base batch [samples]; need not be one of the study's batches."""
    lr: PositiveReal
    """LR tuned at the base batch."""


class TargetSpec(Part):
    """What counts as done."""

    metric: Annotated[str, Field(min_length=1)]
    """A metric that the workload reports, such as val_loss."""
    values: Many[Real]
    """One or more values; the trials run to the hardest."""
    direction: Literal["min", "max"] | None = None
    """Which way is better, of a metric that a script reports; a workload says it itself."""


class Limits(Part):
    """Where a trial ends that does not reach its target, and what the study never exceeds."""

    samples: Positive
    """Samples per trial: it ends at the last step boundary that does not pass them."""
    wall_s: PositiveReal | None = None
    """Wall time of each run of the command [seconds]; the same command goes on with what it stopped."""
    gpu_hours: PositiveReal | None = None
    """GPUs of the cluster x time that the study held them [hours], over all runs of the command; raised, it goes on."""
    usd: PositiveReal | None = None
    """GPUs (or CPU cores where there is none) x time held x price [US dollars], over all runs; needs a price."""
    start_s: PositiveReal = 300.0
    """Time that a group of real workers waits for free CPUs or GPUs [seconds]; then its trials fail, and the others go
    on. It begins anew where a node was lost."""


class Evaluation(Part):
    """When held-out metrics are measured."""

    every_samples: Positive
    """Evaluate at the first step boundary past each multiple of this."""


class Checkpoint(Part):
    """What a trial goes on from when it was interrupted, or when its target or limit is moved."""

    every_s: PositiveReal = 30.0
    """Wall time from one commit of rows and state to the next [seconds]; a trial also commits when it ends."""
    keep_finished: bool = True
    """Keep the state of a trial that reached its target or its limit: without it, moving these starts it anew."""


class Noise(Part):
    """How the gradient noise scale is measured."""

    shards: Annotated[int, BeforeValidator(_integral), Field(ge=2, le=4096)] = 8
    """Shards of the global batch whose gradient norms are compared; 2 need 12-23 times the steps of 8. A model of
    linear layers is measured example by example instead, which costs less and says more."""
    every_samples: Positive | None = None
    """Samples from one measurement to the next; null times it before step 0, to cost at most 5 % of a step."""
    per_layer: bool = False
    """Log the norms of every parameter, too."""


class RealisationSpec(Part):
    """A trial of the grid, run a second time in another way: to show that the way does not change the result."""

    engine: Literal["packed", "ddp"]
    """ddp: one process per worker; packed: virtual workers."""
    workers: Positive
    """Workers of the second realisation; must divide batch_size."""
    processes: Positive | None = None
    """Processes that share these workers, of an engine: ddp realisation; null is one for each."""
    batch_size: Positive
    """Which batch of the grid."""
    rule: str = "sqrt"
    """Which LR of that batch: the one of this rule."""
    seed: NonNegative | None = None
    """Which seed of the study; null is its first."""

    @property
    def label(self) -> str:
        """Name of the realisation in keys and directory names, such as `ddp-2` or `ddp-64-on-2`."""
        shared = f"-on-{self.processes}" if self.processes and self.processes != self.workers else ""
        return f"{self.engine}-{self.workers}{shared}"
