"""A study of one trial of a few steps: finished, or interrupted after its second and third commits."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from scaleexp.config import load_study
from scaleexp.execute import run_packed
from scaleexp.launch.runner import Prepared, open_study, prepare
from scaleexp.loop import Signal
from scaleexp.storage import Store, json_bytes
from tests.without_ray import assigned

SETS = [
    "workload={name: quadratic, dimensions: 4}",
    "optimizer={name: sgd}",
    "workers=[4]",
    "base={batch_size: 16, lr: 0.05}",
    "seeds=[0]",
    "lr_multipliers=[1]",
    "lr_rules=[none]",
    "limits.samples=96",
    "evaluation.every_samples=32",
    "targets=[{metric: expected_loss, values: [0.00001]}]",
    "noise.every_samples=64",
    "deterministic=true",
]


class Interrupted(BaseException):
    """As good as SIGKILL."""


def prepared(*more: str) -> Prepared:
    return prepare(load_study("quadratic", [*SETS, *more]))


def run(study: Prepared, root: Path | str, *, commit_after=(), dies_at=0, git_sha=None) -> None:
    """The study without Ray; commit after these calls of the clock, and be interrupted at this one."""
    calls = itertools.count(1)

    def clock(self):
        call = next(calls)
        if call == dies_at:
            raise Interrupted
        return Signal("", call in commit_after)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaleexp.execute._Clock.__call__", clock)
        open_study(study, root)
        work = assigned(study, root, git_sha=git_sha)
        run_packed(work, study.plan.trials, threads=1)


def rewritten(root: Path, name: str, change) -> None:
    """Change a JSON file and give it the checksum that it then has."""
    content = Store(root).read_json(name)
    change(content)
    (root / name).write_bytes(json_bytes(content))
