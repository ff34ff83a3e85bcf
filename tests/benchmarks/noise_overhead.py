"""What measuring the gradient noise scale costs, and how good it is; beside `gns-pytorch` where that is installed.

`ratio_CASE`: step time with noise measured at its default cadence over step time without, packed and ddp engines; the
headline is the worst. `gns_cost_ratio_*`: seconds that one measurement adds to a step, ours over theirs, on the same
network and batch; theirs with its defaults (a quarter of the batch) and on the whole batch. `bias_*` and `rms_error_*`:
relative error of B_simple = tr(Sigma) / |G|^2 at fixed weights against the truth, over seeds: closed form for a
quadratic with Gaussian gradients, all per-example gradients of the training set for a network. Both sides see the same
batches. gns-pytorch is no dependency: `pip install --no-deps gns-pytorch`; without it its fields are null.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tests.benchmarks import noise_accuracy, ours
from tests.benchmarks.harness import (
    ALTERNATIONS,
    FloatArray,
    alternate,
    options,
    ratio,
    report,
    seconds_of,
    told,
    worst,
)
from tests.benchmarks.processes import end_work, torchrun_json

BAR = 1.05
BLOCK_S = 0.3
LR = 0.01
PACKED: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "packed_mlp": ("mlp", (64,), 16, 64),
    "packed_cnn": ("cnn", (8, 16), 16, 64),
}
"""Case -> (model, hidden, trials, batch size)."""
DDP: dict[str, tuple[tuple[int, ...], int]] = {"ddp_mlp": ((64,), 64), "ddp_mlp_1m": ((1024, 256), 128)}
"""Case -> (hidden, batch size)."""


def with_and_without(
    engines: tuple[ours.Engine, ours.Engine], trials: int, batch_size: int, alternations: int, block_s: float
) -> tuple[FloatArray, FloatArray, int]:
    """Seconds of blocks with and without noise measurement, on two engines alike, and the cadence."""
    lr = [LR] * trials
    every = ours.default_cadence(engines[0], batch_size)
    check_same_losses(engines, lr, batch_size)
    first = noise_accuracy.CHECKED
    one_s = seconds_of(lambda: ours.steps(engines[1], lr, batch_size, count=5, first=first)) / 5
    cadences = agreed(max(1, round(block_s / one_s / every)))
    block = cadences * every

    def side(engine: ours.Engine, measure_every: int) -> Callable[[], object]:
        begins = count(every * (first // every + 1), block)
        return lambda: ours.steps(engine, lr, batch_size, count=block, first=next(begins), measure_every=measure_every)

    times = alternate(side(engines[0], every), side(engines[1], 0), alternations)
    return *times, every


def agreed(number: int) -> int:
    """The same number in every process: rank 0's."""
    if not dist.is_initialized():
        return number
    told = torch.tensor([number])
    dist.broadcast(told, src=0)
    return int(told)


def check_same_losses(engines: tuple[ours.Engine, ours.Engine], lr: list[float], batch_size: int) -> None:
    """Measuring changes nothing but the rounding."""
    a, b = (
        np.stack(ours.steps(engine, lr, batch_size, count=noise_accuracy.CHECKED, measure_every=every))
        for engine, every in zip(engines, (1, 0), strict=True)
    )
    np.testing.assert_allclose(a, b, rtol=1e-3)


def packed_case(case: str, alternations: int, block_s: float) -> tuple[FloatArray, FloatArray, int]:
    """One case in this process."""
    model, hidden, trials, batch_size = PACKED[case]
    workload = ours.Classifier(model=model, hidden=hidden)
    seeds = [k % 4 for k in range(trials)]
    measuring = ours.packed_engine(workload, seeds, batch_size)
    plain = ours.packed_engine(workload, seeds, batch_size, like=measuring)
    return with_and_without((measuring, plain), trials, batch_size, alternations, block_s)


def work(alternations: int, block_s: float) -> None:
    """What torchrun starts twice: the ddp cases."""
    dist.init_process_group("gloo")
    found: dict[str, Any] = {}
    for case, (hidden, batch_size) in DDP.items():
        workload = ours.Classifier(hidden=hidden)
        engines = ours.ddp_engine(workload, batch_size, 2), ours.ddp_engine(workload, batch_size, 2)
        measured, plain, every = with_and_without(engines, 1, batch_size, alternations, block_s)
        found[case] = [measured.tolist(), plain.tolist(), every]
    end_work(found)


def main() -> None:
    """All cases, then the comparison with the other package."""
    parser = options(__doc__)
    parser.add_argument("--work", nargs=2, type=float, metavar=("ALTERNATIONS", "SECONDS"), help="be a worker")
    arguments = parser.parse_args()
    if arguments.work:
        work(int(arguments.work[0]), arguments.work[1])
        return
    alternations, block_s = (2, 0.02) if arguments.quick else (ALTERNATIONS, BLOCK_S)
    torch.set_num_threads(1)
    times: dict[str, Any] = {case: packed_case(case, alternations, block_s) for case in PACKED}
    times |= torchrun_json("noise_overhead", "--work", str(alternations), str(block_s))
    found, more = {}, {}
    for case, (measured, plain, every) in times.items():
        found[case] = ratio(np.array(measured), np.array(plain), bar=BAR, at_most=True)
        more[f"every_steps_{case}"] = every
        print(f"{case}, every {every} steps: {told(found[case])}", flush=True)
    more |= noise_accuracy.beside_gns_pytorch(quick=arguments.quick)
    headline = worst(found)
    report("noise_overhead", found[headline], found, headline_case=headline, **more)


if __name__ == "__main__":
    main()
