"""What a probe found, to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]


def text(found: Entry) -> str:
    """The document as sentences and tables."""
    of = {entry["workers"]: entry for entry in found["throughput"]}
    device = found["device"] if found["device"] != "cpu" else f"{found['hardware']['processor']}, one core per worker"
    lines = [
        f"{found['study']} on {device}: {found['n_parameters']:,} parameters, {found['optimizer']}, {found['dtype']}",
        "",
        *_steps(found),
        "",
        *(_best(entry, found["unit"]) for entry in of.values()),
        _alignment(found["alignment"]),
        *_memory(found["memory"], found["unit"]),
        *_link(found),
        *_noisy(found),
        *(f"Note: {note}." for note in found["notes"]),
    ]
    return "\n".join(line for line in lines if line is not None)


def _steps(found: Entry) -> list[str]:
    """A row for each power of two; those beside them are in the file."""
    peaks = {entry["worker_batch"]: entry["peak_bytes"]["median"] for entry in found["memory"]["peaks"]}
    head = ("workers", "batch each", "step", "90 % interval", f"{found['unit']}s/s", "data", "forward", "backward")
    rows: list[Sequence[str]] = [(*head, "sync", "optimizer", "peak memory", "efficiency")]
    for step in found["steps"]:
        batch = step["worker_batch"]
        if batch not in peaks:
            continue
        whole = sum(part["median"] for part in step["parts_s"].values())
        shares = [f"{step['parts_s'][name]['median'] / whole:.0%}" for name in _PARTS]
        low, high = step["step_time_s"]["interval"]
        rows.append(
            (
                f"{step['workers']}",
                f"{batch:,}",
                seconds(step["step_time_s"]["median"]),
                f"{seconds(low)} to {seconds(high)}{' *' * step['step_time_s']['noisy']}",
                f"{step['samples_per_s']['median']:,.0f}",
                *shares,
                size(peaks[batch]) if step["workers"] == 1 else "",
                f"{step['efficiency']['median']:.0%}" if "efficiency" in step else "",
            )
        )
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in kept]
    return ["  ".join(row[i].rjust(width) for i, width in zip(kept, widths, strict=True)).rstrip() for row in rows]


_PARTS = ("data", "forward", "backward", "sync", "optimizer")


def _best(entry: Entry, unit: str) -> str:
    best, ends = entry["best_samples_per_s"], entry["smallest_worker_batch_interval"]
    workers = f"{entry['workers']} worker{'s' * (entry['workers'] > 1)}"
    between = "" if ends[0] == ends[1] else f" (between {ends[0]:,} and {ends[1]:,})"
    rising = ", the largest tried: throughput still rises" if entry["still_rising"] else ""
    low, high = best["interval"]
    return (
        f"{workers}: best {best['median']:,.0f} {unit}s/s ({low:,.0f} to {high:,.0f}) at "
        f"{entry['best_worker_batch']:,} each{rising}; within {100 * entry['within']:g} % of it from "
        f"{entry['smallest_worker_batch']:,}{between} on"
    )


def _alignment(found: Entry | None) -> str | None:
    """Whether powers of two are worth keeping to."""
    if found is None:
        return None
    low, high = found["ratio"]["interval"]
    told = f"{100 * (found['ratio']['median'] - 1):+.1f} % ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
    verdict = "faster than" if high < 1 else "slower than" if low > 1 else "not seen to differ from"
    clear = [e for e in found["by_worker_batch"] if e["clear"]]
    at = ", ".join(f"{e['worker_batch']:,} ({100 * (e['ratio']['median'] - 1):+.0f} %)" for e in clear)
    own = f"; clearly at {at}" if at else ""
    return f"Powers of two are {verdict} their neighbours, one sample more or less: step time {told}{own}"


def _memory(found: Entry, unit: str) -> list[str]:
    largest = found["largest_worker_batch"]
    kind = "GPU memory" if found["measured_by"] == "allocator" else "memory of the process"
    limit = size(found["limit_bytes"])
    per = found["bytes_per_sample"]
    grows = f"{kind} was not seen to grow"
    if per:
        low, high = found["bytes_per_sample_interval"]
        grows = f"{kind} grows by {size(per)} per {unit} ({size(low)} to {size(high)})"
    checked = largest["checked_worker_batch"]
    said = {
        "checked": f"a step of {checked or 0:,} took {size(largest['checked_bytes'] or 0)}",
        "extrapolated": f"checked up to {checked:,}" if checked else "not checked",
        "lower_bound": "a lower bound: a larger one was not tried",
        "refused": "no step near it fitted",
    }[largest["status"]]
    what = (
        f"all {largest['worker_batch']:,} {unit}s that a worker can have fit into {limit}"
        if largest["limited_by"] == "data"
        else f"up to {largest['worker_batch']:,} {unit}s fit into {limit}"
    )
    return [f"Memory: {grows}; {what} ({said})"]


def _link(found: Entry) -> list[str]:
    if found["link"] is None:
        return []
    own = [e for e in found["all_reduce"] if e["bytes"] == found["grad_bytes"] // 4 * 4]
    most = max(own, key=lambda e: e["workers"], default=None)
    rate = found["link"]["bytes_per_s"]
    ends = found["link"]["bytes_per_s_interval"]
    line = (
        f"All-reduce ({found['backend']}): {size(rate)}/s ({' to '.join(size(e) if e else 'more' for e in ends)}) and "
        if rate
        else f"All-reduce ({found['backend']}): "
    )
    low, high = found["link"]["latency_s_interval"]
    line += f"{seconds(found['link']['latency_s'])} a hop ({seconds(low)} to {seconds(high)})"
    if most:
        ends = most["seconds"]["interval"]
        line += (
            f"; the gradients, {size(most['bytes'])}, take {seconds(most['seconds']['median'])} on {most['workers']} "
            f"workers ({seconds(ends[0])} to {seconds(ends[1])})"
        )
    return [line]


def _noisy(found: Entry) -> list[str]:
    noisy = sum(step["step_time_s"]["noisy"] for step in found["steps"])
    if not noisy:
        return []
    return [f"* {noisy} of {len(found['steps'])} step times are noisy: something else runs on this machine"]


def seconds(value: float) -> str:
    """A duration with three digits.

    >>> seconds(0.0000123), seconds(0.01234), seconds(1.5)
    ('12.3 us', '12.3 ms', '1.5 s')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def size(value: float) -> str:
    """Bytes with three digits, decimal units.

    >>> size(4416.09), size(5.6e8)
    ('4.42 kB', '560 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} B"
