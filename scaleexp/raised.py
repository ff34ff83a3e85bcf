"""What the errors of real workers mean for their group: it ends, it goes on without one trial, or it starts again.

What raises in one process leaves the others waiting for it, so that after any error the group has to be ended. Only the
death of a process and too little memory say nothing about the trial: then all begin again at the last commit.
"""

from __future__ import annotations

from collections.abc import Iterable

from scaleexp import memory
from scaleexp.errors import ScaleexpError, StorageError, TrialsFailedError
from scaleexp.loop import lost_a_peer


class TrialRaisedError(TrialsFailedError):
    """One trial has raised; its group can go on with the others.

    Args:
        cause: one line.
        key: of the trial.

    >>> str(TrialRaisedError("KeyError: 'pixels'", "3f2a"))
    "KeyError: 'pixels'"
    """

    def __init__(self, cause: str, key: str) -> None:
        super().__init__(cause, key)
        self.key = key

    def __str__(self) -> str:
        return str(self.args[0])


def told_to_the_group(error: Exception, key: str | None = None, *, where: str = "") -> Exception:
    """What a process raises instead of an error, so that it can be sent, whatever it is.

    Args:
        error: what was raised.
        key: of the trial that was trained; None outside of every trial.
        where: added to the cause.

    >>> told_to_the_group(KeyError("pixels"), "3f2a", where=" (in process 1 of 2)")
    TrialRaisedError("KeyError: 'pixels' (in process 1 of 2)", '3f2a')
    """
    known = StorageError | TrialRaisedError if key else StorageError | TrialsFailedError
    if isinstance(error, known) or lost_a_peer(error) or memory.exhausted(error):
        return error
    cause = f"{type(error).__name__}: {error}{where}"
    return TrialRaisedError(cause, key) if key else TrialsFailedError(cause)


def ending(errors: Iterable[Exception]) -> ScaleexpError | None:
    """The error that a group is to be ended for, of those that its processes raised; None where it starts again.

    The storage was given its time already (see `scaleexp.retry`), and what a trial raises it would raise again.
    """
    ours = [error for error in errors if isinstance(error, ScaleexpError)]
    return min(ours, key=_rank, default=None)


def _rank(error: ScaleexpError) -> int:
    return 0 if isinstance(error, StorageError) else 1 if isinstance(error, TrialRaisedError) else 2
