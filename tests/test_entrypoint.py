"""A function of a study that does not listen: the process that calls it ends, and its trial stands where it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch.distributed as dist

import scaleexp
from scaleexp import lease
from scaleexp.config import validate_study
from scaleexp.launch import entrypoint
from scaleexp.launch.opening import open_study, prepare
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.test_own_script import ENTRYPOINT
from tests.without_ray import assigned

STUDY = {**ENTRYPOINT, "entrypoint": "tests.test_entrypoint:deaf", "workers": [1], "lr_multipliers": [1]}


def deaf(trial):
    """Never asks whether it is to stop."""
    run = scaleexp.track().begin()
    for _ in range(5):
        run.step(loss=1.0, batch_size=trial.batch_size)
    run.commit()
    time.sleep(600)


def rank(root):
    """What a worker of Ray Train does."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    entrypoint.STOP_S = 0.5
    prepared = prepare(validate_study(STUDY, "the file"))
    with lease.held(Store(root)) as fence:
        open_study(prepared, root)
        told = {"fence": fence, "deadline": time.time() + 2.0, "deadline_cause": "limits.wall_s = 2"}
        entrypoint.run_entrypoint(assigned(prepared, root, **told), prepared.plan.trials)


def test_a_function_that_does_not_listen_to_a_stop_is_ended_and_its_trial_can_go_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_entrypoint", str(tmp_path)], env=dict(os.environ), timeout=120, check=False
    )
    assert done.returncode == 1
    first, second = (
        last_commit(Store(tmp_path), t.key) for t in prepare(validate_study(STUDY, "the file")).plan.trials
    )
    assert (first["status"], first["cause"], first["step"]) == ("stopped", "limits.wall_s = 2", 5)
    assert second is None


if __name__ == "__main__":
    rank(Path(sys.argv[1]))
