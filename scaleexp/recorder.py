"""The steps of a tracked run on their way into its log: what every process saw of them, summed.

The clock, the storage and the evaluations are rank 0's alone, so what follows from them is agreed: about once a second,
and where a step was measured or is evaluated, one sum over all processes carries the losses since the last one, the
gradient norms and whether to stop. A process alone does the same with itself, so that a loss on a GPU is waited for as
seldom.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from scaleexp.engines.base import NoiseMeasurement
from scaleexp.errors import ConfigError
from scaleexp.measuring import Measuring
from scaleexp.origin import Origin, why_resumed, why_unknown
from scaleexp.ranks import Ranks
from scaleexp.schema import DISTANCE
from scaleexp.stepping import Evaluation, Step
from scaleexp.tracked_log import TrackedLog
from scaleexp.watching import Norms, resolved, sum_of

AGREE_S, MOST_PENDING = 1.0, 256
"""About how often processes agree [seconds]; most steps whose losses wait on their device."""
_log = logging.getLogger("scaleexp")


class Recorder:
    """Steps that were taken, until they are logged.

    Args:
        ranks: the processes of the script.
        log: where they go; None on other processes than rank 0.
        begun_at: steps taken before.

    Attributes:
        measuring: what measures gradient norms; None where no model is watched.
        taken: steps so far.
        logged: of them, those that the log holds.
        stopping: whether the processes agreed to stop.
    """

    def __init__(self, ranks: Ranks, log: TrackedLog | None, begun_at: int) -> None:
        self.ranks, self.log = ranks, log
        self.measuring: Measuring | None = None
        self._pending: list[Step] = []
        self._held: list[Evaluation] = []
        self._warned: set[str] = set()
        self._expected: set[str] = set()
        self._origin: Origin | None = None
        self.begun_at = self.taken = begun_at
        self.go_on_from(begun_at)

    def go_on_from(self, step: int) -> None:
        """Take steps after this one."""
        if (
            step and self._origin is not None and self.taken == self.begun_at
        ):  # no step since: what was copied is learnt
            self._origin = None
            self.warn(f"no {DISTANCE} is logged: {why_resumed(step)}")
        self.begun_at = self.taken = self.logged = step
        self.stopping, self._next_agreement, self._agreed_at = False, 0, time.perf_counter()

    def meet(self) -> None:
        """Before the first step: count the processes anew, of a script that sets up its process group late.

        Raises:
            ConfigError: this process wrote the log until now, or did not, and that has changed.
        """
        if self.taken != self.begun_at:
            return
        now = Ranks.now()
        if (now.rank == 0) != (self.log is not None):
            raise ConfigError(
                f"The process that began as rank {self.ranks.rank} is rank {now.rank} of the process group: call "
                "torch.distributed.init_process_group before scaleexp.track."
            )
        self.ranks = now

    def expect_all(self, call: str) -> None:
        """Before a call that every process has to make: refuse one that others do not make; of the steps, the first."""
        if call != "run.step" or call not in self._expected:
            self._expected.add(call)
            self.ranks.expect_all(call, self.taken)

    def add(self, step: Step, *, now: bool) -> None:
        """Take a step; `now` logs it at once, on every process alike."""
        self.taken = step.step
        self._pending.append(step)
        if now or self._due():
            self.agree()
        if now:
            self._next_agreement = step.step + 1  # what an evaluation shows in between is told soon

    def evaluated(self, values: Mapping[str, float], eval_s: float) -> None:
        """Take an evaluation on rank 0, which may make it alone: it is logged after the steps before it."""
        assert self.log is not None
        if self._origin is not None and DISTANCE not in values:
            values = {**values, DISTANCE: self._origin.distance()}
        if self._pending:
            self._held.append(Evaluation(self.taken, values, eval_s))
            return
        self.begin_log()
        self.log.evaluation(self.taken, values, eval_s)

    def measure_distance(self, model: nn.Module) -> None:
        """Log from here on with every evaluation how far this model is from where it is now."""
        unknown = why_unknown(model, self.begun_at)
        if unknown:
            self.warn(f"no {DISTANCE} is logged: {unknown}")
        elif self.log is not None:
            self._origin = Origin(model)

    def measured(self, step_s: float) -> None:
        """After a step: decide on a cadence once enough were timed, and prepare for the next one."""
        if self.measuring is None:
            return
        if self.measuring.timed(step_s):
            timings = self.measuring.decide(self.ranks)
            if self.log is not None:
                self.log.chosen(self.measuring.realisation, timings)
        self.measuring.prepare(self.taken)

    def wants_stop(self) -> bool:
        """Whether rank 0 has a reason to stop."""
        return self.log is not None and bool(self.log.ended or self.log.why_stop())

    def _due(self) -> bool:
        """The same on every process."""
        if (self.measuring is not None and self.measuring.armed) or len(self._pending) >= MOST_PENDING:
            return True
        if self.ranks.together:
            return self.taken >= self._next_agreement
        return isinstance(self._pending[-1].loss, float) or time.perf_counter() - self._agreed_at > AGREE_S

    def agree(self) -> None:
        """Log the steps so far with what all processes saw of them; every process calls this after the same steps."""
        if not self._pending:
            return
        together, log = self.ranks.together, self.log
        norms = self._norms()
        small, big = ([sum_of(part) for part in (norms.small, norms.big)]) if norms else (0.0, 0.0)
        shared_big = self.measuring is not None and self.measuring.watch.kind == "fsdp"
        head = [
            float(self.measuring is not None),
            float(norms is not None),
            float(self.taken),
            small,
            big if shared_big or log is not None else 0.0,
            float(together and log is not None and self.wants_stop()),
            self._steps_to_next() if log is not None else 0.0,
            float(log.record.get("noise_every_steps", 0)) if log is not None else 0.0,
            norms.hidden if norms else 0.0,
        ]
        sums = self.ranks.summed([*head, *(s.loss for s in self._pending)])
        size = self.ranks.size if together else 1
        watched, measured, steps, small_sum, big_sum, stop, ahead, every, hidden = sums[: len(head)]
        self._check_alike(watched, steps, size)
        noise = self._noise(small_sum, big_sum, hidden >= size, norms) if measured == size else None
        losses = [value / size for value in sums[len(head) :]]
        if log is not None:
            self._write(log, losses, noise)
        self._pending, self.logged = [], self.taken
        self._next_agreement, self._agreed_at = self.taken + max(1, int(ahead)), time.perf_counter()
        self.stopping = self.stopping or stop > 0 or not all(map(math.isfinite, losses))
        if self.measuring is not None and self.measuring.every is None and every:
            self.measuring.every = int(every)

    def _write(self, log: TrackedLog, losses: list[float], noise: NoiseMeasurement | None) -> None:
        self.begin_log()
        for row, loss in zip(self._pending, losses, strict=True):
            own = noise if row.step == self.taken else None
            log.step(row.step, lr=row.lr, loss=loss, step_s=row.step_s, noise=own)
            while self._held and self._held[0].step == row.step:
                log.evaluation(*self._held.pop(0))
        log.commit_if_due(self.taken)

    def _norms(self) -> Norms | None:
        """What this process measured in the last step."""
        if self.measuring is None or not self.measuring.armed or not self._pending:
            return None
        self.measuring.armed = False
        found = self.measuring.watch.taken()
        if isinstance(found, str):
            self.warn(f"no noise scale is measured: {found}")
            return None
        return found

    def _noise(self, small: float, big: float, hidden: bool, norms: Norms | None) -> NoiseMeasurement | None:
        """The measurement of a step by all processes."""
        assert self.measuring is not None
        assert norms is not None
        watch = self.measuring.watch
        if hidden:
            self.warn("no noise scale is measured: FSDP accumulates without reducing; leave gradient sync on")
            return None
        layers = self._layers(norms) if self.measuring.per_layer else None
        if not resolved(small, big):
            return None
        return NoiseMeasurement(
            small=np.array([watch.shard_mean(small)]), big=np.array([big]), shards=watch.shards, layers=layers
        )

    def _layers(self, norms: Norms) -> dict[str, tuple[Any, Any]]:
        """The same by parameter; every process calls this."""
        assert self.measuring is not None
        watch = self.measuring.watch
        own_big = watch.kind == "fsdp" or self.log is not None
        parts = [
            (float(n in norms.small), norms.small.get(n, 0.0), norms.big.get(n, 0.0) if own_big else 0.0)
            for n in watch.names  # of every process the same, whichever of them it used
        ]
        sums = iter(self.ranks.summed([value for part in parts for value in part]))
        found = zip(watch.names, sums, sums, sums, strict=True)
        return {n: (np.array([watch.shard_mean(small)]), np.array([big])) for n, used, small, big in found if used}

    def _steps_to_next(self) -> float:
        if self._held:
            return 1.0  # what they show is told soon
        step_s = (time.perf_counter() - self._agreed_at) / max(1, len(self._pending))
        return float(min(MOST_PENDING, max(1, int(AGREE_S / max(step_s, 1e-9)))))

    def _check_alike(self, watched: float, steps: float, size: int) -> None:
        if steps != self.taken * size:
            raise ConfigError("The processes of the script are at different steps: call run.step on every process.")
        if watched not in (0, size):
            raise ConfigError(f"run.watch(model) was called on {watched:g} of {size} processes: call it on every one.")

    def begin_log(self) -> None:
        """Open the log, once."""
        assert self.log is not None
        measuring = self.measuring
        realisation: dict[str, Any] = {
            "engine": "script",
            "kernel": "own",
            "processes": self.ranks.size,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "deterministic": False,
            "sample_order": "uncontrolled",
        }
        if self.ranks.nodes is not None:
            realisation["nodes"] = self.ranks.nodes
        if measuring is not None:
            realisation |= measuring.realisation
        n_parameters = measuring.watch.n_parameters if measuring is not None else None
        self.log.begin(self.begun_at, n_parameters=n_parameters, realisation=realisation)

    def warn(self, what: str) -> None:
        """Once, on rank 0."""
        if what not in self._warned and self.ranks.rank == 0:
            _log.warning("%s", what)
        self._warned.add(what)
