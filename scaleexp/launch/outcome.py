"""How a run of a study ended, and which of that is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaleexp import schema
from scaleexp.commits import Commits
from scaleexp.errors import InterruptedStudyError, NotEnoughDataError, TrialsFailedError
from scaleexp.launch.opening import Prepared
from scaleexp.spending import Left, Used
from scaleexp.storage import Store

if TYPE_CHECKING:
    from scaleexp.launch.tune import PackFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run of a study ended.

    Attributes:
        root: where the study lives: an absolute path, or an address.
        ended: number of trials by status, over the whole plan.
        seconds: wall time of this run.
        asked: whether somebody asked it to stop.
        met: the limit that stopped it; None if none did.
        used: what all runs of the study have used up to its end; None if nothing was left to run.
    """

    root: str
    ended: Mapping[str, int]
    seconds: float
    asked: bool = False
    met: Left | None = None
    used: Used | None = None


def raise_failures(
    prepared: Prepared, store: Store, outcome: Outcome, failures: Sequence[PackFailure], commits: Commits
) -> None:
    """Of trials; those that a limit kept from beginning or ending did not fail.

    Raises:
        TrialsFailedError: some trials failed.
    """
    unended = ("failed",) if outcome.met else ("failed", "waiting", "running")
    count = sum(outcome.ended.get(s, 0) for s in unended)
    broken = _first_failure(commits) or next(((f.trials[0], f.cause) for f in failures), None)
    if broken and count:  # a process that died after its last commit lost nothing
        raise TrialsFailedError(
            f"{count} of {len(prepared.plan.trials)} trials failed; the first cause was {broken[1]!r} "
            f"(trial {broken[0]}).{_printed(failures, broken[0])} "
            f"What was committed is kept in {store.root}; run the same command to try again."
        )


def raise_unended(outcome: Outcome) -> None:
    """Of trials that stopped though nobody asked them to: only a process that takes a limit to be met does so.

    Raises:
        InterruptedStudyError: there are some.
    """
    unended = sum(count for status, count in outcome.ended.items() if status not in schema.FINAL_STATUSES)
    if unended:
        raise InterruptedStudyError(
            f"{unended} of {sum(outcome.ended.values())} trials stopped before their ends though no limit is met by "
            "the clock of this machine: that of a node runs ahead of it, so set both (by NTP, say); what was committed "
            f"is kept in {outcome.root}, and the same command goes on from there"
        )


def _printed(failures: Sequence[PackFailure], key: str) -> str:
    """Where to read what the processes of a trial that failed have printed."""
    log = next((f.log for f in failures if key in f.trials), None)
    return f" What its processes printed is in {log}." if log else ""


def all_diverged(prepared: Prepared, store: Store, commits: Commits) -> NotEnoughDataError:
    """Nothing can be fitted; the trial of the lowest LR says most about why."""
    trials = prepared.plan.trials
    slowest = min(trials, key=lambda t: (t.lr, t.batch_size))
    commit = commits[slowest.key]
    assert commit is not None, "it diverged"
    return NotEnoughDataError(
        f"all {len(trials)} trials diverged, so there is nothing to fit: even at the lowest LR, {slowest.lr:g}, with "
        f"batch size {slowest.batch_size}, {commit['cause']} after {commit['step']} steps. Lower base.lr or "
        f"lr_multipliers, or add warmup_samples; what was measured is kept in {store.root}."
    )


def _first_failure(commits: Commits) -> tuple[str, str] | None:
    """Key and cause of a trial that failed."""
    return next(((key, c["cause"]) for key, c in commits.items() if c and c["status"] == "failed"), None)
