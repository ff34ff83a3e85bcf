"""One trial of a million logged steps: what memory, files and time grow with.

ratio = peak resident size at the last step over that after a tenth of the steps; 1 is bounded memory. The trial is
tiny (a step of less than a millisecond) and commits every second, so that it commits as often as one of hours does.
It runs in a forked child as a worker runs it; another child reads the log, where every step must be there once.
One run: the interval is the value.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import analysis.read
from tests.benchmarks import ours
from tests.benchmarks.harness import Ratio, options, report

BAR = 1.05
STEPS, QUICK_STEPS = 1_000_000, 4_000
COMMIT_S, QUICK_COMMIT_S = 1.0, 0.02
BATCH = 4


def overrides(steps: int, commit_s: float) -> list[str]:
    """A trial that comes to no target."""
    return [
        "workload={name: quadratic, dimensions: 4}",
        "targets=[{metric: expected_loss, values: [1.0e-9]}]",
        "dtype=float32",
        "workers=[1]",
        f"worker_batch={BATCH}",
        f"base={{batch_size: {BATCH}, lr: 0.0001}}",
        "seeds=[0]",
        "lr_multipliers=[1]",
        "lr_rules=[none]",
        f"limits.samples={BATCH * steps}",
        f"evaluation.every_samples={BATCH * 100}",
        f"checkpoint.every_s={commit_s}",
    ]


def peak_bytes() -> float:
    """Of this process so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def trained(answer: Connection, root: Path, steps: int, commit_s: float) -> None:
    """Send (key, peak bytes and seconds after each tenth of the steps)."""
    begin, marks = time.perf_counter(), []
    count = 0

    def each_step() -> None:
        nonlocal count
        count += 1
        if count % (steps // 10) == 0:
            marks.append((peak_bytes(), time.perf_counter() - begin))

    key = ours.run_watched(overrides(steps, commit_s), root, each_step)
    answer.send((key, marks))


def read(answer: Connection, root: Path) -> None:
    """Send (rows, whether every step is there once and in order, bytes of the table, peak bytes before and after)."""
    before = peak_bytes()
    table = analysis.read.read_steps(analysis.read.load(root), ["step", "loss"])
    steps = table["step"].to_numpy()
    whole = bool(np.array_equal(steps, np.arange(1, len(steps) + 1)))
    answer.send((table.num_rows, whole, table.nbytes, before, peak_bytes()))


def in_child(work: Callable[..., None], *arguments: object) -> Any:
    """What a forked child sends; one started by exec would keep its parent's peak."""
    forked = multiprocessing.get_context("fork")
    receiver, sender = forked.Pipe(duplex=False)
    process = forked.Process(target=work, args=(sender, *arguments))
    process.start()
    sender.close()
    found = receiver.recv()  # EOFError where the child died
    process.join()
    return found


def main() -> None:
    """The trial, then its reader."""
    quick = options(__doc__).parse_args().quick
    steps, commit_s = (QUICK_STEPS, QUICK_COMMIT_S) if quick else (STEPS, COMMIT_S)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        key, marks = in_child(trained, root, steps, commit_s)
        rows, whole, table_bytes, before, after = in_child(read, root)
        assert rows == steps, f"the log has {rows} steps of {steps}"
        assert whole, "a step is missing or there twice"
        commit, trial = ours.committed(root, key), root / "trials" / key
        sizes = {place.name: [f.stat().st_size for f in place.iterdir()] for place in trial.iterdir() if place.is_dir()}
    peaks = [peak for peak, _ in marks]
    for i, (peak, seconds) in enumerate(marks, start=1):
        print(f"{i * steps // 10:>9,} steps: {seconds:6.1f} s, peak {peak / 1e6:.1f} MB")
    value = peaks[-1] / peaks[0]
    report(
        "long_run",
        Ratio(value=value, low=value, high=value, bar=BAR, at_most=True),
        steps=steps,
        peak_bytes=peaks[-1],
        growth_bytes=peaks[-1] - peaks[0],
        growth_bytes_per_step=(peaks[-1] - peaks[0]) / (0.9 * steps),
        step_s=marks[-1][1] / steps,
        step_last_tenth_s=(marks[-1][1] - marks[-2][1]) / (steps / 10),
        commits=commit["number"],
        segments_bound=len(commit["segments"]),
        segments_written=len(sizes["segments"]),
        segment_bytes=sum(sizes["segments"]),
        commit_bytes=sum(sizes["commits"]),
        last_commit_bytes=max(sizes["commits"]),
        rows=rows,
        reader_growth_bytes=after - before,
        table_bytes=table_bytes,
    )


if __name__ == "__main__":
    main()
