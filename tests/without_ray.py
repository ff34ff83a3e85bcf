"""What a launcher hands to the process that trains, for tests that are that process themselves."""

from __future__ import annotations

from pathlib import Path

from scaleexp.execute import Assignment
from scaleexp.launch.runner import Prepared


def assigned(
    prepared: Prepared,
    root: Path | str,
    *,
    git_sha: str | None = None,
    deadline: float | None = None,
    deadline_cause: str = "",
    fence: int | None = None,
    held_s: float | None = None,
) -> Assignment:
    """A prepared study, to be run at a root."""
    return Assignment(
        study=prepared.study,
        targets=prepared.targets,
        root=str(root),
        git_sha=git_sha,
        deadline=deadline,
        deadline_cause=deadline_cause,
        fence=fence,
        held_s=held_s,
    )
