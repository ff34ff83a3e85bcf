"""What a plan would run, batch by batch: the numbers first, then the table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, TypedDict

from rich import box
from rich.console import Console
from rich.table import Table

from scaleexp.config import Study
from scaleexp.facts import usable_cores
from scaleexp.trial import Plan, Trial

PLAN_JSON_VERSION = 1
"""Version of `scaleexp plan --json`, whose JSON Schema is schemas/plan.json."""


class PlanRow(TypedDict):
    """One batch size of a plan; "at most" counts trials that run to their sample limit."""

    batch_size: int  # workers x accumulation_steps x micro_batch [samples]
    workers: int
    accumulation_steps: int
    micro_batch: int
    kappa: float  # batch_size / base batch
    rule_lrs: dict[str, float]
    grid_lrs: list[float]
    seeds: int
    trials: int  # first realisations: LRs x seeds
    second_realisations: list[str]
    steps_per_trial_at_most: int
    samples_at_most: int  # over all trials and second realisations
    seconds_at_most: float | None
    usd_at_most: float | None


def plan_table(plan: Plan, study: Study, seconds: Mapping[int, float] | None = None) -> list[PlanRow]:
    """One row per batch size, ascending.

    Args:
        plan: the trials.
        study: what they come from.
        seconds: estimated wall time of all trials of a batch size, run to their limit, by batch size [seconds];
            a batch without an estimate has none.
    """
    by_batch: dict[int, list[Trial]] = {}
    for trial in plan.trials:
        by_batch.setdefault(trial.batch_size, []).append(trial)
    known = seconds or {}
    return [_row(plan, study, by_batch[batch_size], known.get(batch_size)) for batch_size in sorted(by_batch)]


def _row(plan: Plan, study: Study, trials: Sequence[Trial], seconds: float | None) -> PlanRow:
    first = [trial for trial in trials if not trial.realisation]
    one = first[0]
    price = study.price_usd_per_worker_hour
    return PlanRow(
        batch_size=one.batch_size,
        workers=one.workers,
        accumulation_steps=one.accumulation_steps,
        micro_batch=one.micro_batch,
        kappa=one.batch_size / plan.base_batch_size,
        rule_lrs={label["rule"]: label["lr"] for label in plan.labels if label["batch_size"] == one.batch_size},
        grid_lrs=sorted({trial.lr for trial in first}),
        seeds=len({trial.seed for trial in first}),
        trials=len(first),
        second_realisations=[trial.realisation for trial in trials if trial.realisation],
        steps_per_trial_at_most=one.limit_steps,
        samples_at_most=sum(trial.limit_steps * trial.batch_size for trial in trials),
        seconds_at_most=seconds,
        usd_at_most=None if price is None or seconds is None else price * usable_cores() * seconds / 3600,
    )


def _total(values: Sequence[float | None]) -> float | None:
    """Sum, or None where a part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def plan_document(plan: Plan, study: Study, seconds: Mapping[int, float] | None = None) -> dict[str, Any]:
    """What `scaleexp plan --json` prints: the study's settings, its totals and `plan_table`'s rows."""
    rows = plan_table(plan, study, seconds)
    return {
        "schema_version": PLAN_JSON_VERSION,
        "study": plan.study,
        "question": plan.question,
        "workload": study.workload.model_dump(mode="json"),
        "optimizer": study.optimizer.model_dump(mode="json"),
        "base_batch_size": plan.base_batch_size,
        "base_lr": plan.base_lr,
        "trials": sum(row["trials"] for row in rows),
        "second_realisations": sum(len(row["second_realisations"]) for row in rows),
        "samples_at_most": sum(row["samples_at_most"] for row in rows),
        "seconds_at_most": _total([row["seconds_at_most"] for row in rows]),
        "usd_at_most": _total([row["usd_at_most"] for row in rows]),
        "batches": rows,
    }


