"""What timing decides, decided before step 0: which kernel computes the gradients, how often noise is measured.

A choice made by the clock is written into the first commit and kept, so that a run that goes on is the run that began.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch.func import grad_and_value, vmap

from scaleexp.engines.kernels import KERNELS, Kernel, Trainee, evaluation_mode
from scaleexp.engines.stack import Stack
from scaleexp.engines.traced import PAYS_AFTER
from scaleexp.workloads.base import Batch

NOISE_BUDGET = 0.025
"""Share of the plain step time that measuring noise may cost: half of the 5 % that is promised, for timings scatter."""
CLEARLY_FASTER = 0.97
"""Another kernel than vmap is taken when it needs less than this share of vmap's time: a near tie goes by name."""
COMPILE_PAYS_S = 600.0
"""A pack that may end sooner is never compiled: that takes 5 to 20 s for each size to which the pack shrinks."""

_HOPELESS = 3.0
"""A kernel whose first run takes this many times what another needs, and `_LONG_S` more, is timed once."""
_NO_FASTER = 0.9
"""A run that needs more than this share of the least time before it shows that all is warm."""
_RECORDED_S = 0.02
"""A longer pass is not recorded before it is timed: the calls that a recording saves are a small part of it."""
_ENOUGH = 64
"""Samples that show whether bits depend on the place in a pack."""
WORTH = 0.01
"""Share of the work ahead that may be spent on one timing that decides about it."""
_LONG_S, _VERY_LONG_S = 0.25, 1.0
"""Seconds of all runs, or of one, after which two, or one, are enough."""

