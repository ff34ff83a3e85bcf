"""From the options of `simulate frontier` and `advise` to what is computed of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, get_args

from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import HardwareProfile, Precision, read_hardware
from scaleexp.simulate.configuration import Failures, Limits
from scaleexp.simulate.decision import Inputs
from scaleexp.simulate.given_curve import GivenCurve
from scaleexp.simulate.quantities import positive, seconds
from scaleexp.simulate.step_sources import ONE_NUMBER, RANGES, Constant, Roofline, StepDraws, StepTimes
from scaleexp.simulate.step_time import Numbers, Prediction, StepTimeModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Options as they were given; None where they were not. Times are as typed, with units."""

    model: str | None = None
    model_group: str | None = None
    step_time_s: float | None = None
    worker_batch: int | None = None
    hardware: str | None = None
    parameters: float | None = None
    flops_per_sample: float | None = None
    precision: Precision | None = None
    workers_per_node: int | None = None
    max_micro_batch: int | None = None
    usd_per_hour: float | None = None
    deadline: str | None = None
    budget: float | None = None
    node_mtbf: str | None = None
    spot_mtbf: str | None = None
    checkpoint_s: float | None = None
    restart_s: float | None = None
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Step times, their name in words, why they carry no interval, if so, and what they are known for.

    That is: worker batches, where it is some alone; the largest micro-batch; workers that shared a machine.
    """

    times: StepTimes
    name: str
    unmeasured: str = ""
    worker_batches: tuple[int, ...] = ()
    max_micro_batch: int | None = None
    workers_per_node: int | None = None


@dataclass(frozen=True, slots=True)
class _Grouped:
    """One group of a model of step times."""

    model: StepTimeModel
    group: str | None

    def predict(
        self, workers: Numbers, nodes: Numbers, worker_batch: Numbers, accumulation_steps: Numbers = 1
    ) -> Prediction:
        return self.model.predict(workers, nodes, worker_batch, accumulation_steps, group=self.group)

    def draws(self, n: int, seed: int) -> StepDraws:
        return self.model.draws(n, seed, group=self.group)


def inputs(asked: Asked, curve: GivenCurve, found: Times, workers: Sequence[int], worker: str) -> Inputs:
    """What is computed of, checked.

    Raises:
        ConfigError: an option that cannot be meant.
    """
    profile = read_hardware(asked.hardware) if asked.hardware else None
    check(asked)
    price, price_name = price_of(asked, profile)
    of_profile = profile.workers_per_node if profile else None
    per_node = asked.workers_per_node or of_profile or found.workers_per_node or 1
    return Inputs(
        curve=curve,
        times=found.times,
        times_name=found.name,
        unmeasured_times=found.unmeasured,
        workers=tuple(workers),
        limits=Limits(
            workers_per_node=per_node,
            max_micro_batch=asked.max_micro_batch or found.max_micro_batch,
            worker_batches=found.worker_batches,
        ),
        failures=failures_of(asked),
        price=price,
        price_name=price_name,
        worker=worker,
        deadline_s=seconds(asked.deadline, "--deadline") if asked.deadline else None,
        budget_usd=asked.budget,
        confidence=asked.confidence,
        seed=asked.seed,
    )


def check(asked: Asked) -> None:
    """Refuse numbers that cannot be.

    Raises:
        ConfigError: there is one.
    """
    for name, value in (
        ("--usd-per-gpu-hour", asked.usd_per_hour),
        ("--budget", asked.budget),
        ("--step-time", asked.step_time_s),
        ("--worker-batch", asked.worker_batch),
        ("--parameters", asked.parameters),
        ("--flops-per-sample", asked.flops_per_sample),
        ("--workers-per-node", asked.workers_per_node),
        ("--max-micro-batch", asked.max_micro_batch),
        ("--checkpoint-s", asked.checkpoint_s),
        ("--restart-s", asked.restart_s),
    ):
        positive(value, name)
    if not 0.5 <= asked.confidence < 1:
        raise ConfigError(f"--confidence must lie between 0.5 and 1, got {asked.confidence:g}; 0.95 is usual.")


def price_of(asked: Asked, profile: HardwareProfile | None) -> tuple[float | None, str]:
    """Dollars an hour of one worker and where that comes from; None where nobody says."""
    if asked.usd_per_hour is not None:
        return asked.usd_per_hour, "--usd-per-gpu-hour"
    if profile is None or profile.price_usd_per_hour is None:
        return None, ""
    return profile.price_usd_per_hour, f"the profile of {profile.name}"


def failures_of(asked: Asked) -> Failures:
    """Failures and preemptions of a node together: their rates add up."""
    rate = sum(
        1 / seconds(text, name)
        for text, name in ((asked.node_mtbf, "--node-mtbf"), (asked.spot_mtbf, "--spot-mtbf"))
        if text
    )
    default = Failures()
    return Failures(
        node_mtbf_s=1 / rate if rate else inf,
        checkpoint_s=asked.checkpoint_s if asked.checkpoint_s is not None else default.checkpoint_s,
        restart_s=asked.restart_s if asked.restart_s is not None else default.restart_s,
    )


def times_of(asked: Asked, curve: GivenCurve) -> Times | None:
    """Step times of a model, of one number or of a hardware profile; None where none was given.

    Raises:
        ConfigError: two of them, or one without what it needs.
    """
    check(asked)
    if asked.model and asked.step_time_s is not None:
        raise ConfigError("--model and --step-time both say what a step takes: give one of them.")
    if asked.model:
        return _of_model(asked.model, asked.model_group)
    if asked.step_time_s is not None:
        if asked.worker_batch is None:
            raise ConfigError("--step-time is that of one worker batch: say which with --worker-batch.")
        return Times(
            times=Constant(measured_s=asked.step_time_s, worker_batch=asked.worker_batch),
            name=f"--step-time at {asked.worker_batch:,} {curve.unit}s per worker",
            unmeasured=ONE_NUMBER,
            worker_batches=(asked.worker_batch,),
        )
    if asked.hardware and (asked.parameters or asked.flops_per_sample):
        return _roofline(asked, curve)
    return None


def _of_model(path: str, group: str | None) -> Times:
    """A fitted model; what passed through memory at once when it was measured is all that is known to fit."""
    model = StepTimeModel.load(path)
    measured = model.group(group).measured
    most = None if measured is None else int(measured.micro_batch[1])
    name = path if most is None else f"{path}, micro-batches of up to {most:,}"
    return Times(times=_Grouped(model, group), name=name, max_micro_batch=most)


def _roofline(asked: Asked, curve: GivenCurve) -> Times:
    profile = read_hardware(asked.hardware or "")
    if asked.parameters is None:
        raise ConfigError("a step time from a hardware profile needs --parameters, whose gradients are sent around.")
    flops = asked.flops_per_sample
    if flops is None and curve.unit != "token":
        raise ConfigError(
            f"the flops of one {curve.unit} are not known: give --flops-per-sample, forward and backward; 6 per "
            "parameter is the rule for a token."
        )
    if asked.workers_per_node is None and profile.workers_per_node is None:
        raise ConfigError(
            f"the profile of {profile.name} does not say how many share a machine: give --workers-per-node."
        )
    made = Roofline(
        profile=profile,
        n_parameters=asked.parameters,
        flops_per_sample=flops if flops is not None else 6.0 * asked.parameters,
        precision=asked.precision or _precision(profile),
        ranges=RANGES,
    )
    return Times(times=made, name=f"a roofline of {profile.name} in {made.precision}")


def _precision(profile: HardwareProfile) -> Precision:
    """bf16 where there is a figure, else fp16, else fp32."""
    order: tuple[Precision, ...] = ("bf16", "fp16", "tf32", "fp32")
    assert set(order) == set(get_args(Precision))
    return next(name for name in order if getattr(profile, f"peak_{name}_flop_per_s") is not None)


def of_options(options: Mapping[str, Any]) -> Asked:
    """Options of the command line by their names, those of other things left out."""
    return Asked(**{name: value for name, value in options.items() if name in Asked.__dataclass_fields__})
