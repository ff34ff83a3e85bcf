"""What a plan would run, batch by batch, as numbers: trials, samples, and what a calibration says of time and disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

from scaleexp.config import Study
from scaleexp.own_script import identity
from scaleexp.trial import Plan, Trial

PLAN_JSON_VERSION = 1
"""Version of `scaleexp plan --json`, whose JSON Schema is schemas/plan.json."""

NOT_SEEN = 0.15
"""What a few steps do not show, as a share of the time: in CPU time, whole studies took from 2 to 12 % more."""
NOT_MEASURED = "nothing was measured (--no-calibrate)."
OF_A_SCRIPT = {
    "seconds": "unknown until the first trial has ended: a script is not timed before; then this table says it.",
    "disk_bytes": "what a script keeps is its own business, and no log says it.",
    "usd": "unknown until the first trial has ended, as the time is; limits.usd and limits.wall_s hold all the same.",
}
NO_PRICE = "there is no price: set price_usd_per_worker_hour, or hardware to a profile that has one."


class Range(NamedTuple):
    """A measured quantity: the least and the most that the timings allow, and their median."""

    least: float
    usual: float
    most: float

    def times(self, factor: float) -> Range:
        """Every end.

        >>> Range(1.0, 2.0, 4.0).times(3.0)
        Range(least=3.0, usual=6.0, most=12.0)
        """
        return Range(*(factor * value for value in self))


def total(ranges: Iterable[Range]) -> Range:
    """Sum, as if all were least or most together.

    >>> total([Range(1.0, 2.0, 4.0), Range(0.0, 1.0, 1.0)])
    Range(least=1.0, usual=3.0, most=5.0)
    """
    return Range(*(sum(ends) for ends in zip((0.0, 0.0, 0.0), *ranges, strict=True)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What the trials of one batch size may take, every one run to its sample limit.

    Attributes:
        seconds: their share of the wall time; None where no trial was timed.
        disk_bytes: rows, commits and the states that are kept; None of a script, which keeps its own.
        not_timed: trials of real workers, which `seconds` leaves out.
    """

    seconds: Range | None
    disk_bytes: Range | None
    not_timed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What was measured before a study runs.

    Attributes:
        batches: by batch size; those of which nothing is left to run have none.
        workers: GPUs of this machine, or its CPU cores if it has none: what the wall time is for.
        kind: of worker: GPU or CPU core.
        repeats: of each timing; of a script, the ended trials that tell what a step takes.
        elsewhere: whether the study would run on another cluster than this machine.
        passing_bytes: of states and rows that are there only while trials run.
        study_bytes: of what is written once for the study.
        said: what the numbers rest on, in the place of what is said of a study's own workload.
    """

    batches: Mapping[int, Estimate] = field(default_factory=dict)
    workers: int = 1
    kind: str = "CPU core"
    repeats: int = 0
    elsewhere: bool = False
    passing_bytes: float = 0.0
    study_bytes: float = 0.0
    said: Mapping[str, str] = field(default_factory=dict)


class PlanRow(TypedDict):
    """What is left to run of one batch size; "at most" counts trials that run to their sample limit."""

    batch_size: int  # workers x accumulation_steps x micro_batch [samples]
    workers: int
    accumulation_steps: int
    micro_batch: int
    kappa: float  # batch_size / base batch
    rule_lrs: dict[str, float]
    grid_lrs: list[float]
    seeds: int
    trials: int  # first realisations: LRs x seeds, less those that ended
    trials_ended: int  # second realisations included
    second_realisations: list[str]
    steps_per_trial_at_most: int
    samples_at_most: int  # over all trials and second realisations
    seconds_at_most: float | None
    seconds_interval: list[float] | None
    not_timed_trials: int  # real workers
    disk_bytes_at_most: float | None
    disk_bytes_interval: list[float] | None
    usd_at_most: float | None
    usd_interval: list[float] | None


def plan_table(
    plan: Plan, study: Study, found: Calibration | None = None, left: Mapping[str, int] | None = None
) -> list[PlanRow]:
    """One row per batch size, ascending.

    Args:
        plan: the trials.
        study: what they come from.
        found: what a calibration says of those that are left.
        left: steps to its limit of every trial that has not ended, by key; None for a study that has not begun.
    """
    if left is None:
        left = {trial.key: trial.limit_steps for trial in plan.trials}
    by_batch: dict[int, list[Trial]] = {}
    for trial in plan.trials:
        by_batch.setdefault(trial.batch_size, []).append(trial)
    return [_row(plan, study, by_batch[batch_size], found, left) for batch_size in sorted(by_batch)]


def _row(
    plan: Plan, study: Study, trials: Sequence[Trial], found: Calibration | None, left: Mapping[str, int]
) -> PlanRow:
    first = [trial for trial in trials if not trial.realisation]
    to_run = [trial for trial in trials if trial.key in left]
    one = first[0]
    estimate = found.batches.get(one.batch_size) if found and to_run else None
    nothing = None if to_run or found is None else Range(0.0, 0.0, 0.0)
    seconds = estimate.seconds if estimate else nothing
    disk = estimate.disk_bytes if estimate else nothing
    usd = _cost(study, found, seconds)
    return PlanRow(
        batch_size=one.batch_size,
        workers=one.workers,
        accumulation_steps=one.accumulation_steps,
        micro_batch=one.micro_batch,
        kappa=one.batch_size / plan.base_batch_size,
        rule_lrs={label["rule"]: label["lr"] for label in plan.labels if label["batch_size"] == one.batch_size},
        grid_lrs=sorted({trial.lr for trial in first}),
        seeds=len({trial.seed for trial in first}),
        trials=sum(not trial.realisation for trial in to_run),
        trials_ended=len(trials) - len(to_run),
        second_realisations=[trial.realisation for trial in to_run if trial.realisation],
        steps_per_trial_at_most=one.limit_steps,
        samples_at_most=sum(left[trial.key] * trial.batch_size for trial in to_run),
        seconds_at_most=seconds.usual if seconds else None,
        seconds_interval=_ends(seconds),
        not_timed_trials=estimate.not_timed if estimate else 0,
        disk_bytes_at_most=disk.usual if disk else None,
        disk_bytes_interval=_ends(disk),
        usd_at_most=usd.usual if usd else None,
        usd_interval=_ends(usd),
    )


def _ends(value: Range | None) -> list[float] | None:
    return [value.least, value.most] if value else None


def _cost(study: Study, found: Calibration | None, seconds: Range | None) -> Range | None:
    """Price x workers held x time."""
    price = study.price_usd_per_worker_hour
    if price is None or found is None or seconds is None:
        return None
    return seconds.times(price * found.workers / 3600.0)


def _sum(rows: Sequence[PlanRow], name: str, extra: float = 0.0) -> tuple[float | None, list[float] | None]:
    """A quantity over all rows and its interval, or None where a part is unknown."""
    ranges = []
    for row in rows:
        usual, ends = row[f"{name}_at_most"], row[f"{name}_interval"]  # type: ignore[literal-required]
        if usual is None:
            return None, None
        ranges.append(Range(ends[0], usual, ends[1]))
    summed = total([*ranges, Range(extra, extra, extra)])
    return summed.usual, _ends(summed)


def plan_document(
    plan: Plan,
    study: Study,
    found: Calibration | None = None,
    left: Mapping[str, int] | None = None,
    *,
    limits: Sequence[tuple[str, float, float]] = (),
) -> dict[str, Any]:
    """What `scaleexp plan --json` prints: the study's settings, its totals and `plan_table`'s rows.

    Args:
        plan: the trials.
        study: what they come from.
        found: what a calibration says.
        left: as of `plan_table`.
        limits: (name, value, used by earlier runs) of each limit on what the study uses.
    """
    rows = plan_table(plan, study, found, left)
    seconds, seconds_ends = _sum(rows, "seconds")
    disk, disk_ends = _sum(rows, "disk_bytes", found.study_bytes if found else 0.0)
    usd, usd_ends = _sum(rows, "usd")
    return {
        "schema_version": PLAN_JSON_VERSION,
        "study": plan.study,
        "question": plan.question,
        "workload": identity(study),
        "optimizer": study.optimizer.model_dump(mode="json"),
        "base_batch_size": plan.base_batch_size,
        "base_lr": plan.base_lr,
        "trials": sum(row["trials"] for row in rows),
        "trials_ended": sum(row["trials_ended"] for row in rows),
        "second_realisations": sum(len(row["second_realisations"]) for row in rows),
        "samples_at_most": sum(row["samples_at_most"] for row in rows),
        "seconds_at_most": seconds,
        "seconds_interval": seconds_ends,
        "not_timed_trials": sum(row["not_timed_trials"] for row in rows),
        "disk_bytes_at_most": disk,
        "disk_bytes_interval": disk_ends,
        "peak_disk_bytes_at_most": disk_ends[1] + found.passing_bytes if found and disk_ends else None,
        "usd_at_most": usd,
        "usd_interval": usd_ends,
        "machine": {"workers": found.workers, "kind": found.kind} if found else None,
        "timings": found.repeats if found else 0,
        "limits": [{"limit": name, "value": value, "used": used} for name, value, used in limits],
        "rests_on": rests_on(study, found, rows),
        "batches": rows,
    }


def rests_on(study: Study, found: Calibration | None, rows: Sequence[PlanRow]) -> dict[str, str]:
    """What the numbers of time, disk and cost rest on, or why there are none, in words."""
    if found is None:
        return dict(OF_A_SCRIPT) if study.script else dict.fromkeys(("seconds", "disk_bytes", "usd"), NOT_MEASURED)
    real = sum(row["not_timed_trials"] for row in rows)
    trials = f"{real} trial{'s' if real > 1 else ''} of real workers"
    seconds = [f"The time of {trials} is not counted: measuring it takes launching them."] if real else []
    if found.repeats:
        seconds = [
            f"{found.repeats} timings of each kind of step and of an evaluation at each batch size; the interval is "
            f"from the fastest to the slowest, and {NOT_SEEN:.0%} beyond for what a few steps do not show. Ray's start "
            "comes on top, and so does all that keeps this machine busy meanwhile.",
            *(["The cluster of RAY_ADDRESS was not timed."] if found.elsewhere else []),
            *(["Trials end at their target, so that it usually takes less."] if study.targets else []),
            *seconds,
        ]
    kept = "every trial that ends keeps one" if study.checkpoint.keep_finished else "no trial that ends keeps one"
    disk = [
        f"rows and a state of this study, written to be measured, with random numbers for losses; {kept}.",
        "An interval is that of the time: who runs longer commits more often. Ray's own logs come on top.",
        *([f"So do commits by the clock of {trials}, whose time is not known."] if real else []),
    ]
    price = study.price_usd_per_worker_hour
    usd = f"${price:g} per {found.kind} and hour, all of this machine's held for that time." if price else NO_PRICE
    own = {"seconds": " ".join(seconds) or "nothing is left to run.", "disk_bytes": " ".join(disk), "usd": usd}
    return {**own, **found.said}
