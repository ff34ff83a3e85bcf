"""A finished study of any size without training, written by the writer of the log itself: of ten thousand trials, say.

A run of batch B at learning rate `lr` meets the target 1 after S = s_min (1 + b_crit / B) exp(c ln(lr / lr_opt)^2 + z)
steps, lr_opt = base_lr sqrt(B / base), z ~ N(0, NOISE^2); its metric falls as 0.5 + 2 4^(-step / S), with some noise.
Every run goes on to its limit, because the plan asks for 0.5 as well, and no run comes that far.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaleexp import disk, schema
from scaleexp.at_once import each
from scaleexp.storage import Store

METRIC, TARGET = "loss", 1.0
B_CRIT, S_MIN = 256.0, 30.0
BATCHES = tuple(2**k for k in range(4, 14))
BASE, BASE_LR = 256, 0.1
NOISE, CURVATURE = 0.08, 0.2
TR_SIGMA, B_SIMPLE, DIMENSIONS, SHARDS = 8.0, 100.0, 8, 4
EVALUATION_STEPS, NORM_STEPS = 5, 4


class Careless(disk.Disk):
    """A file system whose study nobody would miss: what is written need not survive the machine."""

    def sync(self, descriptor: int) -> None:
        """Nothing."""

    def sync_directory(self, path: Path) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One trial: what it is, and the number of steps in which it meets the target."""

    batch_size: int
    lr: float
    seed: int
    steps_to_target: float

    @property
    def trial_id(self) -> str:
        """As of any trial, a hash."""
        return hashlib.sha256(f"{self.batch_size}/{self.lr:.12g}/{self.seed}".encode()).hexdigest()[:16]


def write_large_study(path: Path, *, lrs: int, seeds: int, steps: int) -> int:
    """Write len(BATCHES) x lrs x seeds trials of so many steps each.

    Returns:
        The number of trials.
    """
    store = Store(path)
    store._disk = Careless()
    cells = _cells(lrs, seeds)
    store.write_json(f"{schema.PLAN_DIR}/0001.json", _plan(cells))
    each(lambda cell: _write_trial(store, cell, steps), cells)
    return len(cells)


def _cells(lrs: int, seeds: int) -> list[Cell]:
    rng = np.random.default_rng(0)
    found = []
    for B in BATCHES:
        for lr in _grid(B, lrs):
            penalty = CURVATURE * math.log(lr / _optimum(B)) ** 2
            took = S_MIN * (1.0 + B_CRIT / B) * np.exp(penalty + NOISE * rng.standard_normal(seeds))
            found += [Cell(batch_size=B, lr=lr, seed=i, steps_to_target=float(s)) for i, s in enumerate(took)]
    return found


def _optimum(batch_size: int) -> float:
    return BASE_LR * math.sqrt(batch_size / BASE)


def _grid(batch_size: int, lrs: int) -> list[float]:
    """Half a factor 2 apart, so that the learning rates of the rules are among them."""
    return [float(f"{_optimum(batch_size) * 2.0 ** ((j - lrs // 2) / 2):.12g}") for j in range(lrs)]


def _plan(cells: Sequence[Cell]) -> schema.PlanFile:
    rules: list[schema.RuleLabel] = []
    for rule, exponent in (("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)):
        for B in BATCHES:
            lr = float(f"{BASE_LR * (B / BASE) ** exponent:.12g}")
            ids = [c.trial_id for c in cells if c.batch_size == B and c.lr == lr]
            if ids:
                rules.append({"rule": rule, "batch_size": B, "kappa": B / BASE, "lr": lr, "trial_ids": ids})
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "study": "large",
        "question": "How long does it take to look at so many trials?",
        "targets": [{"metric": METRIC, "values": [TARGET, 0.5], "direction": "min"}],
        "base_batch_size": BASE,
        "base_lr": BASE_LR,
        "unit": "example",
        "trials": [_planned(c) for c in cells],
        "rules": rules,
    }


def _planned(cell: Cell) -> schema.PlannedTrial:
    return {
        "trial_id": cell.trial_id,
        "realisation": "",
        "seed": cell.seed,
        "batch_size": cell.batch_size,
        "workers": 1,
        "micro_batch": cell.batch_size,
        "accumulation_steps": 1,
        "lr": cell.lr,
    }


def _facts(cell: Cell, steps: int) -> schema.TrialFacts:
    return {
        **_planned(cell),  # type: ignore[typeddict-item]
        "schema_version": schema.SCHEMA_VERSION,
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0, "nesterov": False},
        "workload": {"name": "synthetic", "dimensions": DIMENSIONS},
        "dtype": "float32",
        "unit": "example",
        "n_train": 1_000_000,
        "n_parameters": DIMENSIONS,
        "data_sha256": "0" * 64,
        "limit_samples": steps * cell.batch_size,
        "versions": {"scaleexp": "0", "torch": "0", "python": "0"},
        "git_sha": None,
        "hardware": {"cpu": "synthetic", "cores": 2},
        "created_utc": "2025-01-01T00:00:00Z",
    }


