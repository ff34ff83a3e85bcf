"""Hugging Face's Trainer on one process and on two: the same batch gives the same losses and gradient norms."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.trial_context import TrialContext

SCRIPTS = Path(__file__).parent / "scripts"
pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
STEPS, MICRO = 12, 4


def trained(root, *, workers, accumulation_steps):
    """Start the script of the page, as a study does, on so many processes."""
    trial = TrialContext(
        storage=str(root),
        key="one",
        trial_id="one",
        seed=0,
        batch_size=MICRO * workers * accumulation_steps,
        workers=workers,
        micro_batch=MICRO,
        accumulation_steps=accumulation_steps,
        lr=0.005,
        unit="example",
        limit_samples=STEPS * MICRO * workers * accumulation_steps,
        evaluate_every_samples=6 * MICRO * workers * accumulation_steps,
        noise_every_samples=3 * MICRO * workers * accumulation_steps,
    )
    options = {
        "output_dir": root / "out",
        "learning_rate": trial.lr,
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": accumulation_steps,
        "max_steps": STEPS,
        "seed": trial.seed,
        "max_grad_norm": 0.1,
        "lr_scheduler_type": "constant",
        "per_device_eval_batch_size": 64,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": "true",
        "use_cpu": "true",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, SCRIPTS / "forked.py", str(workers), SCRIPTS / "hf_trainer.py", *arguments],
        env={**os.environ, **trial.to_env(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_commit(Store(root), "one")["status"] == "limit"
    return root


def rows(root, table):
    return pq.read_table(root / "trials" / "one" / f"{table}.parquet").to_pylist()


def test_two_processes_of_a_hugging_face_trainer_record_what_one_with_the_same_batch_does(tmp_path):
    one, two = (trained(tmp_path / str(w), workers=w, accumulation_steps=a) for w, a in ((1, 2), (2, 1)))
    for table, columns in (("steps", ("loss", "grad_sq_small", "grad_sq_big")), ("evals", ("value",))):
        a, b = rows(one, table), rows(two, table)
        assert [row["step"] for row in a] == [row["step"] for row in b]
        for mine, theirs in zip(a, b, strict=True):
            expected = [
                value if (value := theirs[column]) is None else pytest.approx(value, rel=1e-4) for column in columns
            ]
            assert [mine[column] for column in columns] == expected, (table, mine["step"])
    steps = rows(two, "steps")
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["step"] for row in steps if row["shards"] == 2] == [1, 4, 7, 10]
    assert all(row["grad_sq_small"] > row["grad_sq_big"] > 0.01 for row in steps if row["shards"])  # before clipping
    assert [row["step"] for row in rows(two, "evals")] == [6, 12]
