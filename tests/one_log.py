"""The log of a trial without training: for tests of what is written, and who may write it."""

from __future__ import annotations

from scaleexp.runlog import TrialLog
from scaleexp.storage import Store

FACTS = {
    "trial_id": "t",
    "realisation": "",
    "seed": 0,
    "batch_size": 4,
    "workers": 1,
    "micro_batch": 4,
    "accumulation_steps": 1,
    "lr": 0.1,
}


def log(root, fence=None, last=None):
    return TrialLog(Store(root), FACTS, {}, goes_on=last, fence=fence)  # type: ignore[arg-type]


def evaluated(own, *steps):
    for step in steps:
        own.evaluation(step=step, samples=4 * step, values={"loss": 1.0 / step}, eval_s=0.0)
