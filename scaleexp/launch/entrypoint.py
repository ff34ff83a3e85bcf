"""A user's function as trials: one live group of Ray Train calls it for one trial after another, on every rank."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scaleexp.errors import StorageError
from scaleexp.execute import Assignment, failed_here
from scaleexp.launch.command import STOP_S
from scaleexp.loop import lost_a_peer
from scaleexp.memory import exhausted
from scaleexp.plugins import resolve
from scaleexp.raised import TrialRaisedError
from scaleexp.redact import redact
from scaleexp.restating import record_failure, record_stop
from scaleexp.resume import unfinished
from scaleexp.scripted_trial import came_to, context_of, make_ready
from scaleexp.storage import Store
from scaleexp.trial_context import VARIABLE, TrialContext

if TYPE_CHECKING:
    from scaleexp.trial import Trial

_LOOK_S = 0.5


def run_entrypoint(assignment: Assignment, trials: Sequence[Trial]) -> None:
    """Call the study's function for every trial that is left; every rank of a live group calls this with the same.

    A trial that raises ends the group. Who started it records that and starts another for the others.
    """
    import torch.distributed as dist

    store, study = Store(assignment.root), assignment.study
    function: Callable[[TrialContext], object] = resolve(study.entrypoint or "", {}, "entrypoint")
    waiting: list[Any] = [None]
    if dist.get_rank() == 0:
        own = unfinished(store, trials, assignment.targets)
        waiting = [[trial for trial in own if not failed_here(store, trial, assignment.fence)]]
    dist.broadcast_object_list(waiting, src=0)  # rank 0's view of the storage, so that no rank waits for another
    for number, trial in enumerate(waiting[0]):
        if number and not dist.is_initialized():
            if assignment.stop():
                return
            raise TrialRaisedError("its function has ended the process group", waiting[0][number - 1].key)
        asked: list[Any] = [assignment.stop()]
        dist.broadcast_object_list(asked, src=0)
        if asked[0]:
            return
        context = context_of(assignment, trial)
        make_ready(context)
        rank = dist.get_rank()
        with _told(context), _ended_where_it_goes_on(assignment, store, trial):
            _call(assignment, trial, function, context)
        if rank == 0:
            _judge(assignment, store, trial)


def _call(
    assignment: Assignment,
    trial: Trial,
    function: Callable[[TrialContext], object],
    context: TrialContext,
) -> None:
    """One trial on one rank.

    Raises:
        TrialRaisedError: the function has raised, or exited with an error.
    """
    try:
        function(context)
    except StorageError:
        raise  # nothing more can be written
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:
            return
        if isinstance(error, Exception) and (lost_a_peer(error) or exhausted(error)):
            raise  # a neighbour has the cause, or Ray Train starts it again
        cause = came_to(assignment, trial, redact(f"{type(error).__name__}: {error}"))
        # Of one that had come to its end before, nothing is recorded; its group ends all the same.
        raise TrialRaisedError(cause or f"it raised after its end: {type(error).__name__}", trial.key) from error


def _judge(assignment: Assignment, store: Store, trial: Trial) -> None:
    """Record how a trial stands whose function has returned."""
    cause, asked = came_to(assignment, trial, ""), assignment.stop()
    if asked:
        record_stop(store, [trial.key], asked, fence=assignment.fence)
    elif cause:
        record_failure(store, [trial.key], cause, fence=assignment.fence)


@contextmanager
def _told(context: TrialContext) -> Iterator[None]:
    """While the body runs, this process is told of the trial as that of a command is."""
    os.environ.update(context.to_env())
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


@contextmanager
def _ended_where_it_goes_on(assignment: Assignment, store: Store, trial: Trial) -> Iterator[None]:
    """A function that goes on for a while after the study was stopped is ended, and its process with it."""
    over = threading.Event()

    def watch() -> None:
        since = None
        while not over.wait(_LOOK_S):
            cause = assignment.stop()
            since = since or (time.monotonic() if cause else None)
            if since and time.monotonic() - since > STOP_S:
                record_stop(store, [trial.key], cause, fence=assignment.fence)
                os._exit(1)  # the group is started once more, and finds that it is to stop

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