Compile = Literal["auto", "never", "always"]
KernelName = Literal["time", "vmap", "one by one", "compiled vmap"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kernel and what it was chosen by.

    Attributes:
        kernel: for gradients.
        evaluating: for held-out metrics.
        seconds: of one pass over the batch, by kernel name, and over the held-out samples that were given
            ("evaluation: " before the name).
        note: why a kernel was not used; empty if none failed.
    """

    kernel: Kernel
    evaluating: Kernel
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""


def choose_kernel(
    trainee: Trainee,
    stack: Stack,
    samples: int,
    wanted: KernelName,
    *,
    held_out: Batch,
    compiled: Compile,
    steps_ahead: int,
    evaluating: str | None = None,
) -> Choice:
    """The kernels asked for, or the fastest, among those that the model allows; trains nothing.

    A model that cannot be vmapped or compiled falls back, with a note.

    Args:
        trainee: one trial's loss.
        stack: the trials.
        samples: of each trial that pass through its model together.
        wanted: a kernel, or `time`.
        held_out: samples that are evaluated together; fewer may show another kernel as faster.
        compiled: whether a compiled kernel is timed: `auto` where the pack may take `COMPILE_PAYS_S`.
        steps_ahead: the most steps to come.
        evaluating: kernel for held-out metrics; None for the fastest, or for the one that was asked for. With it
            nothing else is tried, for trials that go on by these kernels.
    """
    kernels: dict[str, Kernel] = {}
    passes: dict[str, float] = {}
    evaluations: dict[str, float] = {}
    failures: dict[str, Exception] = {}

    def attempt(name: str, seconds: dict[str, float], run: Callable[[], float]) -> None:
        try:
            with warnings.catch_warnings():  # of slow paths: that is what is being timed
                warnings.simplefilter("ignore")
                seconds[name] = run()
        except Exception as error:  # noqa: BLE001  # raised below if nothing else runs
            failures[name] = error

    def kernel_of(name: str) -> Kernel:
        if name not in kernels:
            kernels[name] = KERNELS[name](trainee)
        return kernels[name]

    def attempt_pass(name: str) -> None:
        attempt(name, passes, lambda: _pass_s(kernel_of(name), stack, samples, steps_ahead, _hopeless(passes)))

    _warm_up()
    names = ["one by one", "vmap"] if wanted == "time" else [wanted]
    for name in names:
        attempt_pass(name)
    if not passes and evaluating is None:
        attempt_pass("one by one")
    long = bool(passes) and steps_ahead * min(passes.values()) > COMPILE_PAYS_S
    if wanted == "time" and (compiled == "always" or (compiled == "auto" and long)):
        attempt_pass("compiled vmap")
    if not passes:
        raise next(reversed(failures.values()))
    chosen = fastest(passes)
    # Where vmap does not pay for gradients it does not for evaluations, which have more samples for each call.
    timed = wanted == "time" and chosen != "one by one" and not evaluating
    for name in dict.fromkeys([evaluating] if evaluating else names if timed else [chosen, "one by one"]):
        if timed or not evaluations:
            kernel, limit = kernel_of(name), _hopeless(evaluations)
            attempt(name, evaluations, partial(_evaluation_s, trainee, kernel, stack, held_out, limit))
    if not evaluations:
        raise next(reversed(failures.values()))
    timings = passes | {f"evaluation: {name}": value for name, value in evaluations.items()}
    notes = [f"{name} cannot run this model ({_told(error)})" for name, error in failures.items()]
    by = fastest(evaluations)
    return Choice(kernel=kernels[chosen], evaluating=kernels[by], seconds=timings, note="; ".join(notes))


def _hopeless(others: Mapping[str, float]) -> float:
    """A run that takes as long [seconds] decides against a kernel, warm or not."""
    return _HOPELESS * min(others.values(), default=math.inf) + _LONG_S


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _pass_s(kernel: Kernel, stack: Stack, samples: int, steps_ahead: int, hopeless: float) -> float:
    """Least wall time of one pass of all trials; a recording is made first if it will pay and the pass is short."""
    held, times = _timed_part(kernel, stack)
    batch, first = held.batch(0, samples), torch.tensor(0, device=held.dropout_seeds.device)

    def run() -> None:
        kernel(held, held.joined(batch) if kernel.copies else batch, first, {})

    def worth_s(best: float) -> float:
        return WORTH * steps_ahead * best

    seconds = briefly(run, hopeless, worth_s=worth_s)
    if kernel.copies and steps_ahead >= PAYS_AFTER and seconds < _RECORDED_S:
        kernel.record()
        run()
        seconds = min(seconds, briefly(run, worth_s=worth_s))
    return times * seconds


def _evaluation_s(trainee: Trainee, kernel: Kernel, stack: Stack, held_out: Batch, hopeless: float) -> float:
    """Least wall time of one evaluation of all trials."""
    held, times = _timed_part(kernel, stack)
    with evaluation_mode(trainee.template):
        return times * briefly(lambda: kernel.metric_sums(held, held_out), hopeless)


def _timed_part(kernel: Kernel, stack: Stack) -> tuple[Stack, float]:
    """Trials to time, and how many times that all of them take: one after another, two tell of all."""
    if kernel.copies:
        return stack.taken(kernel.padded(range(len(stack)), len(stack))), 1.0
    few = min(len(stack), 2)
    return stack.taken(range(few)), len(stack) / few


def same_bits_in_any_pack(kernel: Kernel, stack: Stack, samples: int) -> bool:
    """Whether trials have the same gradients, bit for bit, beside others as in a pack of two in another order.

    Some shapes lose that: where a row's place in memory decides which of its elements are computed as a vector.
    """
    if not kernel.copies:
        return True  # each trial is computed by itself
    last, samples = len(stack) - 1, min(samples, _ENOUGH)
    first = torch.tensor(0, device=stack.dropout_seeds.device)
    pair = stack.taken([last, 0])
    together, apart = (kernel(s, s.joined(s.batch(0, samples)), first, {}).grads for s in (stack, pair))
    return all(torch.equal(together[n][[last, 0]], apart[n]) for n in apart)


def best_of(run: Callable[[], object], *, repeats: int = 3, warm: bool = False) -> float:
    """Least wall time of a few runs [seconds], after one that warms up unless it is `warm`."""
    if not warm:
        run()
    times: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def median_of(run: Callable[[], object], *, repeats: int) -> float:
    """Median wall time of a number of runs after one that warms up [seconds]."""
    run()
    return statistics.median(best_of(run, repeats=1, warm=True) for _ in range(repeats))


def briefly(
    run: Callable[[], object],
    hopeless: float = math.inf,
    *,
    worth_s: Callable[[float], float] = lambda best: math.inf,
) -> float:
    """Least wall time of a run [seconds], once runs no longer get faster: the first few of a kind warm up.

    It ends after two runs where they are long, and where one takes `hopeless` seconds. How often it runs depends on the
    clock: not for what several processes must do alike.

    Args:
        run: what is timed.
        hopeless: [seconds].
        worth_s: least time so far -> what knowing it better is worth [seconds]: after two runs no more is spent.
    """
    times: list[float] = []
    while True:
        times.append(best_of(run, repeats=1, warm=True))
        best = min(times[:-1], default=math.inf)
        spent = sum(times)
        if times[-1] > min(_VERY_LONG_S, hopeless) or (len(times) > 1 and spent > _LONG_S):
            return min(times)
        if len(times) > 1 and spent > worth_s(min(times)):
            return min(times)
        if len(times) > 2 and times[-1] > _NO_FASTER * best:
            return min(times)


@cache
def _warm_up() -> None:
    """What torch.func imports and prepares on its first call in a process is no part of a kernel's time."""
    weight = torch.ones(2, 3, 3)
    loss = vmap(grad_and_value(lambda w, x: F.cross_entropy(F.linear(x, w), torch.zeros(4, dtype=torch.long))))
    loss(weight, torch.ones(2, 4, 3))


def fastest(seconds: Mapping[str, float]) -> str:
    """Name of the kernel to use: the first of `KERNELS` unless another is clearly faster.

    >>> fastest({"one by one": 0.98, "vmap": 1.0}), fastest({"one by one": 0.9, "vmap": 1.0})
    ('vmap', 'one by one')
    """
    first = next(name for name in KERNELS if name in seconds)
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < CLEARLY_FASTER * seconds[first] else first


def cadence(plain_s: float, measuring_s: float, *, budget: float = NOISE_BUDGET) -> int:
    """Steps from one noise measurement to the next, so that they cost at most `budget` of the plain step time.

    One of 1, 2, 3, 4, 6, 8, 12, ..., so that two timings of one machine mostly agree.

    Args:
        plain_s: seconds of a plain step.
        measuring_s: seconds of a step that measures.
        budget: share of the plain time.

    >>> cadence(1.0, 1.3), cadence(1.0, 1.01), cadence(1.0, 4.0)
    (12, 1, 128)
    """
    extra = round(max(measuring_s - plain_s, 0.0) / (budget * plain_s), 9)
    if extra <= 1.0:
        return 1
    power = 1 << math.ceil(math.log2(extra))
    return power * 3 // 4 if power >= 4 and extra <= power * 3 // 4 else power
