"""The terminal of a study whose workload prints, raises and dies shows our own lines; the rest is in files it names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
import torch.distributed as dist

from scaleexp.errors import TrialsFailedError
from scaleexp.workloads.quadratic import Quadratic
from tests.faults.small_study import SETS
from tests.faults.test_secrets import CANARY, everything_written

OURS = (
    r"quadratic: .*",
    r"2 trials, batch sizes 16 to 16, in .*",
    r"joining or starting Ray, which takes some seconds",
    r"\d/2 trials done, .*",
    r"error: 2 of 2 trials failed; .* What its processes printed is in (?P<log>\S+)\. What was committed is kept in .*",
)


class Telling(Quadratic):
    """Prints all it knows, then raises in real workers and dies in packs."""

    def batch(self, data_seed, start, stop):
        if stop > 40:
            print("I was told", os.environ["HF_TOKEN"])
            if not dist.is_initialized():
                os.kill(os.getpid(), signal.SIGSEGV)
            raise RuntimeError(f"no batch for {os.environ['HF_TOKEN']}")
        return super().batch(data_seed, start, stop)


@pytest.mark.slow
@pytest.mark.ray
def test_what_workers_print_and_what_ray_says_is_in_files(tmp_path):
    root = tmp_path / "study"
    sets = [
        *SETS,
        "workload={name: 'tests.faults.test_prints:Telling', dimensions: 4}",
        f"question=Is {CANARY} enough?",
        "realisations=[{engine: ddp, workers: 4, processes: 1, batch_size: 16, rule: none}]",
    ]
    options = [word for override in sets for word in ("--set", override)]
    command = [sys.executable, "-m", "scaleexp", "run", "quadratic", "--storage", str(root), "--yes", *options]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=400, env=os.environ | {"HF_TOKEN": CANARY}
    )
    assert run.returncode == TrialsFailedError.exit_code, run.stderr
    assert run.stdout == ""
    lines = [
        (line, next(filter(None, (re.fullmatch(own, line) for own in OURS)), None)) for line in run.stderr.splitlines()
    ]
    assert [line for line, ours in lines if ours is None] == []
    assert lines[-1][1]["log"] == str(root / "logs" / "0001" / "packed-0.log")
    packed, real, ray = (
        (root / "logs" / "0001" / name).read_text() for name in ("packed-0.log", "real-1-0/rank-0.log", "ray.log")
    )
    assert packed.count("I was told [HF_TOKEN]") == 3, "once for each time that it was started"
    assert "Fatal Python error: Segmentation fault" in packed
    assert "RuntimeError: no batch for [HF_TOKEN]" in real
    assert "Trial task failed" in ray
    assert CANARY.encode() not in everything_written(root)
