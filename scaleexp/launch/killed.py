"""Ray kills processes of a node whose memory runs out; what starts in their place holds fewer samples at once.

A process that is killed can note nothing, so who starts it again does, from what its trials have committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.train import UserCallback

from scaleexp import memory
from scaleexp.commits import last_commits
from scaleexp.storage import Store

if TYPE_CHECKING:
    from scaleexp.trial import Trial


def note_killed(store: Store, trials: Sequence[Trial], cause: str) -> None:
    """Note what a pack held where it is Ray that has killed its process for lack of memory; no note otherwise.

    Args:
        store: the study.
        trials: of the pack. Those that ran together have come equally far; of several such groups the smallest is
            taken to have been too large, which is too few samples at worst.
        cause: what Ray says.
    """
    if not memory.killed(cause):
        return
    commits, one = last_commits(store, [t.key for t in trials]), trials[0]
    running = [c for t in trials if (c := commits[t.key]) and c["status"] == "running"]
    refused = memory.least_refused(store, one.engine, one.processes)
    held: list[int] = []
    for (_, began_with), count in Counter(
        (c["step"], int(c["realisation"]["samples_at_once"])) for c in running
    ).items():
        own = count if one.engine == "packed" else 1  # real workers train one trial after another
        # It may have held less than the one before it, whose commit is the last.
        at_once = memory.fitting(began_with, one.micro_batch, refused, trials=own, group=one.statistics_group or 1)
        held += [at_once * own] if at_once else []
    if held:  # before the first commit it is the model, not the batch, that is too large
        memory.refuse(store, one.engine, one.processes, min(held), MemoryError(memory.told(cause)))


@contextmanager
def tune_survives_kills() -> Iterator[None]:
    """While the body runs Tune takes a process that Ray has killed for its memory as one that died.

    Ray 2.60 tells of it by an error that its Tune does not know, and that ends the driver.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    own = RayActorManager._actor_task_failed

    def failed(*own_arguments: object, exception: Exception, **named: object) -> None:
        starved = isinstance(exception, OutOfMemoryError)
        own(*own_arguments, exception=RayActorError(error_msg=str(exception)) if starved else exception, **named)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = own


class NotesKilledPacks(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Of a Tune run whose trials are packs.

    Args:
        root: where the study lives.
        packs: by number.
    """

    def __init__(self, root: str, packs: Sequence[Sequence[Trial]]) -> None:
        self._root, self._packs = root, packs

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **info: object) -> None:  # noqa: ANN401
        """A process has died, and another will take its place."""
        said = Path(trial.error_file).read_text() if trial.error_file else ""
        last = said.rpartition("Failure #")[2]  # the file keeps the earlier ones, too
        note_killed(Store(self._root), self._packs[trial.config["pack"]], last)

    on_trial_error = on_trial_recover


class NotesKilledWorkers(UserCallback):  # type: ignore[misc]
    """Of a group of real workers.

    Args:
        root: where the study lives.
        trials: of the group.
    """

    def __init__(self, root: str, trials: Sequence[Trial]) -> None:
        self._root, self._trials = root, trials

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """One of the workers, or more, has died or raised."""
        note_killed(Store(self._root), self._trials, " ".join(str(error) for error in worker_exceptions.values()))
