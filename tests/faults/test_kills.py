"""SIGKILL at random moments of a run: no committed row is lost or doubled, no committed step runs again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

import analysis.read
from scaleexp import schema
from scaleexp.checkpoint import decode
from scaleexp.runlog import last_commit
from scaleexp.storage import Store

SETS = [
    "workers=[4]",
    "base={batch_size: 32, lr: 0.02}",
    "worker_batch=8",
    "seeds=[0, 1]",
    "lr_multipliers=[0.25, 1, 2]",
    "lr_rules=[none]",
    "limits.samples=64000",
    "evaluation.every_samples=640",
    "targets=[{metric: val_loss, values: [0.5]}]",
    "noise.every_samples=960",
    "realisations=[]",
    "workload.hidden=[8]",
    "optimizer={name: sgd, momentum: 0.9}",
    "deterministic=true",
    "checkpoint.every_s=0.03",
]
STUDIES, KILLS = 8, 11
SEED = 20261121


@contextmanager
def victim():
    """A function that runs the study at a root, killed or to its end."""
    command = [sys.executable, "-m", "tests.faults.victim", *SETS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def run(root, kill_after_s=None):
            process.stdin.write(json.dumps({"root": str(root), "kill_after_s": kill_after_s}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


def held(root):
    """Deterministic columns of all rows, and the final states."""
    log = analysis.read.load(root)
    assert log.problems == ()
    tables = [
        analysis.read.read_table(log, t, schema.deterministic_columns(t), None).to_pylist() for t in ("steps", "evals")
    ]
    states = {
        t.key: decode((root / "trials" / t.key / t.commit["checkpoint"]["file"]).read_bytes()) for t in log.trials
    }
    return tables, states


@pytest.mark.slow
def test_a_study_killed_again_and_again_ends_as_if_nothing_had_happened(tmp_path, capsys):
    draw, landed, finished_by_then = random.Random(SEED), 0, 0
    with victim() as run:
        truth = tmp_path / "undisturbed"
        assert run(truth)["code"] == 0
        tables, states = held(truth)
        keys = sorted(states)
        assert {last_commit(Store(truth), key)["status"] for key in keys} == {"reached", "limit"}
        for number in range(STUDIES):
            root = tmp_path / f"study-{number}"
            for _ in range(KILLS):
                before = {key: last_commit(Store(root), key) for key in keys}
                told = run(root, draw.uniform(0.0, 0.25))
                for group in told["groups"]:
                    for key in group["keys"]:
                        assert group["step"] == (before[key]["step"] if before[key] else 0)
                after = {key: last_commit(Store(root), key) for key in keys}
                finished_by_then += all(c and c["status"] in schema.FINAL_STATUSES for c in after.values())
                landed += told["code"] == -9 and any(c and c["status"] == "running" for c in after.values())
            assert run(root)["code"] == 0
            found, ended = held(root)
            assert found == tables
            assert ended.keys() == states.keys()
            for key, state in ended.items():
                assert all(torch.equal(state[name], states[key][name]) for name in state)
    with capsys.disabled():
        print(f"\nseed {SEED}: {STUDIES * KILLS} kills, {landed} between a trial's first and last commit")
    assert landed >= 80, f"{finished_by_then} kills found the study finished"
