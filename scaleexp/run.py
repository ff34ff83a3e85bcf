"""A tracked run, as a script sees it: its steps, its evaluations, and whether it is to stop.

Every process makes the same calls. The clock, the storage and the evaluations are rank 0's alone, so what follows from
them is agreed: about once a second, and where a step was measured or is evaluated, one sum over all processes carries
the losses since the last one, the gradient norms and whether to stop.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from scaleexp.engines.base import NoiseMeasurement
from scaleexp.errors import ConfigError, StorageError
from scaleexp.measuring import Measuring, synchronised
from scaleexp.ranks import Ranks
from scaleexp.stated import NO_LIMIT
from scaleexp.tracked_log import TrackedLog
from scaleexp.watching import LossScaler, Norms, Watch, resolved

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from scaleexp.schema import Status
    from scaleexp.trial_context import TrialContext

_AGREE_S, _MOST_PENDING = 1.0, 256
"""About how often processes agree [seconds]; most steps whose losses wait on their device."""
_log = logging.getLogger("scaleexp")


class _Step(NamedTuple):
    """A step whose loss may still be under way on a device."""

    step: int
    lr: float
    loss: Tensor | float
    step_s: float


class Run:
    """What `scaleexp.track` gives: a context manager, or `begin()` and `close()` where a framework calls.

    Attributes:
        trial: what is trained: batch size, learning rate, seed, limit, ...
    """

    def __init__(
        self, trial: TrialContext, *, alone: bool, resume_step: int | None, optimizer: Optimizer | None = None
    ) -> None:
        if resume_step is not None and resume_step < 0:
            raise ConfigError(f"resume_step is {resume_step}: it counts the steps of the script's checkpoint.")
        self.trial, self._alone, self._resume_step = trial, alone, resume_step
        self._log: TrackedLog | None = None
        self._measuring: Measuring | None = None
        self._pending: list[_Step] = []
        self._taken = self._logged = resume_step or 0
        self._begun_at, self._next_agreement = self._taken, 0
        self._stopping = self._closed = False
        self._lr = trial.lr
        self._mark = self._agreed_at = time.perf_counter()
        self._warned: set[str] = set()
        if optimizer is not None:
            optimizer.register_step_post_hook(self._note_lr)

    # -- what a script calls ------------------------------------------------------------------------------------------

    def begin(self) -> Run:
        """Open the log."""
        self._ranks = Ranks.now()
        if self._ranks.rank == 0:
            self._log = TrackedLog(self.trial, alone=self._alone, resume_step=self._resume_step)
        self._mark = time.perf_counter()
        return self

    def watch(
        self,
        model: nn.Module,
        *,
        every: int | None = None,
        scaler: LossScaler | None = None,
        per_layer: bool = False,
    ) -> None:
        """Measure gradient norms of this model, for the noise scale; on every process, before the first step.

        Args:
            model: as it is trained: wrapped by DistributedDataParallel or fully_shard already.
            every: steps from one measurement to the next; None for the study's cadence, or for one that costs at most
                5 % of the step time, by the time of steps 2 to 4.
            scaler: of the loss, where there is one: `torch.amp.GradScaler`.
            per_layer: log the norms of every parameter, too.

        Raises:
            ConfigError: too late, before the model was wrapped, or a number of workers that is not the model's.
        """
        if self._taken != self._begun_at:
            raise ConfigError(f"run.watch(model) came after step {self._taken}: call it before the first step.")
        if every is not None and every < 1:
            raise ConfigError(f"run.watch got every={every}: it is a number of steps, 1 or more.")
        trial = self.trial
        watch = Watch(model, accumulation_steps=trial.accumulation_steps, workers=trial.workers, scaler=scaler)
        if every is None and trial.noise_every_samples is not None:
            every = max(1, math.ceil(trial.noise_every_samples / trial.batch_size))
        self._measuring = Measuring(watch, every=every, per_layer=per_layer)
        if watch.unresolved:
            self._warn(f"no noise scale is measured: {watch.unresolved}")
        self._measuring.prepare(self._taken)
        self._mark = time.perf_counter()

    def step(self, *, loss: Tensor | float, batch_size: int, lr: float | None = None, step: int | None = None) -> None:
        """One optimizer step was taken; on every process.

        Args:
            loss: mean loss of this process's part of the batch, before the update: a tensor is not waited for.
            batch_size: samples that all workers ate in this step.
            lr: learning rate of this step; None for the optimizer's, or for the stated one.
            step: its number, from 1; None for the next one.

        Raises:
            ConfigError: another batch size than the trial's, or another step than the next one.
            StorageError: a write failed.
        """
        self._check(batch_size, step)
        self._taken += 1
        if self._measuring is not None and self._measuring.every is None:
            synchronised(loss)
        step_s = time.perf_counter() - self._mark
        self._pending.append(_Step(self._taken, self._lr if lr is None else float(lr), _number(loss), step_s))
        if self._agreement_due():
            self._agree()
        if self._measuring is not None:
            if self._measuring.timed(step_s):
                self._decide(self._measuring)
            self._measuring.prepare(self._taken)
        self._mark = time.perf_counter()

    def evaluate(self, **values: Any) -> None:  # noqa: ANN401  # numbers, or tensors of one
        """Metrics on held-out data after the last step; what other processes than rank 0 say does not count."""
        eval_s = time.perf_counter() - self._mark
        if self._log is not None:
            numbers = {name: _value(name, value) for name, value in values.items()}
            if not self._ranks.together:
                self._agree()
            self._begin_log(self._log)
            self._log.evaluation(self._taken, numbers, eval_s)
        self._mark = time.perf_counter()

    def resume(self, step: int) -> None:
        """Go on from the script's checkpoint after so many steps; what was logged after it counts no more."""
        if step < 0:
            raise ConfigError(f"run.resume got step {step}: it counts the steps of the script's checkpoint.")
        if self._pending:
            self._agree()
        if self._log is not None:
            self._log.rewind(step)
        self._taken = self._logged = self._begun_at = step
        self._next_agreement, self._stopping = 0, False
        if self._measuring is not None:
            self._measuring.prepare(step)
        self._mark = time.perf_counter()

    def commit(self) -> None:
        """Commit every row so far, and wait for it; on every process, right before the script writes a checkpoint."""
        self._agree()
        if self._log is not None:
            self._begin_log(self._log)
            self._log.commit(self._logged, wait=True)
        self._mark = time.perf_counter()

    @property
    def samples(self) -> int:
        """Eaten so far."""
        return self._taken * self.trial.batch_size

    @property
    def should_evaluate(self) -> bool:
        """Whether the last step was the first past a multiple of the evaluation cadence, or is the last of all."""
        every = self.trial.evaluate_every_samples
        if not self._taken:
            return every != NO_LIMIT
        return self._at_limit or self.samples // every > (self.samples - self.trial.batch_size) // every

    @property
    def should_stop(self) -> bool:
        """Whether the targets are confirmed, the limit met, the loss lost, or the study asks for it."""
        if self._at_limit or self._stopping:
            return True
        return self._log is not None and not self._ranks.together and self._wants_stop(self._log)

    # -- one sum over all processes -----------------------------------------------------------------------------------

    @property
    def _at_limit(self) -> bool:
        return self.samples + self.trial.batch_size > self.trial.limit_samples

    @staticmethod
    def _wants_stop(log: TrackedLog) -> bool:
        return bool(log.ended or log.why_stop())

    def _agreement_due(self) -> bool:
        """The same on every process."""
        measured = self._measuring is not None and self._measuring.armed
        if measured or self._at_limit or self.should_evaluate or len(self._pending) >= _MOST_PENDING:
            return True
        if self._ranks.together:
            return self._taken >= self._next_agreement
        return isinstance(self._pending[-1].loss, float) or time.perf_counter() - self._agreed_at > _AGREE_S

    def _agree(self) -> None:
        """Log the steps so far with what all processes saw of them."""
        together, log = self._ranks.together, self._log
        norms = self._norms()
        small, big = ([sum_of(part) for part in (norms.small, norms.big)]) if norms else (0.0, 0.0)
        shared_big = self._measuring is not None and self._measuring.watch.kind == "fsdp"
        head = [
            float(self._measuring is not None),
            float(norms is not None),
            float(self._taken),
            small,
            big if shared_big or log is not None else 0.0,
            float(together and log is not None and self._wants_stop(log)),
            self._steps_to_next() if log is not None else 0.0,
            float(log.record.get("noise_every_steps", 0)) if log is not None else 0.0,
            norms.hidden if norms else 0.0,
        ]
        sums = self._ranks.summed([*head, *(s.loss for s in self._pending)])
        size = self._ranks.size if together else 1
        watched, measured, steps, small_sum, big_sum, stop, ahead, every, hidden = sums[: len(head)]
        self._check_alike(watched, steps, size)
        noise = self._noise(small_sum, big_sum, hidden >= size, norms) if measured == size else None
        losses = [value / size for value in sums[len(head) :]]
        if log is not None:
            self._write(log, losses, noise)
        self._pending, self._logged = [], self._taken
        self._next_agreement, self._agreed_at = self._taken + max(1, int(ahead)), time.perf_counter()
        self._stopping = self._stopping or stop > 0 or not all(map(math.isfinite, losses))
        if self._measuring is not None and self._measuring.every is None and every:
            self._measuring.every = int(every)

    def _write(self, log: TrackedLog, losses: list[float], noise: NoiseMeasurement | None) -> None:
        self._begin_log(log)
        for row, loss in zip(self._pending, losses, strict=True):
            own = noise if row.step == self._taken else None
            log.step(row.step, lr=row.lr, loss=loss, step_s=row.step_s, noise=own)
        log.commit_if_due(self._taken)

    def _norms(self) -> Norms | None:
        """What this process measured in the last step."""
        if self._measuring is None or not self._measuring.armed or not self._pending:
            return None
        self._measuring.armed = False
        found = self._measuring.watch.taken()
        if isinstance(found, str):
            self._warn(f"no noise scale is measured: {found}")
            return None
        return found

    def _noise(self, small: float, big: float, hidden: bool, norms: Norms | None) -> NoiseMeasurement | None:
        """The measurement of a step by all processes."""
        assert self._measuring is not None
        assert norms is not None
        watch = self._measuring.watch
        if hidden:
            self._warn("no noise scale is measured: FSDP accumulates without reducing; leave gradient sync on")
            return None
        layers = self._layers(norms) if self._measuring.per_layer else None
        if not resolved(small, big):
            return None
        return NoiseMeasurement(
            small=np.array([watch.shard_mean(small)]), big=np.array([big]), shards=watch.shards, layers=layers
        )

    def _layers(self, norms: Norms) -> dict[str, tuple[Any, Any]]:
        """The same by parameter; every process calls this."""
        assert self._measuring is not None
        watch = self._measuring.watch
        names = [n for n in norms.small if n in norms.big]
        own_big = watch.kind == "fsdp" or self._log is not None
        sums = self._ranks.summed(
            [*(norms.small[n] for n in names), *(norms.big[n] if own_big else 0.0 for n in names)]
        )
        pairs = zip(names, sums[: len(names)], sums[len(names) :], strict=True)
        return {n: (np.array([watch.shard_mean(small)]), np.array([big])) for n, small, big in pairs}

    def _decide(self, measuring: Measuring) -> None:
        timings = measuring.decide(self._ranks)
        if self._log is not None:
            self._log.chosen(measuring.realisation, timings)

    def _steps_to_next(self) -> float:
        step_s = (time.perf_counter() - self._agreed_at) / max(1, len(self._pending))
        return float(min(_MOST_PENDING, max(1, int(_AGREE_S / max(step_s, 1e-9)))))

    # -- checks and the end -------------------------------------------------------------------------------------------

    def _check(self, batch_size: int, step: int | None) -> None:
        if batch_size != self.trial.batch_size:
            said = "stated" if self._alone else "planned"
            raise ConfigError(
                f"Step {self._taken + 1} ate {batch_size} samples and {self.trial.batch_size} were {said}: train on "
                f"{self.trial.batch_size} over all workers in every step, and drop a last batch that is smaller."
            )
        if step is not None and step != self._taken + 1:
            way = "went backwards" if step <= self._taken else "left steps out"
            raise ConfigError(
                f"run.step {way}: got step {step} after step {self._taken}. Call it once per optimizer step, and "
                "run.resume(step) after going back to a checkpoint."
            )

    def _check_alike(self, watched: float, steps: float, size: int) -> None:
        if steps != self._taken * size:
            raise ConfigError("The processes of the script are at different steps: call run.step on every process.")
        if watched not in (0, size):
            raise ConfigError(f"run.watch(model) was called on {watched:g} of {size} processes: call it on every one.")

    def _begin_log(self, log: TrackedLog) -> None:
        measuring = self._measuring
        realisation: dict[str, Any] = {
            "engine": "script" if self._alone else str(self.trial.workload.get("name", "script")),
            "kernel": "own",
            "processes": self._ranks.size,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "deterministic": False,
            "sample_order": "uncontrolled",
        }
        if self.trial.code:
            realisation["code"] = dict(self.trial.code)
        if measuring is not None:
            realisation |= measuring.realisation
        n_parameters = measuring.watch.n_parameters if measuring is not None else None
        log.begin(self._begun_at, n_parameters=n_parameters, realisation=realisation)

    def _note_lr(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        self._lr = float(optimizer.param_groups[0]["lr"])

    def _warn(self, what: str) -> None:
        if what not in self._warned and self._ranks.rank == 0:
            _log.warning("%s", what)
        self._warned.add(what)

    def close(self, error: BaseException | None = None) -> None:
        """End the log: by the end of the trial, or by why it ended before.

        Raises:
            ConfigError: the script ended before the trial did, or never reported what its targets are of.
        """
        if self._closed:
            return
        self._closed = True
        if self._measuring is not None:
            self._measuring.watch.disarm()
        try:
            if error is None and Ranks.now().together == self._ranks.together:
                self._agree()
            if self._log is not None and not isinstance(error, StorageError):
                self._end(self._log, error)
        finally:
            if self._log is not None:
                self._log.close()

    def _end(self, log: TrackedLog, error: BaseException | None) -> None:
        if log.ended:
            return
        self._begin_log(log)
        status, cause = self._ending(log, error)
        log.end(self._logged, status, cause)
        if status == "failed" and error is None:
            raise ConfigError(cause)

    def _ending(self, log: TrackedLog, error: BaseException | None) -> tuple[Status, str]:
        if error is not None:
            if not isinstance(error, Exception):
                return "stopped", "interrupted"
            return "failed", f"{type(error).__name__}: {error} (after step {self._taken})"
        if self._taken == 0:
            return "failed", "The script ended and never called run.step: call it once per optimizer step."
        at_limit, asked = self._at_limit, log.why_stop()
        if asked and not at_limit:
            return "stopped", asked
        if log.goals.unseen and (at_limit or self.trial.limit_samples == NO_LIMIT):
            metrics = " and ".join(log.goals.unseen)
            return (
                "failed",
                f"A target is on {metrics} and no evaluation reported it: call run.evaluate({metrics}=...).",
            )
        if at_limit:
            return "limit", ""
        if self.trial.limit_samples == NO_LIMIT:
            return "limit", "the script ended"
        ended = f"the script ended after {self.samples} of {self.trial.limit_samples} samples, before its target"
        return ("stopped", ended) if self._alone else ("failed", f"{ended}: train until run.should_stop says so.")

    def __enter__(self) -> Run:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(error)


def sum_of(squares: Mapping[str, Tensor]) -> Tensor:
    """Of all parameters, shape ()."""
    return torch.stack(list(squares.values())).sum()


def _number(loss: object) -> Tensor | float:
    """A loss that need not be waited for as a number, and any other as a tensor that holds no graph."""
    if isinstance(loss, torch.Tensor):
        if loss.numel() != 1:
            raise ConfigError(f"run.step got a loss of shape {tuple(loss.shape)}: give its mean over the batch.")
        return float(loss.detach()) if loss.device.type == "cpu" else loss.detach()
    return _value("loss", loss)


def _value(name: str, value: Any) -> float:  # noqa: ANN401  # whatever a script gives
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{name} is {value!r}: give a number, or a tensor of one.") from None
