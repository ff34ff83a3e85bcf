"""What recording a training loop of one's own costs: step time with `scaleexp.track` and `run.watch` over without.

`ratio`: a raw PyTorch loop with two accumulated micro-batches, clipping and SGD, on a network of more than a million
parameters; one side is tracked and watched at the default cadence, the other is the same loop with neither. Both run
in turn in one process, each on a model of its own, and a block is a whole number of cadences.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable

import torch
from torch import nn

import scaleexp
from scaleexp.run import Run
from tests.benchmarks.harness import ALTERNATIONS, alternate, options, ratio, report, seconds_of

BAR = 1.05
BLOCK_S = 0.5
WIDTH, BATCH = 1024, 128
LR = 0.01


class Loop:
    """One side: a model, its optimizer, and a run if it is tracked."""

    def __init__(self, run: Run | None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9)
        self.x, self.y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
        self.run, self.losses = run, 0.0
        if run is not None:
            run.watch(self.model)

    def steps(self, count: int) -> None:
        """Train so many steps."""
        half = BATCH // 2
        for _ in range(count):
            total = 0.0
            for part in (slice(0, half), slice(half, BATCH)):
                loss = nn.functional.cross_entropy(self.model(self.x[part]), self.y[part]) / 2
                loss.backward()
                total += loss.item()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.losses += total  # both sides read their loss
            if self.run is not None:
                self.run.step(loss=total, batch_size=BATCH)


def main() -> None:
    """Both sides in turn."""
    arguments = options(__doc__).parse_args()
    alternations, block_s = (2, 0.05) if arguments.quick else (ALTERNATIONS, BLOCK_S)
    torch.set_num_threads(1)
    logging.getLogger("scaleexp").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="scaleexp-track-") as root:
        stated = {"batch_size": BATCH, "unit": "example", "workers": 1, "lr": LR, "seed": 0, "accumulation_steps": 2}
        with scaleexp.track(storage=root, name="overhead", **stated) as run:
            tracked, plain = Loop(run), Loop(None)
            plain.steps(5)
            tracked.steps(8)  # of which the last ones are timed for the cadence
            every = run.noise_every
            assert every is not None
            one_s = seconds_of(lambda: plain.steps(5)) / 5
            block = every * max(1, round(block_s / one_s / every))
            times = alternate(_block(tracked, block), _block(plain, block), alternations)
    parameters = sum(p.numel() for p in plain.model.parameters())
    report(
        "track_overhead",
        ratio(*times, bar=BAR, at_most=True),
        every_steps=every,
        block_steps=block,
        parameters=parameters,
    )


def _block(loop: Loop, steps: int) -> Callable[[], object]:
    return lambda: loop.steps(steps)


if __name__ == "__main__":
    main()
