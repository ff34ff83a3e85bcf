"""A study of a thousand trials: planned, run on Ray, looked at, fitted, each by the command that a user gives.

ratio = time per trial of `scaleexp status` at 1,000 trials over that at 100 trials, in this process, where 1 is linear:
one look at the large study and ten at the small one in turn. The seconds of each command are those of a process with
the start of Python; `status_s` has a bar of its own, `status_bar_s`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import analysis.read
from tests.benchmarks import ours
from tests.benchmarks.harness import ALTERNATIONS, alternate, options, ratio, report, seconds_of
from tests.benchmarks.processes import run

BAR = 1.1
STATUS_BAR_S = 2.0
LOOKS = 5
"""Times that a short command is timed; their median is reported."""

STUDY = (
    "workload={name: quadratic, dimensions: 16, decay: 0.5}",
    "targets=[{metric: expected_loss, values: [0.5]}]",
    "worker_batch=2",
    "base={batch_size: 16, lr: 0.25}",
    "lr_rules=[sqrt]",
    "lr_multipliers={count: 5, span: 8}",
    "limits.samples=8192",
    "evaluation.every_samples=32",
)
WORKERS, QUICK_WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (1, 4, 16)
SEEDS, FEWER_SEEDS, QUICK_SEEDS = 20, 2, 4


def overrides(workers: tuple[int, ...], seeds: int) -> list[str]:
    """A study of 5 learning rates x batches x seeds."""
    return [*STUDY, f"workers={list(workers)}", f"seeds={seeds}"]


def command_s(*words: str, times: int = 1) -> float:
    """Seconds of a command, a process of its own; the median."""
    return float(np.median([seconds_of(lambda: run(ours.command(*words))) for _ in range(times)]))


def run_s(root: Path, sets: list[str]) -> float:
    """Seconds of the command that runs a study, every trial of which must end."""
    seconds = command_s("scaleexp", "run", "quadratic", "--yes", "--storage", str(root), *ours.options_of(sets))
    ended = ours.status(root)
    assert ended.keys() <= {"reached", "limit", "diverged"}, f"some trials did not end: {ended}"
    return seconds


def commands(root: Path, sets: list[str], times: int) -> dict[str, Any]:
    """Seconds of each command on a study that has ended, and in this process of what they do."""
    study = ours.prepared(sets, "quadratic")
    return {
        "plan_s": command_s("scaleexp", "plan", "quadratic", "--no-calibrate", *ours.options_of(sets)),
        "list_s": command_s("scaleexp", "list", "studies", times=times),
        "status_s": command_s("scaleexp", "status", str(root), times=times),
        "status_bar_s": STATUS_BAR_S,
        "fit_s": command_s("analysis", "fit", str(root)),
        "unfinished_in_process_s": seconds_of(lambda: ours.still_to_run(root, study)),
        "read_in_process_s": seconds_of(lambda: analysis.read.load(root)),
    }


def main() -> None:
    """The large study and the small one."""
    quick = options(__doc__).parse_args().quick
    workers, seeds = (QUICK_WORKERS, QUICK_SEEDS) if quick else (WORKERS, SEEDS)
    fewer = 1 if quick else FEWER_SEEDS
    with tempfile.TemporaryDirectory() as directory:
        large, small = Path(directory) / "large", Path(directory) / "small"
        run_small_s = run_s(small, overrides(workers, fewer))
        run_large_s = run_s(large, overrides(workers, seeds))
        trials = sum(ours.status(large).values())
        looks = trials // sum(ours.status(small).values())
        print(f"{trials} trials run in {run_large_s:.1f} s", flush=True)
        large_s, small_s = alternate(
            lambda: ours.status(large),
            lambda: [ours.status(small) for _ in range(looks)],
            2 if quick else ALTERNATIONS,
        )
        more = commands(large, overrides(workers, seeds), 1 if quick else LOOKS)
    print("\n".join(f"{name} {seconds:.2f}" for name, seconds in more.items()))
    report(
        "many_trials",
        ratio(large_s, small_s, bar=BAR, at_most=True),
        trials=trials,
        fewer_trials=trials // looks,
        trials_per_minute=60 * trials / run_large_s,
        run_s=run_large_s,
        run_fewer_s=run_small_s,
        status_in_process_s=float(np.median(large_s)),
        **more,
    )


if __name__ == "__main__":
    main()