def render_plan(document: Mapping[str, Any], *, width: int = 80) -> str:
    """`plan_document` as text of at most `width` columns; where that is narrow, what follows from the rest goes."""
    buffer = StringIO()
    console = Console(file=buffer, width=width, color_system=None, force_terminal=False, highlight=False)
    columns = _columns(document["batches"])
    for dispensable in ("steps\neach", "kappa"):
        if console.measure(_as_table(columns), options=console.options.update(width=10_000)).maximum > width:
            del columns[dispensable]
    console.print(document["question"], markup=False)
    console.print(_as_table(columns))
    console.print(_summary(document), markup=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def _as_table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _columns(rows: Sequence[PlanRow]) -> dict[str, list[str]]:
    """Header -> cells, one per row; accumulation, time and cost only where there is any."""
    accumulates = any(row["accumulation_steps"] > 1 for row in rows)
    columns = {
        "batch": [str(row["batch_size"]) for row in rows],
        "workers\nx acc\nx micro" if accumulates else "workers\nx micro": [_split(row, accumulates) for row in rows],
        "kappa": [f"{row['kappa']:.3g}" for row in rows],
    }
    for rule in rows[0]["rule_lrs"]:
        columns[f"LR\n{rule.rpartition(':')[2]}"] = [f"{row['rule_lrs'][rule]:.3g}" for row in rows]
    columns["LRs x\nseeds"] = [_trials(row) for row in rows]
    columns["steps\neach"] = [_short(row["steps_per_trial_at_most"]) for row in rows]
    columns["samples\nin all"] = [_short(row["samples_at_most"]) for row in rows]
    if any(row["seconds_at_most"] is not None for row in rows):
        columns["time"] = [duration(row["seconds_at_most"]) for row in rows]
    if any(row["usd_at_most"] is not None for row in rows):
        columns["cost"] = [dollars(row["usd_at_most"]) for row in rows]
    return columns


def _summary(document: Mapping[str, Any]) -> str:
    """Totals and the legend, in sentences."""
    second = document["second_realisations"]
    again = f" + {second} run a second time in another way" if second else ""
    bounds = [f"{_short(document['samples_at_most'])} samples"]
    if document["seconds_at_most"] is not None:
        bounds.append(duration(document["seconds_at_most"]))
    if document["usd_at_most"] is not None:
        bounds.append(dollars(document["usd_at_most"]))
    return (
        f"{document['trials']} trials{again}: at most {', '.join(bounds)}. "
        "A trial that reaches its hardest target stops there.\n"
        f"kappa = batch / base batch of {document['base_batch_size']}, where the LR is {document['base_lr']:.4g}."
    )


def _split(row: PlanRow, accumulates: bool) -> str:
    accumulation = f"{row['accumulation_steps']} x " if accumulates else ""
    return f"{row['workers']} x {accumulation}{row['micro_batch']}"


def _trials(row: PlanRow) -> str:
    second = len(row["second_realisations"])
    return f"{len(row['grid_lrs'])} x {row['seeds']}" + (f" + {second}" if second else "")


def _short(count: float) -> str:
    """A count in at most five characters.

    >>> _short(999), _short(40000), _short(1234567)
    ('999', '40k', '1.23M')
    """
    for divisor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= divisor * 0.9995:
            return f"{count / divisor:.3g}{letter}"
    return f"{count:g}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them; a question mark where they are unknown.

    >>> duration(3.21), duration(75.0), duration(4000.0), duration(1e6), duration(None)
    ('3.2 s', '1m15s', '1h07m', '278 h', '?')
    """
    if seconds is None:
        return "?"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes:02d}m" if hours < 100 else f"{seconds / 3600:,.0f} h"


def dollars(usd: float | None) -> str:
    """Dollars with two digits; a question mark where they are unknown.

    >>> dollars(1234.5), dollars(0.001), dollars(None)
    ('$1,234.50', '<$0.01', '?')
    """
    if usd is None:
        return "?"
    return "<$0.01" if 0 < usd < 0.01 else f"${usd:,.2f}"
