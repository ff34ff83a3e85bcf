"""The log of a tracked trial, as rank 0 keeps it: opened, cut where the script goes on, committed, ended."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scaleexp import facts, lease, schema
from scaleexp.asked import why_stop
from scaleexp.commits import last_commit
from scaleexp.cutting import Cut, cut
from scaleexp.engines.base import NoiseMeasurement
from scaleexp.errors import ConfigError
from scaleexp.goals import Goals
from scaleexp.own_study import open_own_study
from scaleexp.runlog import TrialLog
from scaleexp.stated import NO_LIMIT
from scaleexp.storage import Store
from scaleexp.trial import planned_trial
from scaleexp.trial_context import TrialContext
from scaleexp.writer import Writer

_log = logging.getLogger("scaleexp")


class TrackedLog:
    """One trial's log.

    Args:
        trial: stated or planned.
        alone: whether no study launched the script: then it holds the study's lease itself.
        resume_step: steps that the script's own checkpoint has behind it; None for a script that begins.

    Attributes:
        goals: what the evaluations have shown.
        ended: status and cause, once the trial has come to its end.

    Raises:
        ConfigError: the trial has ended, or nothing is there to resume.
        StorageError: another process writes the study.
    """

    def __init__(self, trial: TrialContext, *, alone: bool, resume_step: int | None) -> None:
        self._trial, self._alone = trial, alone
        self._open = ExitStack()
        self._store, self._fence = Store(trial.storage), trial.fence
        self.ended: tuple[schema.Status, str] | None = None
        self._log: TrialLog | None = None
        self._writer: Writer | None = None
        self._resume_step = resume_step
        self._cut: Cut | None = None
        self._committed_s = time.monotonic()
        try:
            if alone:
                lease.refuse_if_run_here(self._store)
                self._fence = self._open.enter_context(lease.held(self._store, tell=_log.warning))
                open_own_study(self._store, trial)
            self._look_back()
            self._writer = self._open.enter_context(Writer())
        except BaseException:
            self._open.close()
            raise

    def _look_back(self) -> None:
        """What was committed before, up to where the script goes on."""
        last = last_commit(self._store, self._trial.key)
        self.goals = Goals([target.to_target() for target in self._trial.targets])
        self._last_evaluated: dict[str, int] = {}
        if not self._resume_step:
            self._refuse_ended(last)
        if self._resume_step is None:
            self._superseded = last
            return
        self._superseded = None
        if last is None:
            if self._resume_step:
                raise ConfigError(
                    f"resume_step is {self._resume_step} and {self._store.root} holds nothing of trial "
                    f"{self._trial.key}: give the storage= and the settings that it began with."
                )
            return
        if self._resume_step > last["step"]:
            _log.warning(
                "the script goes on from step %d and the log was committed up to step %d: the steps between have no "
                "rows; call run.commit() before each checkpoint",
                *(self._resume_step, last["step"]),
            )
        self._cut = cut(self._store, last, self._resume_step, self._trial.batch_size)
        self.goals.look_back(self._cut.values)
        self._last_evaluated = dict(self._cut.last_evaluated)

    def _refuse_ended(self, last: schema.Commit | None) -> None:
        """A trial that came to its end before is not to be trained from step 0 again, unless a study wants it."""
        if last is None or last["status"] not in schema.FINAL_STATUSES:
            return
        ended = f"Trial {self._trial.key} in {self._store.root} has ended ({last['status']} at step {last['step']})"
        if self._alone:
            raise ConfigError(f"{ended}: give another storage=, or resume_step= to go on from a checkpoint.")
        if self._fence is not None and last.get("fence") == self._fence:
            raise ConfigError(f"{ended} in this run of the study: call scaleexp.track once, a script trains one trial.")

    def _begin_anew(self, last: schema.Commit) -> None:
        """A script without a checkpoint begins at step 0 again."""
        if last["step"]:
            _log.warning(
                "trial %s begins anew: the %d steps that were committed count no more; state resume_step= to go on",
                *(self._trial.key, last["step"]),
            )

    @property
    def record(self) -> Mapping[str, Any]:
        """What was chosen before, where the trial goes on."""
        return self._cut.commit["realisation"] if self._cut else {}

    def begin(self, step: int, *, n_parameters: int | None, realisation: Mapping[str, Any]) -> None:
        """Open the log, once, and commit where it begins."""
        if self._log is not None:
            return
        if self._superseded is not None:
            self._begin_anew(self._superseded)
        trial = self._trial
        limit = trial.limit_samples if trial.limit_samples != NO_LIMIT else None
        self._log = TrialLog(
            self._store,
            _facts(trial, n_parameters),
            {**self.record, **realisation, **_started(trial)},
            None,
            schema.Goal(targets={t.metric: t.value for t in trial.targets}, limit_samples=limit),
            goes_on=self._cut.commit if self._cut else None,
            again=self._cut.again if self._cut else None,
            gaps=self._cut.gaps if self._cut else (),
            fence=self._fence,
            writer=self._writer,
        )
        self._log.commit(step=step, samples=step * trial.batch_size, status="running")

    def chosen(self, realisation: Mapping[str, Any], timings: Mapping[str, float]) -> None:
        """Say what was chosen since the log began."""
        assert self._log is not None
        self._log.chosen(realisation, timings)

    def step(
        self, step: int, *, lr: float, loss: float, step_s: float | None, noise: NoiseMeasurement | None = None
    ) -> None:
        """Add a step; one whose loss is no number ends the trial."""
        if self.ended:
            return
        assert self._log is not None
        samples = step * self._trial.batch_size
        self._log.step(
            step=step,
            samples=samples,
            step_lr=lr,
            loss=loss,
            noise=noise,
            row=0,
            step_s=step_s,
            compute_s=None,
            sync_s=None,
            data_s=None,
        )
        if not math.isfinite(loss):
            self.end(step, "diverged", f"the training loss became {loss}")

    def evaluation(self, step: int, values: Mapping[str, float], eval_s: float) -> None:
        """Add an evaluation; one that confirms the last target ends the trial. A second one of a step adds nothing."""
        if self.ended:
            return
        assert self._log is not None
        new = {m: v for m, v in values.items() if self._last_evaluated.get(m, -1) < step}
        self._last_evaluated |= dict.fromkeys(new, step)
        self._log.evaluation(step=step, samples=step * self._trial.batch_size, values=new, eval_s=eval_s)
        self.goals.evaluated(new)
        if self.goals.reached and step:
            self.end(step, "reached", "")

    def end(self, step: int, status: schema.Status, cause: str) -> None:
        """Commit for the last time."""
        assert self._log is not None
        self.ended = status, cause
        self._log.commit(step=step, samples=step * self._trial.batch_size, status=status, cause=cause)

    def commit_if_due(self, step: int) -> None:
        """Commit by the clock."""
        assert self._writer is not None
        if time.monotonic() - self._committed_s >= self._trial.commit_every_s and self._writer.idle:
            self.commit(step)

    def commit(self, step: int, *, wait: bool = False) -> None:
        """Bind all rows up to a step."""
        assert self._log is not None
        assert self._writer is not None
        if not self.ended:
            self._log.commit(step=step, samples=step * self._trial.batch_size, status="running")
        self._committed_s = time.monotonic()
        if wait:
            self._writer.wait()

    def rewind(self, logged: int, step: int) -> None:
        """Go on from another step than that up to which all is logged; what was logged after it counts no more."""
        if self._log is not None:
            self.commit(logged, wait=True)
        self._log, self.ended, self._resume_step = None, None, step
        self._look_back()

    def why_stop(self) -> str:
        """Why to stop though the trial has not ended; empty to go on."""
        return why_stop(
            self._store.root,
            fence=self._fence,
            deadline=self._trial.deadline_unix_s,
            deadline_cause=self._trial.deadline_cause,
            held_s=self._trial.held_s,
        )

    def close(self) -> None:
        """Wait for all that was written, and let the study go."""
        self._open.close()


def _started(trial: TrialContext) -> dict[str, Any]:
    """How the script was started (command or entrypoint under a study), and which version of it."""
    code = {"code": dict(trial.code)} if trial.code else {}
    return {"engine": str(trial.workload.get("name", "script")), **code}


def _facts(trial: TrialContext, n_parameters: int | None) -> schema.TrialFacts:
    own = trial.workload.get("hyperparameters", {})  # of the script, which are said there
    return {
        "schema_version": schema.SCHEMA_VERSION,
        **planned_trial(trial),
        "optimizer": {k: v for k, v in trial.hyperparameters.items() if k not in own},
        "workload": dict(trial.workload),
        "dtype": trial.dtype,
        "unit": trial.unit,
        "n_train": trial.n_train,
        "n_parameters": n_parameters,
        "data_sha256": trial.data_sha256,
        "limit_samples": trial.limit_samples if trial.limit_samples != NO_LIMIT else None,
        "versions": facts.versions(),
        "git_sha": trial.git_sha or facts.git_sha(Path.cwd()),
        "hardware": facts.hardware(),
        "created_utc": facts.utc_now(),
        "sample_order": "uncontrolled",
    }
