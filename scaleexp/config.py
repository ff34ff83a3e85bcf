"""The study file: YAML and `--set a.b=c` overrides, validated into one frozen tree.

study file -> strict_yaml (scalars, keys) -> study_parts (fields) -> Study (how they fit together)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from scaleexp.config_messages import one_sentence
from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import read_hardware
from scaleexp.own_script import as_workload, misfits
from scaleexp.plugins import check_name, nearest
from scaleexp.scaling_rules import RULES
from scaleexp.strict_yaml import apply_overrides
from scaleexp.study_files import read_study_file
from scaleexp.study_parts import (
    MAX_LIST,
    Base,
    Checkpoint,
    Evaluation,
    Limits,
    Many,
    Noise,
    NonNegative,
    Optimizer,
    Part,
    Positive,
    PositiveReal,
    RealisationSpec,
    Scalar,
    TargetSpec,
    WorkloadSpec,
    as_trained,
)


class LogGrid(Part):
    """LR multipliers spaced evenly in log LR and symmetric around 1."""

    count: Annotated[int, Field(ge=1, le=MAX_LIST)]
    """How many; odd, so that 1 is among them."""
    span: Annotated[float, Field(ge=1)]
    """Largest over smallest multiplier."""

    def multipliers(self) -> tuple[float, ...]:
        """The multipliers, ascending.

        >>> LogGrid(count=5, span=16.0).multipliers()
        (0.25, 0.5, 1.0, 2.0, 4.0)
        """
        if self.count % 2 == 0:
            raise ValueError(f"count is {self.count}; it must be odd, so that 1 is on the grid")
        if (self.count > 1) != (self.span > 1):
            raise ValueError(f"count is {self.count} and span {self.span:g}; one multiplier spans 1, more span above 1")
        half = self.count // 2
        return tuple(as_trained(self.span ** (i / (2 * half)) if half else 1.0) for i in range(-half, half + 1))


class Study(Part):
    """One question, and the grid of trials that answers it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    """Name of the study and of its directory: letters, digits, - and _."""
    question: Annotated[str, Field(min_length=1)]
    """What the study asks, in one sentence."""
    workload: WorkloadSpec
    """Data, model and loss; or say entrypoint or command instead."""
    entrypoint: Annotated[str, Field(min_length=1)] | None = None
    """Instead of a workload: `module:function` that trains one trial, run on as many processes as the trial has
    workers, their process group set up; it is given the trial and records it by scaleexp.track."""
    command: Many[Annotated[str, Field(min_length=1)]] | None = None
    """Instead of a workload: the arguments of a command that trains one trial, such as [python, train.py, --lr,
    "{lr}"], started without a shell; it records the trial by scaleexp.track."""
    unit: Literal["example", "token"] | None = None
    """What a sample of a script is."""
    n_train: Positive | None = None
    """Size of a script's training set [samples]; null for a stream without end, or where it is not known."""
    hyperparameters: Annotated[dict[str, Scalar], Field(max_length=MAX_LIST)] | None = None
    """What else the script is told: numbers, texts, true or false, by name."""
    cpus_per_worker: Positive = 1
    """CPUs of a script's worker; where there are GPUs, it has one of these, too."""
    dtype: Literal["float32", "float64", "bf16"] = "float32"
    """Precision of parameters, gradients and optimizer state; bf16: float32 under bfloat16 autocast."""
    batch_norm: Literal["worker", "sync"] | Positive | None = None
    """Whose samples share batch-norm statistics: each worker's, the whole batch's (sync), or groups of this many
    (ghost batch norm). It changes the result, so a model with batch norm must say."""
    targets: Annotated[tuple[TargetSpec, ...], Field(strict=False, max_length=MAX_LIST)] = ()
    """What counts as done; without any, every run goes to its limit."""
    optimizer: Optimizer
    """Update rule and its fixed hyperparameters; the LR comes from the grid."""
    base: Base
    """Tuned batch size and LR that the scaling rules start from."""
    workers: Many[Positive]
    """Data-parallel worker counts; each gives one batch size."""
    worker_batch: Positive | None = None
    """Samples per worker and step; or say micro_batch and accumulation_steps instead."""
    micro_batch: Positive | None = None
    """Samples that a worker passes through the model at once."""
    accumulation_steps: Positive | None = None
    """Micro-batches that a worker adds up before the optimizer step."""
    lr_rules: Many[str] = ("none", "sqrt", "linear")
    """Scaling rules whose LR must be on the grid: built-in, `module:function`, or entry point."""
    lr_multipliers: Many[PositiveReal] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Grid of LRs at every batch, around base.lr sqrt(B / B_base); a list with 1 in it, or {count, span}."""
    lr_snap: Annotated[float, Field(ge=0, le=0.25)] = 0.02
    """A rule's LR this close to a grid LR (relative) takes its place; else it is added."""
    seeds: Many[NonNegative] = (0, 1, 2)
    """Seeds of data order and initialisation, shared over batches and LRs; a list, or how many."""
    warmup_samples: NonNegative = 0
    """Samples over which the LR rises linearly to its peak."""
    limits: Limits
    """Where trials and the study end."""
    checkpoint: Checkpoint = Checkpoint()
    """How often trials commit, and whether finished ones keep their state."""
    price_usd_per_worker_hour: PositiveReal | None = None
    """Price of one GPU, or of a CPU core where there is none [US dollars per hour]; overrides that of `hardware`."""
    hardware: str | None = None
    """Hardware profile whose price is taken: a name in clusters/hardware, or a path."""
    engine: Literal["auto", "packed", "ddp"] = "auto"
    """packed: virtual workers, many trials at once; ddp: real workers; auto: packed."""
    processes: Positive | None = None
    """Most processes of a trial of engine: ddp, which share its workers; null is one per worker."""
    compile: Literal["auto", "never", "always"] = "auto"
    """torch.compile: packs time it where they are long enough (auto) or whatever they take (always); real workers
    compile on always only."""
    deterministic: bool = False
    """Nothing is chosen by the clock, and torch refuses what is not reproducible: two runs have the same bits."""
    evaluation: Evaluation
    """When held-out metrics are measured."""
    noise: Noise = Noise()
    """How the gradient noise scale is measured."""
    realisations: Annotated[tuple[RealisationSpec, ...], Field(strict=False, max_length=MAX_LIST)] = ()
    """Trials of the grid to run a second time in another way."""

    @model_validator(mode="before")
    @classmethod
    def _script(cls, raw: object) -> object:
        return as_workload(raw)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_of_seeds(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not (value == int(value) and 1 <= value <= MAX_LIST):
                raise ValueError(f"a number of seeds lies between 1 and {MAX_LIST}; got {value:g}")
            return tuple(range(int(value)))
        return value

    @field_validator("lr_multipliers", mode="before")
    @classmethod
    def _log_grid(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        try:
            return LogGrid.model_validate(value).multipliers()
        except ValidationError as error:
            raise ValueError(one_sentence(error, LogGrid)) from None

    @field_validator("workers", "seeds", "lr_rules", "lr_multipliers", "realisations")
    @classmethod
    def _unique(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        repeated = next((value for number, value in enumerate(values) if value in values[:number]), None)
        if repeated is not None:
            raise ValueError(f"{repeated} appears twice")
        return values

    @field_validator("lr_multipliers")
    @classmethod
    def _one_is_on_the_grid(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in values:
            raise ValueError("1 must be among the multipliers, so that the square-root rule is on the grid")
        return tuple(sorted(values))

    @field_validator("lr_rules")
    @classmethod
    def _rules_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_name(name, RULES, "rule")
        return names

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problem = next(_misfits(self), None)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def script(self) -> Literal["entrypoint", "command"] | None:
        """How the user's own script is started; None where a workload is trained by our loop."""
        return "entrypoint" if self.entrypoint is not None else "command" if self.command is not None else None

    @property
    def split(self) -> tuple[int, int]:
        """(micro_batch, accumulation_steps) of every worker."""
        if self.worker_batch is not None:
            return self.worker_batch, 1
        assert self.micro_batch is not None
        return self.micro_batch, self.accumulation_steps or 1

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Global batches [samples], B = micro_batch x accumulation_steps x workers, ascending."""
        micro_batch, accumulation_steps = self.split
        return tuple(micro_batch * accumulation_steps * workers for workers in sorted(self.workers))


def _misfits(study: Study) -> Iterator[str]:
    """One sentence for each way in which valid parts do not fit together."""
    if (study.worker_batch is None) == (study.micro_batch is None):
        yield "say either worker_batch, or micro_batch and accumulation_steps"
        return
    if study.accumulation_steps is not None and study.micro_batch is None:
        yield "accumulation_steps goes with micro_batch; worker_batch already says how many samples a worker eats"
    if study.batch_sizes[-1] > study.limits.samples:
        yield (
            f"limits.samples is {study.limits.samples}, so the batch of {study.batch_sizes[-1]} "
            "would not take a single step; raise the limit or drop the batch"
        )
    metrics = [target.metric for target in study.targets]
    if len(set(metrics)) < len(metrics):
        yield "targets name a metric twice; put its values into one list"
    evaluations = study.limits.samples // max(study.evaluation.every_samples, study.batch_sizes[-1])
    if study.targets and evaluations < 2:
        yield (
            f"a target counts when a second evaluation confirms it, and the batch of {study.batch_sizes[-1]} would be "
            f"evaluated {evaluations} time(s) in {study.limits.samples} samples; raise limits.samples or evaluate more"
        )
    yield from misfits(study)
    yield from _engine_misfits(study)
    if study.limits.usd is not None and study.price_usd_per_worker_hour is None and study.hardware is None:
        yield "limits.usd needs a price: set price_usd_per_worker_hour, or hardware to a profile that has one"
    for number, second in enumerate(study.realisations):
        for problem in _realisation_misfits(study, second):
            yield f"realisations.{number}: {problem}"


def _engine_misfits(study: Study) -> Iterator[str]:
    micro_batch, accumulation_steps = study.split
    if study.processes is not None and study.engine != "ddp":
        yield "processes are for engine: ddp; virtual workers need none"
    for workers in study.workers:
        if study.processes is not None and workers % min(study.processes, workers):
            yield f"{workers} workers cannot be shared equally by {study.processes} processes"
    if study.deterministic and study.compile == "always":
        yield "compile: always lets the clock choose a kernel, which deterministic: true forbids; leave one of them out"
    if study.batch_norm is None:
        return
    if isinstance(study.batch_norm, int):
        if micro_batch % study.batch_norm:
            yield (
                f"ghost batch norm of {study.batch_norm} samples needs micro-batches that are multiples of it; "
                f"got {micro_batch}"
            )
    elif accumulation_steps > 1:
        yield (
            f"batch_norm: {study.batch_norm} needs each worker's samples in one pass; "
            f"set accumulation_steps to 1 (it is {accumulation_steps}), or a ghost size"
        )


def _realisation_misfits(study: Study, second: RealisationSpec) -> Iterator[str]:
    if second.batch_size not in study.batch_sizes:
        yield f"the batch of {second.batch_size} is not on the grid: {', '.join(map(str, study.batch_sizes))}"
    if second.batch_size % second.workers:
        yield f"{second.workers} workers cannot share a batch of {second.batch_size} equally"
    if second.processes is not None and second.engine != "ddp":
        yield "processes are for engine: ddp; virtual workers need none"
    if second.processes is not None and second.workers % second.processes:
        yield f"{second.processes} processes cannot share {second.workers} workers equally"
    if second.rule != "sqrt" and second.rule not in study.lr_rules:
        yield f"the rule {second.rule!r} is not in lr_rules; {nearest(second.rule, ['sqrt', *study.lr_rules])}"
    if second.seed is not None and second.seed not in study.seeds:
        yield f"the seed {second.seed} is not one of the study's: {', '.join(map(str, study.seeds))}"


def load_study(name_or_path: str, overrides: Sequence[str] = ()) -> Study:
    """Study of a file or of a built-in name, with overrides applied, validated and with its price resolved.

    Args:
        name_or_path: a name in scaleexp/studies, or a path (it has a separator, ends in .yaml, or exists).
        overrides: `a.b=c` each; c is YAML, a number in the path is a list index.

    Raises:
        ConfigError: one sentence on the first problem, and how many more there are.

    >>> load_study("quickstart", ["seeds=[10, 11]"]).seeds
    (10, 11)
    """
    raw, source = read_study_file(name_or_path)
    try:
        study = validate_study(
            apply_overrides(raw, overrides), f"{source} as changed by --set" if overrides else source
        )
    except ConfigError:
        validate_study(raw, source)  # what is wrong in the file is not blamed on what was set
        raise
    if study.price_usd_per_worker_hour is not None or study.hardware is None:
        return study
    price = read_hardware(study.hardware).price_usd_per_hour
    if price is None and study.limits.usd is not None:
        raise ConfigError(
            f"In {source}: limits.usd needs a price and the hardware profile {study.hardware!r} has none; "
            "set price_usd_per_worker_hour."
        )
    return study.model_copy(update={"price_usd_per_worker_hour": price})


def validate_study(raw: Mapping[str, Any], source: str) -> Study:
    """Study of a mapping; `source` names it in the message.

    Raises:
        ConfigError: one sentence on the first problem, and how many more there are.
    """
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"In {source}: {one_sentence(error, Study)}") from None


def check_against_data(study: Study, n_train: int | None, metrics: Mapping[str, Literal["min", "max"]]) -> None:
    """Refuse a study that its data or workload cannot carry; what a script reports is not known before it runs.

    Args:
        study: the study.
        n_train: size of the training set [samples]; None for a stream without end.
        metrics: what the workload reports, and which way is better.

    Raises:
        ConfigError: for a batch larger than the training set, or a target on a metric that is not reported.
    """
    largest = study.batch_sizes[-1]
    if n_train is not None and largest > n_train:
        raise ConfigError(
            f"The batch of {largest} samples is larger than the training set of {n_train}; "
            "use fewer workers, a smaller worker batch, or more data."
        )
    for target in study.targets if study.script is None else ():
        if target.metric not in metrics:
            raise ConfigError(
                f"The workload {study.workload.name!r} reports no metric {target.metric!r}; "
                f"{nearest(target.metric, metrics)}"
            )