def _write_trial(store: Store, cell: Cell, steps: int) -> None:
    """The commit before the first step, and that of the end, which binds one file of each table."""
    from scaleexp.trial_files import TrialFiles  # it imports torch, which who reads the study must not

    always = {
        "realisation": {"engine": "packed", "kernel": "bmm", "device": "cpu", "threads": 1, "noise_every": NORM_STEPS},
        "timings": {"step_s": 0.002, "noise_s": 0.001},
        "goal": {"targets": {METRIC: 0.5}, "limit_samples": steps * cell.batch_size},
    }
    files = TrialFiles(store, _facts(cell, steps), always, goes_on=None, fence=None)
    files.open()
    files.commit({}, step=0, samples=0, status="running", cause="", state=None, elapsed_s=0.0)
    rng = np.random.default_rng([cell.seed, cell.batch_size, round(1e9 * cell.lr)])
    rows: dict[schema.Table, dict[str, list[Any]]] = {
        "steps": _steps(cell, steps, rng),
        "evals": _evaluations(cell, steps, rng),
    }
    end = steps * cell.batch_size
    files.commit(rows, step=steps, samples=end, status="limit", cause="", state=None, elapsed_s=2.0)


def _value(cell: Cell, step: np.ndarray) -> np.ndarray:
    return 0.5 + 2.0 * 4.0 ** (-step / cell.steps_to_target)


def _steps(cell: Cell, steps: int, rng: np.random.Generator) -> dict[str, list[Any]]:
    B, step = cell.batch_size, np.arange(1, steps + 1)
    measured = (step - 1) % NORM_STEPS == 0
    small, big = _norms(cell, step[measured], rng)
    step_s = 0.002 * (1.0 + 0.1 * rng.random(steps))
    return {
        "step": step.tolist(),
        "samples": (step * B).tolist(),
        "step_lr": [cell.lr] * steps,
        "loss": (_value(cell, step) * (1.0 + 0.1 * rng.standard_normal(steps))).tolist(),
        "grad_sq_small": _where(measured, small),
        "grad_sq_big": _where(measured, big),
        "shard_size": _where(measured, np.full(small.size, B // SHARDS)),
        "shards": _where(measured, np.full(small.size, SHARDS)),
        "step_s": step_s.tolist(),
        "compute_s": (0.8 * step_s).tolist(),
        "sync_s": [0.0] * steps,
        "data_s": (0.1 * step_s).tolist(),
    }


def _norms(cell: Cell, step: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of drawn shard gradients; the noise scale grows to B_SIMPLE at the target, as the gradient shrinks."""
    g_sq = TR_SIGMA / B_SIMPLE * (4.0 - 3.0 * np.minimum(1.0, step / cell.steps_to_target))
    spread = math.sqrt(TR_SIGMA / DIMENSIONS / (cell.batch_size / SHARDS))
    draws = spread * rng.standard_normal((step.size, SHARDS, DIMENSIONS))
    gradients = np.sqrt(g_sq / DIMENSIONS)[:, None, None] + draws
    return (gradients**2).sum(2).mean(1), (gradients.mean(1) ** 2).sum(1)


def _where(at: np.ndarray, values: np.ndarray) -> list[Any]:
    """The values there and None elsewhere."""
    found: list[Any] = [None] * at.size
    for i, value in zip(np.flatnonzero(at).tolist(), values.tolist(), strict=True):
        found[i] = value
    return found


def _evaluations(cell: Cell, steps: int, rng: np.random.Generator) -> dict[str, list[Any]]:
    step = np.arange(0, steps + 1, EVALUATION_STEPS)
    value = _value(cell, step) * (1.0 + 0.002 * rng.standard_normal(step.size))
    return {
        "step": step.tolist(),
        "samples": (step * cell.batch_size).tolist(),
        "metric": [METRIC] * step.size,
        "value": value.tolist(),
        "eval_s": [0.01] * step.size,
    }
