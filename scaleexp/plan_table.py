"""What a plan would run, as a person reads it: the table of its batches, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scaleexp.narrowing_table import with_table
from scaleexp.plan_rows import PlanRow

_DISPENSABLE = ("steps\neach", "kappa", "LR\nnone", "disk", "samples\nin all")
"""Columns that follow from others or are in the totals, the first to go where a terminal is narrow."""


def render_plan(document: Mapping[str, Any], *, width: int = 80) -> str:
    """`plan_document` as text of at most `width` columns; where that is narrow, what follows from the rest goes."""
    rows = [row for row in document["batches"] if row["trials"] or row["second_realisations"]]
    columns = _columns(rows) if rows else {}
    return with_table(document["question"], columns, [_summary(document)], dispensable=_DISPENSABLE, width=width)


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
    if any(row["trials_ended"] for row in rows):
        columns["trials\nleft"] = [str(row["trials"] + len(row["second_realisations"])) for row in rows]
    else:
        columns["LRs x\nseeds"] = [_trials(row) for row in rows]
    columns["steps\neach"] = [_short(row["steps_per_trial_at_most"]) for row in rows]
    columns["samples\nin all"] = [_short(row["samples_at_most"]) for row in rows]
    if any(row["seconds_at_most"] is not None for row in rows):
        columns["time"] = [duration(row["seconds_at_most"]) for row in rows]
    if any(row["disk_bytes_at_most"] is not None for row in rows):
        columns["disk"] = [byte_count(row["disk_bytes_at_most"]) for row in rows]
    if any(row["usd_at_most"] is not None for row in rows):
        columns["cost"] = [dollars(row["usd_at_most"]) for row in rows]
    return columns


def _summary(document: Mapping[str, Any]) -> str:
    """Totals, what they rest on, and the legend, in sentences."""
    second, ended, rests = document["second_realisations"], document["trials_ended"], document["rests_on"]
    again = f" + {second} run a second time in another way" if second else ""
    over = f" ({ended} have ended already and are not counted)" if ended else ""
    machine = document["machine"] if document["seconds_at_most"] is not None else None
    here = f" on {count_of(machine['workers'], machine['kind'])} of this machine" if machine else ""
    lines = [
        f"{document['trials']} trials{again}{over}: at most {_short(document['samples_at_most'])} samples",
        f"time: {_told(document, 'seconds', duration)}{here}",
        f"disk: {_told(document, 'disk_bytes', byte_count)}{_at_peak(document)}",
        f"cost: {_told(document, 'usd', dollars)}",
        *(_limit(row) for row in document["limits"]),
        "",
        *(f"{name}: {rests[key]}" for name, key in (("time", "seconds"), ("disk", "disk_bytes"), ("cost", "usd"))),
        f"kappa: batch / base batch of {document['base_batch_size']}, where the LR is {document['base_lr']:.4g}.",
    ]
    return "\n".join(lines)


def _told(document: Mapping[str, Any], name: str, said: Callable[[float], str]) -> str:
    """A quantity with its interval, in words."""
    usual, ends = document[f"{name}_at_most"], document[f"{name}_interval"]
    if usual is None:
        return "not known"
    least, most = map(said, ends)
    return f"at most {said(usual).lstrip('<')}" + (f" ({least} to {most})" if least != most else "")


def _at_peak(document: Mapping[str, Any]) -> str:
    """What is on the disk while trials run, where that is more than what stays."""
    peak, ends = document["peak_disk_bytes_at_most"], document["disk_bytes_interval"]
    return f", {byte_count(peak)} while it runs" if peak and peak > ends[1] else ""


def _limit(row: Mapping[str, Any]) -> str:
    """Where a limit stops the study, and how far it is from there."""
    value, used = (limit_value(row["limit"], row[name]) for name in ("value", "used"))
    earlier = "in each run of the command" if row["limit"] == "limits.wall_s" else f"over all runs; {used} are used"
    return f"{row['limit']}: stops it at {value} {earlier}"


def limit_value(limit: str, value: float) -> str:
    """A limit, or what was used of it, in its unit.

    >>> limit_value("limits.usd", 2.5), limit_value("limits.gpu_hours", 2.5), limit_value("limits.wall_s", 2.5)
    ('$2.50', '2.5 GPU hours', '2.5 s')
    """
    if limit == "limits.usd":
        return dollars(value)
    return duration(value) if limit == "limits.wall_s" else f"{value:.3g} GPU hours"


def count_of(count: float, what: str) -> str:
    """A count with its noun.

    >>> count_of(1, "GPU"), count_of(2.0, "CPU core")
    ('1 GPU', '2 CPU cores')
    """
    return f"{count:g} {what}{'' if count == 1 else 's'}"


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


def byte_count(count: float | None) -> str:
    """Bytes with three digits; a question mark where they are unknown.

    >>> byte_count(999), byte_count(12_345), byte_count(4.56e9), byte_count(None)
    ('999 B', '12.3 kB', '4.56 GB', '?')
    """
    if count is None:
        return "?"
    for divisor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= divisor * 0.9995:
            return f"{count / divisor:.3g} {unit}"
    return f"{count:.0f} B"
