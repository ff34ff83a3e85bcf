"""How a tracked run stands when its script has ended, and what the script is told about it."""

from __future__ import annotations

from collections.abc import Sequence

from scaleexp.schema import Status
from scaleexp.stated import NO_LIMIT
from scaleexp.trial_context import TrialContext


def standing_at_end(
    trial: TrialContext, *, alone: bool, steps: int, unseen: Sequence[str], asked: str, error: BaseException | None
) -> tuple[Status, str]:
    """Status and cause of a run that neither reached its targets nor diverged.

    Args:
        trial: what was to be trained.
        alone: whether no study launched the script.
        steps: that it took.
        unseen: metrics of targets that were never reported.
        asked: why it was to stop; empty if it was not.
        error: what ended the script; None where it came to its end.
    """
    if error is not None:
        if not isinstance(error, Exception | SystemExit):
            return "stopped", "interrupted"
        return "failed", f"{type(error).__name__}: {error} (after step {steps})"
    samples, unlimited = steps * trial.batch_size, trial.limit_samples == NO_LIMIT
    at_limit = samples + trial.batch_size > trial.limit_samples
    if asked and not at_limit:
        return "stopped", asked
    if steps == 0:
        return "failed", "The script ended and never called run.step: call it once per optimizer step."
    if unseen and (at_limit or unlimited):
        metrics = " and ".join(unseen)
        return "failed", f"A target is on {metrics} and no evaluation reported it: call run.evaluate({metrics}=...)."
    if at_limit:
        return "limit", ""
    if unlimited:
        return "limit", "the script ended"
    if alone:
        return "stopped", f"the script ended after {samples} of {trial.limit_samples} samples"
    return "failed", (
        f"The script ended after {samples} of {trial.limit_samples} samples and before its target: train until "
        "run.should_stop says so."
    )
