"""Read a study directory: only what commits bind, after its sha256 was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scaleexp.schema import Commit, PlanFile, TrialFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialLog:
    """One trial (or one further realisation of it) as committed.

    Attributes:
        key: directory name, `id` or `id@realisation`.
        facts: trial.json.
        commit: the last commit; None when nothing was committed.
    """

    key: str
    facts: TrialFacts
    commit: Commit | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLog:
    """A study directory.

    Attributes:
        path: its directory.
        plan: the newest plan.
        trials: every trial of the plan that has a trial.json, in plan order.
        problems: one sentence for each thing that was left out because it was missing or corrupt.
    """

    path: Path
    plan: PlanFile
    trials: tuple[TrialLog, ...]
    problems: tuple[str, ...]
