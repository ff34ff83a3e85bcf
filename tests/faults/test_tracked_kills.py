"""SIGKILL of a tracked script at random moments: it goes on from its own checkpoint, and no row is lost or doubled."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import analysis.read
from scaleexp import schema
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.verify import verify

SEED, KILLS = 20261122, 4


def start(root, checkpoint):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tracked_scripts", str(root), str(checkpoint)], stdout=subprocess.PIPE, text=True
    )
    return process, json.loads(process.stdout.readline())["began"]


def held(root):
    log = analysis.read.load(root)
    assert log.problems == ()
    return [
        analysis.read.read_table(log, t, schema.deterministic_columns(t), None).to_pylist() for t in ("steps", "evals")
    ]


def test_a_killed_script_that_resumes_from_its_checkpoint_ends_as_if_nothing_had_happened(tmp_path, capsys):
    draw, landed = random.Random(SEED), []
    truth, root, checkpoint = tmp_path / "undisturbed", tmp_path / "killed", tmp_path / "own.pt"
    process, _ = start(truth, tmp_path / "none.pt")
    assert process.communicate(timeout=300)[0].endswith("ended\n")
    for _ in range(KILLS):
        process, began = start(root, checkpoint)
        for _ in range(draw.randint(0, 5)):
            assert process.stdout.readline()  # of a checkpoint that was written
        time.sleep(draw.uniform(0.0, 0.05))
        process.kill()
        process.communicate(timeout=60)
        (key,) = Store(root).names("trials") or [None]
        commit = last_commit(Store(root), key) if key else None
        landed.append((began, commit["step"] if commit else None))
    process, _ = start(root, checkpoint)
    assert process.communicate(timeout=300)[0].endswith("ended\n")
    assert held(root) == held(truth)
    assert [row["step"] for row in held(root)[0]] == list(range(1, 401))
    assert all(finding.kind == "note" for finding in verify(Store(root)))
    with capsys.disabled():
        print(f"\nseed {SEED}: (began at, last committed step when killed) {landed}")
    assert sum(began > 0 for began, _ in landed) >= KILLS // 2
