"""A tracked run, as a script sees it: its steps, its evaluations, and whether it is to stop.

Every process makes the same calls; what they have to agree on is `scaleexp.recorder`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scaleexp.errors import ConfigError, StorageError
from scaleexp.measuring import measuring_of, synchronised
from scaleexp.ranks import Ranks
from scaleexp.recorder import Recorder
from scaleexp.run_end import standing_at_end
from scaleexp.stated import NO_LIMIT
from scaleexp.stepping import Step, check_step, number_of, value_of
from scaleexp.tracked_log import TrackedLog
from scaleexp.watching import LossScaler

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from scaleexp.trial_context import TrialContext


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
        self.trial, self._alone, self._begins_at = trial, alone, resume_step
        self._closed, self._lr, self._mark = False, trial.lr, 0.0
        self._begun: Recorder | None = None
        if optimizer is not None:
            optimizer.register_step_post_hook(self._note_lr)

    # -- what a script calls ------------------------------------------------------------------------------------------

    def begin(self) -> Run:
        """Open the log."""
        ranks, log = Ranks.now(), None
        if ranks.rank == 0:
            log = TrackedLog(self.trial, alone=self._alone, resume_step=self._begins_at)
        self._begun = Recorder(ranks, log, self._begins_at or 0)
        self._mark = time.perf_counter()
        return self

    def watch(
        self,
        model: nn.Module,
        *,
        every: int | None = None,
        scaler: LossScaler | None = None,
        per_layer: bool = False,
        distance: bool = False,
    ) -> None:
        """Measure gradient norms of this model, for the noise scale; on every process, before the first step.

        Args:
            model: as it is trained: wrapped by DistributedDataParallel or fully_shard already.
            every: steps from one measurement to the next; None for the study's cadence, or for one that costs at most
                5 % of the step time, by the time of steps 2 to 6.
            scaler: of the loss, where there is one: `torch.amp.GradScaler`.
            per_layer: log the norms of every parameter, too.
            distance: log at every evaluation how far the parameters are from their initialisation, under the metric
                distance_from_init; takes a copy of them in memory on rank 0. Not under FSDP, nor after a resume.

        Raises:
            ConfigError: too late, before the model was wrapped, or a number of workers that is not the model's.
        """
        recorder = self._going_on()
        if recorder.taken != recorder.begun_at:
            raise ConfigError(f"run.watch(model) came after step {recorder.taken}: call it before the first step.")
        recorder.meet()
        recorder.measuring = measuring_of(model, self.trial, every=every, scaler=scaler, per_layer=per_layer)
        if recorder.measuring.watch.unresolved:
            recorder.warn(f"no noise scale is measured: {recorder.measuring.watch.unresolved}")
        recorder.measuring.prepare(recorder.taken)
        if distance:
            recorder.measure_distance(model)
        self._mark = time.perf_counter()

    def step(
        self,
        *,
        loss: Tensor | float | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        step: int | None = None,
    ) -> None:
        """One optimizer step was taken; on every process.

        Args:
            loss: mean loss of this process's part of the batch, before the update: a tensor is not waited for. Needed.
            batch_size: samples that all workers ate in this step. Needed: it is stated, never guessed.
            lr: learning rate of this step; None for the optimizer's, or for the stated one.
            step: its number, from 1; None for the next one.

        Raises:
            ConfigError: no loss, no batch size or another than the trial's, or another step than the next one.
            StorageError: a write failed.
        """
        recorder = self._going_on()
        check_step(self.trial, recorder.taken, loss=loss, batch_size=batch_size, step=step, alone=self._alone)
        recorder.meet()
        recorder.expect_all("run.step")
        if recorder.measuring is not None and recorder.measuring.every is None:
            synchronised(loss)
        step_s = time.perf_counter() - self._mark
        row = Step(recorder.taken + 1, self._lr if lr is None else float(lr), number_of(loss), step_s)
        recorder.add(row, now=self._evaluates_after(row.step))
        recorder.measured(step_s)
        self._mark = time.perf_counter()

    def evaluate(self, **values: Any) -> None:  # noqa: ANN401  # numbers, or tensors of one
        """Metrics on held-out data after the last step; what other processes than rank 0 say does not count."""
        eval_s = time.perf_counter() - self._mark
        recorder = self._going_on()
        if recorder.log is not None:
            numbers = {name: value_of(name, value) for name, value in values.items()}
            if not recorder.ranks.together:
                recorder.agree()
            recorder.evaluated(numbers, eval_s)
        self._mark = time.perf_counter()

    def resume(self, step: int) -> None:
        """Go on from the script's checkpoint after so many steps, on every process; what came after it counts no more.

        Raises:
            ConfigError: rank 0 calls it and others do not.
        """
        if step < 0:
            raise ConfigError(f"run.resume got step {step}: it counts the steps of the script's checkpoint.")
        recorder = self._going_on()
        recorder.expect_all("run.resume")
        recorder.agree()
        if recorder.log is not None:
            recorder.log.rewind(recorder.logged, step)
        recorder.go_on_from(step)
        if recorder.measuring is not None:
            recorder.measuring.prepare(step)
        self._mark = time.perf_counter()

    def commit(self) -> None:
        """Commit every row so far, and wait for it; on every process, right before rank 0 writes the checkpoint.

        Raises:
            ConfigError: rank 0 calls it and others do not.
        """
        recorder = self._going_on()
        recorder.expect_all("run.commit")
        recorder.agree()
        if recorder.log is not None:
            recorder.begin_log()
            recorder.log.commit(recorder.logged, wait=True)
        self._mark = time.perf_counter()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Where a framework catches nothing: what the body raises ends the run as failed, and goes on."""
        try:
            yield
        except BaseException as error:
            self.close(error)
            raise

    @property
    def steps(self) -> int:
        """Taken so far."""
        return self._recorder.taken

    @property
    def samples(self) -> int:
        """Eaten so far."""
        return self._recorder.taken * self.trial.batch_size

    @property
    def noise_every(self) -> int | None:
        """Steps from one measurement of gradient norms to the next; None where none are, or it is not yet decided."""
        measuring = self._recorder.measuring
        return measuring.every if measuring is not None and not measuring.watch.unresolved else None

    @property
    def should_evaluate(self) -> bool:
        """Whether the last step was the first past a multiple of the evaluation cadence, or is the last of all."""
        taken = self._recorder.taken
        return self._evaluates_after(taken) if taken else self.trial.evaluate_every_samples != NO_LIMIT

    @property
    def should_stop(self) -> bool:
        """Whether the targets are confirmed, the limit met, the loss lost, or the study asks for it."""
        recorder = self._recorder
        if self._is_last(recorder.taken) or recorder.stopping:
            return True
        return not recorder.ranks.together and recorder.wants_stop()

    def _is_last(self, step: int) -> bool:
        """Whether no other step fits into the limit."""
        return (step + 1) * self.trial.batch_size > self.trial.limit_samples

    def _evaluates_after(self, step: int) -> bool:
        every, batch_size = self.trial.evaluate_every_samples, self.trial.batch_size
        return self._is_last(step) or step * batch_size // every > (step - 1) * batch_size // every

    # -- before it begins, and after its end --------------------------------------------------------------------------

    @property
    def _recorder(self) -> Recorder:
        if self._begun is None:
            raise ConfigError(
                "The run has not begun: write `with scaleexp.track(...) as run:`, or call run.begin() and run.close()."
            )
        return self._begun

    def _going_on(self) -> Recorder:
        recorder = self._recorder
        if self._closed:
            raise ConfigError(
                f"The run was closed after step {recorder.taken}: call run.step, run.evaluate and run.commit before "
                "run.close(), or inside of `with scaleexp.track(...) as run:`."
            )
        return recorder

    def _note_lr(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        self._lr = float(optimizer.param_groups[0]["lr"])

    def close(self, error: BaseException | None = None) -> None:
        """End the log: by the end of the trial, or by why it ended before.

        Raises:
            ConfigError: the script ended before the trial did, or never reported what its targets are of.
        """
        if self._closed:
            return
        self._closed = True
        recorder = self._recorder
        if isinstance(error, SystemExit) and not error.code:
            error = None  # the script has come to its end
        if recorder.measuring is not None:
            recorder.measuring.watch.disarm()
        try:
            if error is None and Ranks.now().together == recorder.ranks.together:
                recorder.agree()
            if recorder.log is not None and not recorder.log.ended and not isinstance(error, StorageError):
                self._end(recorder.log, error)
        finally:
            if recorder.log is not None:
                recorder.log.close()

    def _end(self, log: TrackedLog, error: BaseException | None) -> None:
        recorder = self._recorder
        recorder.begin_log()
        status, cause = standing_at_end(
            self.trial,
            alone=self._alone,
            steps=recorder.taken,
            unseen=log.goals.unseen,
            asked=log.why_stop(),
            error=error,
        )
        log.end(recorder.logged, status, cause)
        if status == "failed" and error is None:
            raise ConfigError(cause)

    def __enter__(self) -> Run:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(error)
