"""What waits for a place on a cluster does not wait for ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune

from scaleexp.plan_table import count_of

STARTING_S = 30.0
"""A process that drives real workers takes no CPU; to start it where all CPUs are busy takes a while [seconds]."""


def no_place(what: str, number: float, kind: str, start_s: float) -> str:
    """Why something did not start, in one sentence: what it needs, what is free, what to do.

    Args:
        what: that waited, such as `2 real workers`.
        number: of resources that it needs.
        kind: of resources, CPU or GPU.
        start_s: how long it waited [seconds].
    """
    free, total = (held.get(kind, 0) for held in (ray.available_resources(), ray.cluster_resources()))
    return (
        f"no place for {what} in {start_s:g} s (limits.start_s): that takes {count_of(number, kind)} at once, and "
        f"{free:g} of {total:g} are free; let others on the cluster end, join a larger one with RAY_ADDRESS, or raise "
        "limits.start_s"
    )


def no_driver(start_s: float) -> str:
    """Why what drives real workers did not start, likewise.

    Args:
        start_s: the study's `limits.start_s` [seconds].
    """
    return (
        f"what drives real workers did not start in {start_s:g} s (limits.start_s) and {STARTING_S:g} s more: it runs "
        "on the head node of the cluster and takes 1 MB of the memory that Ray counts there, so let what holds all of "
        "it end, give Ray more with --memory, or raise limits.start_s"
    )


class StartDeadline(tune.Callback, tune.Stopper):  # type: ignore[misc]  # Ray has no types
    """Ends a Tune run in which nothing has run for too long; it is both of the run's callbacks.

    Args:
        start_s: how long [seconds].

    Attributes:
        passed: whether it ended the run.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._alive = time.monotonic()
        self.passed = False

    def on_step_begin(self, iteration: int, trials: Sequence[Any], **info: object) -> None:
        """Look whether something runs; Tune asks several times a second."""
        now = time.monotonic()
        if any(trial.status == "RUNNING" for trial in trials):
            self._alive = now
        waiting = any(trial.status == "PENDING" for trial in trials)
        self.passed = self.passed or (waiting and now - self._alive > self._start_s)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by what it reports."""
        return False

    def stop_all(self) -> bool:
        """Whether to end everything."""
        return self.passed
