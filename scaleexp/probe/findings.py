"""What a probe measured -> what it found: every number a median over rounds with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleexp import facts
from scaleexp.probe.links import link
from scaleexp.probe.measure import Measured
from scaleexp.probe.memory_held import Memory, Row
from scaleexp.probe.repeats import CONFIDENCE, FloatArray, alignment, clear, repeated, smallest_within
from scaleexp.probe.sizes import triples

if TYPE_CHECKING:
    from scaleexp.config import Study

VERSION = 1
PARTS = ("data_s", "forward_s", "backward_s", "sync_s", "optimizer_s")
COLUMNS = (
    "workers",
    "nodes",
    "worker_batch",
    "accumulation_steps",
    "step_time_s",
    "sync_time_s",
    "grad_bytes",
    "round",
)
"""Of `measurements`, which `scaleexp simulate fit` reads; the parts of a step follow them."""


def document(study: Study, unit: str, found: Measured, within: float) -> dict[str, Any]:
    """`probe.json`, which `--json` prints too.

    Args:
        study: what was probed.
        unit: of its samples.
        found: what was measured.
        within: share of the best throughput that is good enough.
    """
    rows = measurements(found)
    return {
        "schema_version": VERSION,
        "study": study.name,
        "unit": unit,
        "dtype": study.dtype,
        "optimizer": study.optimizer.name,
        "created_utc": facts.utc_now(),
        "versions": facts.versions(),
        "hardware": facts.hardware(),
        **found.facts,
        "confidence": CONFIDENCE,
        "steps": [step for workers in found.visits for step in steps_of(found, workers)],
        "throughput": [throughput_of(found, workers, within) for workers in found.visits],
        "alignment": alignment_of(found),
        "memory": memory_of(found.memory),
        "all_reduce": all_reduce_of(found.all_reduce),
        "link": link_of(found.all_reduce),
        "notes": list(found.notes),
        "measurements": rows,
    }


def measurements(found: Measured) -> list[Row]:
    """A row for each visit, on one node: repeats one by one, so that a fit sees how far they scatter."""
    return [
        {
            "workers": workers,
            "nodes": 1,
            "worker_batch": visit["worker_batch"],
            "accumulation_steps": 1,
            "step_time_s": visit["step_time_s"],
            "sync_time_s": visit["sync_s"],
            "grad_bytes": found.facts["grad_bytes"],
            "round": visit["round"],
            **{part: visit[part] for part in PARTS if part != "sync_s"},
        }
        for workers, visits in found.visits.items()
        for visit in visits
    ]


def table(visits: Sequence[Row], column: str) -> tuple[list[int], FloatArray]:
    """(Worker batches, ascending; values, shape (rounds, sizes))."""
    sizes = sorted({visit["worker_batch"] for visit in visits})
    rounds = 1 + max(visit["round"] for visit in visits)
    values = np.full((rounds, len(sizes)), np.nan)
    for visit in visits:
        values[visit["round"], sizes.index(visit["worker_batch"])] = visit[column]
    whole = values[np.isfinite(values).all(axis=1)]
    return sizes, whole


def steps_of(found: Measured, workers: int) -> list[Row]:
    """One entry for each worker batch of this number of workers."""
    sizes, seconds = table(found.visits[workers], "step_time_s")
    parts = {part: table(found.visits[workers], part)[1] for part in PARTS}
    alone, own = table(found.visits[1], "step_time_s")
    entries = []
    for i, size in enumerate(sizes):
        entry = {
            "workers": workers,
            "worker_batch": size,
            "step_time_s": repeated(seconds[:, i]).document(),
            "samples_per_s": repeated(workers * size / seconds[:, i]).document(),
            "parts_s": {part.removesuffix("_s"): repeated(parts[part][:, i]).document() for part in PARTS},
        }
        if workers > 1 and size in alone:
            one = float(np.median(own[:, alone.index(size)]))
            entry["efficiency"] = repeated(one / seconds[:, i]).document()
        entries.append(entry)
    return entries


def throughput_of(found: Measured, workers: int, within: float) -> Row:
    """The best throughput, and the smallest worker batch that comes near."""
    sizes, seconds = table(found.visits[workers], "step_time_s")
    rates = workers * np.array(sizes) / seconds
    best = int(np.argmax(np.median(rates, axis=0)))
    least, ends = smallest_within(sizes, rates, within)
    return {
        "workers": workers,
        "best_worker_batch": sizes[best],
        "best_samples_per_s": repeated(rates[:, best]).document(),
        "within": within,
        "smallest_worker_batch": least,
        "smallest_worker_batch_interval": list(ends),
        "still_rising": best == len(sizes) - 1,
    }


def alignment_of(found: Measured) -> Row | None:
    """Powers of two against their neighbours; None where no batch was large enough to have them."""
    sizes, seconds = table(found.visits[1], "step_time_s")
    middles = triples(sizes, found.group)
    if not middles:
        return None
    ratios = np.column_stack([alignment(sizes, seconds, middle, found.group) for middle in middles])
    return {
        "ratio": repeated(np.median(ratios, axis=1)).document(),
        "by_worker_batch": [
            {
                "worker_batch": middle,
                "ratio": repeated(ratios[:, i]).document(),
                "clear": clear(ratios[:, i], len(middles)),
            }
            for i, middle in enumerate(middles)
        ],
    }


def memory_of(memory: Memory) -> Row:
    """Peaks, their growth, and the largest batch."""
    held = memory.growth
    sizes = sorted({row["worker_batch"] for row in memory.rows})
    peaks = {b: [row["peak_bytes"] for row in memory.rows if row["worker_batch"] == b] for b in sizes}
    return {
        "measured_by": "allocator" if memory.on_gpu else "resident set size",
        "limit_bytes": memory.limit_bytes,
        "free_bytes": memory.free_bytes,
        "peaks": [{"worker_batch": b, "peak_bytes": repeated(peaks[b]).document()} for b in sizes],
        "fixed_bytes": held.fixed_bytes if held.identified else None,
        "bytes_per_sample": held.bytes_per_sample if held.identified else None,
        "bytes_per_sample_interval": list(held.per_sample_interval()) if held.identified else None,
        "largest_worker_batch": largest_of(memory),
    }


def largest_of(memory: Memory) -> Row:
    """The largest batch that fits, as far as is known.

    `limited_by` memory or data. `status`: checked (a step of it ran), extrapolated (smaller ones did), lower_bound
    (memory was not seen to grow), refused (no step near it fitted).
    """
    held, (most, by) = memory.growth, memory.most
    ran = [check for check in memory.checks if memory.fits(check)]
    failed = [check.worker_batch for check in memory.checks if not memory.fits(check)]
    checked = ran[-1] if ran else None
    largest = checked.worker_batch if checked else max(row["worker_batch"] for row in memory.rows)
    ends: tuple[int, int] | None = None
    if held.identified and not (failed and checked):
        largest, ends = held.largest(memory.limit_bytes)
    elif failed:
        ends = (largest, min(failed) - 1)
    if most is not None and largest >= most:
        largest, ends = most, (min(ends[0], most) if ends else most, most)
    else:
        by = "memory"
    near = checked is not None and checked.worker_batch >= largest - largest // 100
    known = held.identified or bool(failed) or largest == most
    status = "checked" if near else "extrapolated" if checked or not failed else "refused"
    predicted = held.peak_bytes(checked.worker_batch) if checked and held.identified else None
    return {
        "worker_batch": largest,
        "interval": list(ends) if ends else None,
        "limited_by": by,
        "status": status if known else "lower_bound",
        "checked_worker_batch": checked.worker_batch if checked else None,
        "checked_bytes": checked.peak_bytes if checked else None,
        "predicted_bytes": predicted[0] if predicted else None,
        "predicted_interval": list(predicted[1]) if predicted else None,
        "did_not_fit": failed,
    }


def all_reduce_of(rows: Sequence[Row]) -> list[Row]:
    """One entry for each number of workers and bytes."""
    keys = sorted({(row["workers"], row["bytes"]) for row in rows})
    return [
        {
            "workers": p,
            "bytes": size,
            "seconds": repeated([r["seconds"] for r in rows if (r["workers"], r["bytes"]) == (p, size)]).document(),
        }
        for p, size in keys
    ]


def link_of(rows: Sequence[Row]) -> Row | None:
    """Bandwidth and latency that the all-reduces show; None without any."""
    if not rows:
        return None
    keys = sorted({(row["workers"], row["bytes"]) for row in rows})
    rounds = 1 + max(row["round"] for row in rows)
    seconds = np.empty((rounds, len(keys)))
    for row in rows:
        seconds[row["round"], keys.index((row["workers"], row["bytes"]))] = row["seconds"]
    found = link([p for p, _ in keys], [size for _, size in keys], seconds)
    known = np.isfinite(found.bytes_per_s)
    ends = [end if np.isfinite(end) else None for end in found.bytes_per_s_interval]
    return {
        "bytes_per_s": found.bytes_per_s if known else None,
        "bytes_per_s_interval": ends if known else None,
        "latency_s": found.latency_s,
        "latency_s_interval": list(found.latency_s_interval),
        "worst_error": found.worst_error,
    }
