"""Peak memory of this process since it was last asked: of the GPU by its allocator, of the host by resident pages."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin(device: torch.device) -> None:
    """Forget the peak so far.

    Where the kernel does not forget it, as outside of Linux, peaks only ever grow: ask for ascending sizes.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5")
    except OSError:
        return


def peak_bytes(device: torch.device) -> int:
    """Most bytes held at once since then: tensors on a GPU; everything, Python included, on the host."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else _most_ever()


def _most_ever() -> int:
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def free_bytes(device: torch.device) -> int:
    """What a process may take now: free on the GPU, or available on the host and in its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    bounds = [_available(), *_of_control_group()]
    return min(bound for bound in bounds if bound > 0)


def _available() -> int:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    from scaleexp.facts import hardware

    return int(hardware()["memory_bytes"] or 0) // 2


def _of_control_group() -> list[int]:
    """Limit less use, of either version of control groups; a container sees its own at the root."""
    found = []
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            held = [Path("/sys/fs/cgroup", name).read_text().strip() for name in (most, used)]
        except OSError:
            continue
        if all(text.isdigit() for text in held):
            found.append(int(held[0]) - int(held[1]))
    return found
