"""The error tree, each with the exit code of the commands that meet it.

    ScaleexpError              1    unexpected
    ├── ConfigError            2    usage or configuration
    ├── TrialsFailedError      3    some trials failed
    ├── InfeasibleError        4    resources that this machine or cluster can never hold
    ├── StorageError           5    storage
    │   └── CorruptError       5    bytes that are not what was committed
    │       └── MissingError   5    none at all
    ├── NotEnoughDataError     6    a fit that the data cannot carry
    └── InterruptedStudyError  130  stopped by the user or by a limit, resumable
        └── ClusterLostError   130  the Ray cluster is gone, or failed under the study

A message says what was wrong, what was got and what to do, in one or two sentences. Every error keeps its
message as its only argument, so it survives pickling between Ray processes.
"""

from __future__ import annotations

from typing import ClassVar


class ScaleexpError(Exception):
    """Root of the tree.

    >>> import pickle
    >>> pickle.loads(pickle.dumps(ConfigError("lr is negative"))).args
    ('lr is negative',)
    """

    exit_code: ClassVar[int] = 1


class ConfigError(ScaleexpError, ValueError):
    """A study file, an override or an argument that cannot be meant."""

    exit_code: ClassVar[int] = 2


class TrialsFailedError(ScaleexpError):
    """Some trials failed; the others are committed and readable. Divergence is a result, not a failure."""

    exit_code: ClassVar[int] = 3


class InfeasibleError(ScaleexpError):
    """More resources than the machine or the cluster can ever hold."""

    exit_code: ClassVar[int] = 4


class StorageError(ScaleexpError, OSError):
    """A study directory that cannot be written or read."""

    exit_code: ClassVar[int] = 5


class CorruptError(StorageError):
    """Stored bytes do not match the sha256 that a commit bound them to."""


class MissingError(CorruptError):
    """A file that has to be there is not."""


class NotEnoughDataError(ScaleexpError):
    """The measurements do not hold the number that was asked for."""

    exit_code: ClassVar[int] = 6


class InterruptedStudyError(ScaleexpError):
    """Stopped by the user; what was committed is kept and the study can go on."""

    exit_code: ClassVar[int] = 130


class ClusterLostError(InterruptedStudyError):
    """The cluster that a study ran on is gone; what was committed is kept and the study can go on."""
