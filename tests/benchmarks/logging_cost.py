"""What the log costs: step time of the loop with the log of a study over step time without.

One trial whose step takes about 10 ms, every step a row, commits included: the one before step 0, the one with the
trial's state at the end of a block, and by the clock in between. Nothing else differs: the same engine, steps and
learning rate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from tests.benchmarks import ours
from tests.benchmarks.harness import alternate, options, ratio, report, seconds_of, told

BAR = 1.01
HIDDEN, FIRST_BATCH = (256, 128), 256
STEP_S, BLOCK_S = 0.01, 6.0
TURNS = 30
"""Alternations: one percent is less than two blocks of one side differ by."""
LR = 0.001
NEVER = 1 << 40


def batch_of(workload: ours.Workload, step_s: float) -> tuple[int, float]:
    """The batch size whose step takes about so long on this machine, a multiple of 32, and how long it does take."""
    batch = FIRST_BATCH
    for tries_left in (2, 1, 0):
        engine = ours.packed_engine(workload, [0], batch)
        ours.steps(engine, [LR], batch, count=5)
        took = min(seconds_of(lambda e=engine, b=batch: ours.steps(e, [LR], b, count=20)) / 20 for _ in range(3))
        if 0.9 < took / step_s < 1.1 or not tries_left:
            break
        batch = max(1, round(batch * step_s / took / 32)) * 32
    return batch, took


def main() -> None:
    """A B A B blocks of steps."""
    quick = options(__doc__).parse_args().quick
    torch.set_num_threads(1)
    workload = ours.Classifier(hidden=HIDDEN)
    batch, step_s = batch_of(workload, STEP_S)
    engine = ours.packed_engine(workload, [0], batch)
    ours.steps(engine, [LR], batch, count=5)
    block = max(5, int((0.1 if quick else BLOCK_S) / step_s))

    def until_done() -> Callable[[], str]:
        taken = count(1)
        return lambda: "the block is done" if next(taken) == block else ""

    with tempfile.TemporaryDirectory() as directory:
        numbered = count()

        def side(logged: bool) -> Callable[[], None]:
            def run() -> None:
                root = Path(directory) / str(next(numbered)) if logged else None
                ours.train_until(engine, LR, batch, noise_every=NEVER, root=root, stop=until_done())

            return run

        logged_s, plain_s = alternate(side(True), side(False), 2 if quick else TURNS)
    found = ratio(logged_s, plain_s, bar=BAR, at_most=True)
    print(f"logging_cost at {1000 * step_s:.1f} ms a step: {told(found)}", flush=True)
    report("logging_cost", found, {}, step_s=step_s, aimed_step_s=STEP_S, batch_size=batch, steps=block)


if __name__ == "__main__":
    main()
