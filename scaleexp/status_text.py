"""What `scaleexp status` prints: a screenful, however many trials there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from scaleexp import schema
from scaleexp.plan_table import duration, limit_value
from scaleexp.status import Driver, LimitRow, StatusDocument, TrialRow

MOST_BATCHES, MOST_CAUSES = 16, 3
"""Lines of the table and causes of failure that are shown unless all are asked for."""
_STEP = re.compile(r" \(after step \d+\)$")
_WORDS = {
    "reached": "reached the target",
    "limit": "ended at the sample limit without it",
    "diverged": "diverged",
    "running": "running",
    "stopped": "stopped where they were",
    "failed": "failed",
    "waiting": "waiting",
}


def rendered(document: StatusDocument, *, width: int, everything: bool = False) -> str:
    """As a person reads it.

    Args:
        document: what is known.
        width: of the terminal [columns].
        everything: every batch size, cause and trial, however many.
    """
    rows = document["rows"]
    shown = sorted({row["batch_size"] for row in rows}) if everything else _shown_batches(rows)
    alive = document["driver"] is not None and document["driver"]["running"]
    lines = [f"{document['study']}: {document['question']}", *headlines(document)]
    lines.append(_text(_batch_table(rows, shown, alive), width))
    left_out = len({row["batch_size"] for row in rows}) - len(shown)
    if left_out:
        lines.append(f"and {left_out} more batch sizes: --all shows them, and every trial")
    lines += _failures(rows, most=len(rows) if everything else MOST_CAUSES)
    if everything:
        lines.append(_text(_trial_table(rows, alive), width))
    return "\n".join(line for line in lines if line)


def headlines(document: StatusDocument) -> list[str]:
    """Who runs it, how its trials stand, and how much of its limits is used: a line each."""
    alive = document["driver"] is not None and document["driver"]["running"]
    limits = [_told_limit(limit) for limit in document["limits"]]
    return [_told(document), _counted(document["trials"], alive), *limits]


def causes(document: StatusDocument) -> list[str]:
    """The most frequent causes of failure, a line each."""
    return list(_failures(document["rows"], most=MOST_CAUSES))


def _shown_batches(rows: Sequence[TrialRow]) -> list[int]:
    """The batch sizes of which most is to be said, ascending: where something failed or runs, then the smallest."""

    def rank(batch: int) -> tuple[int, int]:
        states = {row["status"] for row in rows if row["batch_size"] == batch}
        return (0 if "failed" in states else 1 if "running" in states else 2, batch)

    return sorted(sorted({row["batch_size"] for row in rows}, key=rank)[:MOST_BATCHES])


def _counted(trials: Mapping[str, int], alive: bool) -> str:
    """How the trials stand, in words."""
    words = _WORDS | ({} if alive else {"running": "interrupted"})
    return ", ".join(f"{trials[status]} {word}" for status, word in words.items() if trials.get(status))


def _batch_table(rows: Sequence[TrialRow], batches: Sequence[int], alive: bool) -> Table:
    """One line per batch size; a column for each state that some trial of the study is in."""
    states = {row["key"]: _state(row) for row in rows}
    shown = [s for s in ("ended", "running", "waiting", "stopped", "failed") if s in states.values()]
    names = ["interrupted" if name == "running" and not alive else name for name in shown]
    table = _table("batch", "workers", "trials", *names, "furthest step", "of at most")
    for batch in batches:
        own = [row for row in rows if row["batch_size"] == batch]
        count = Counter(states[row["key"]] for row in own)
        workers = "/".join(str(w) for w in sorted({row["workers"] for row in own}))
        furthest = max(row["step"] for row in own)
        limit = max((row["limit_samples"] or 0) // batch for row in own)
        numbers = [*(count[s] for s in shown), furthest, limit]
        table.add_row(str(batch), workers, str(len(own)), *(str(n or "") for n in numbers))
    return table


def _trial_table(rows: Sequence[TrialRow], alive: bool) -> Table:
    """One line per trial."""
    table = _table("trial", "batch", "workers", "LR", "seed", "status", "step", "of at most")
    for row in rows:
        status = "interrupted" if row["status"] == "running" and not alive else row["status"]
        limit = (row["limit_samples"] or 0) // row["batch_size"]
        numbers = [row["batch_size"], row["workers"], f"{row['lr']:.4g}", row["seed"]]
        table.add_row(row["key"], *map(str, numbers), status, str(row["step"] or ""), str(limit or ""))
    return table


def _failures(rows: Sequence[TrialRow], *, most: int) -> Iterator[str]:
    """Causes of failure with the number of trials of each, the most frequent first."""
    causes: dict[str, list[TrialRow]] = {}
    for row in rows:
        if row["status"] == "failed":
            causes.setdefault(_STEP.sub("", row["cause"]), []).append(row)
    ordered = sorted(causes.items(), key=lambda found: -len(found[1]))
    for cause, own in ordered[:most]:
        which = (
            f"trial {own[0]['key']} failed" if len(own) == 1 else f"{len(own)} trials failed, as {own[0]['key']} did"
        )
        yield f"{which}: {cause}"
    if len(ordered) > most:
        others = sum(len(own) for _, own in ordered[most:])
        yield f"and {others} more failed, of {len(ordered) - most} other causes: --all shows them"


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in ("trial", "status") else "right", no_wrap=True)
    return table


def _text(table: Table, width: int) -> str:
    """A table as text of at most `width` columns."""
    file = StringIO()
    Console(file=file, width=width, highlight=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines() if line.strip())


def _state(row: TrialRow) -> str:
    """Its column."""
    return "ended" if row["status"] in schema.FINAL_STATUSES else row["status"]


def _told(document: StatusDocument) -> str:
    """Who runs it, and for how long."""
    driver, total = document["driver"], len(document["rows"])
    ended = sum(document["trials"].get(s, 0) for s in schema.FINAL_STATUSES)
    done = f"{ended}/{total} trials ended"
    if driver is None:  # none is recorded where `track` wrote the study, or an earlier version
        return f"{done}; {'not started' if document['trials'].get('waiting', 0) == total else 'nobody runs it'}"
    if not driver["running"]:
        return f"{done}; nobody runs it" + ("" if ended == total else told_last(driver))
    seen = "" if driver["silent_s"] is None else f", last sign of life {duration(driver['silent_s'])} ago"
    eta = "" if document["eta_s"] is None else f", about {duration(document['eta_s'])} left"
    return f"{done}; {'stopping' if driver['stopping'] else 'run'} by {_who(driver)}{seen}{eta}"


def told_last(driver: Driver) -> str:
    """Who ran a study last, and where that ended without a word, when and what to do.

    >>> told_last(Driver(lease=1, running=False, host="a", pid=7, stopping=False, silent_s=75.0))
    ': process 7 on a gave its last sign of life 1m15s ago; the same `scaleexp run` command takes over'
    """
    if driver["silent_s"] is None:
        return f" (last was {_who(driver)})"
    ago = duration(driver["silent_s"])
    return f": {_who(driver)} gave its last sign of life {ago} ago; the same `scaleexp run` command takes over"


def _who(driver: Driver) -> str:
    return f"process {driver['pid']} on {driver['host']}"


def _told_limit(row: LimitRow) -> str:
    """How much of a limit is used."""
    value, used = (limit_value(row["limit"], amount) for amount in (row["value"], row["used"]))
    return (
        f"{row['limit']}: {used} of {value} used {'by this run' if row['limit'] == 'limits.wall_s' else 'by all runs'}"
    )
