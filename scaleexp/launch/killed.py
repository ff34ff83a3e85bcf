"""Ray kills processes of a node whose memory runs out; what starts in their place holds fewer samples at once.

A process that is killed can note nothing, so who starts it again does, from what its trials have committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.train import UserCallback

from scaleexp import memory
from scaleexp.commits import last_commits
from scaleexp.errors import StorageError
from scaleexp.raised import ending
from scaleexp.storage import Store

if TYPE_CHECKING:
    from scaleexp.trial import Trial


def note_killed(store: Store, trials: Sequence[Trial], cause: str, refused: int | None) -> None:
    """Note what a pack held where it is Ray that has killed its process for lack of memory; no note otherwise.

    Args:
        store: the study.
        trials: of the pack. Those that the newest driver ran together have come equally far, but for those that
            were about to commit; of several such groups the largest is taken to have been too large.
        cause: what Ray says.
        refused: the fewest samples that had not fitted when the process began, which it therefore did not hold.
    """
    if not memory.killed(cause) or trials[0].scripted:  # what a script holds at once is its own
        return
    commits, one = last_commits(store, [t.key for t in trials]), trials[0]
    running = [c for t in trials if (c := commits[t.key]) and c["status"] == "running"]
    newest = max((c.get("fence") or 0 for c in running), default=0)
    together = Counter(
        (c["step"], int(c["realisation"]["samples_at_once"])) for c in running if (c.get("fence") or 0) == newest
    )
    held: list[int] = []
    for (_, began_with), count in together.items():
        own = count if one.engine == "packed" else 1  # real workers train one trial after another
        # It may have held less than the one before it, whose commit is the last.
        at_once = memory.fitting(began_with, one.micro_batch, refused, trials=own, group=one.statistics_group or 1)
        held += [at_once * own] if at_once else []
    if held:  # before the first commit it is the model, not the batch, that is too large
        memory.refuse(store, one.engine, one.processes, max(held), MemoryError(memory.told(cause)))


class _Notes:
    """Of one pack, whose processes are killed one after another."""

    def __init__(self, root: str, trials: Sequence[Trial]) -> None:
        self._root, self._trials = root, trials
        self.began()

    def began(self) -> None:
        """A process begins, and reads what had not fitted."""
        one = self._trials[0]
        self._refused = memory.least_refused(Store(self._root), one.engine, one.processes)

    def died(self, cause: str) -> None:
        """It has died; a note that cannot be written helps nobody, and keeps nobody from going on."""
        with suppress(StorageError, OSError, ValueError):
            note_killed(Store(self._root), self._trials, cause, self._refused)
            self.began()  # the next


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
        self._notes = [_Notes(root, pack) for pack in packs]

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: object) -> None:  # noqa: ANN401
        """A process begins."""
        with suppress(StorageError):
            self._notes[trial.config["pack"]].began()

    def on_trial_recover(self, iteration: int, trials: Sequence[Any], trial: Any, **info: object) -> None:  # noqa: ANN401
        """A process has died, and another will take its place."""
        said = Path(trial.error_file).read_text() if trial.error_file else ""
        self._notes[trial.config["pack"]].died(said.rpartition("Failure #")[2])  # the file keeps the earlier ones, too

    on_trial_error = on_trial_recover


class EndsOrNotes(UserCallback):  # type: ignore[misc]
    """Of a group of real workers: ends it where starting again helps nobody, and notes those killed for their memory.

    Args:
        root: where the study lives.
        trials: of the group.
    """

    def __init__(self, root: str, trials: Sequence[Trial]) -> None:
        self._notes = _Notes(root, trials)

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """One of the workers, or more, has died or raised.

        Raises:
            ScaleexpError: what the group is to be ended for; Ray Train starts it again otherwise.
        """
        if error := ending(worker_exceptions.values()):
            raise error
        self._notes.died(" ".join(str(error) for error in worker_exceptions.values()))
