"""A small synthetic study directory with a known answer, for tests only.

Every run of batch B at learning rate `lr` reaches the hardest target after exactly

    S = s_min (1 + b_crit / B) exp(curvature ln(lr / lr_opt)^2 + noise z)     steps, lr_opt = base_lr kappa^lr_exponent,

and its metric falls on a straight line in samples, so that the interpolated crossing is exact at any evaluation
cadence. Gradients are drawn, not their norms: d-dimensional Gaussian shard gradients with a known G and Sigma.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scaleexp import schema

METRIC = "loss"
START_VALUE = 2.5
DIMENSIONS = 64
SHARDS = 4
TR_SIGMA = 8.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One trial to be written."""

    trial_id: str
    realisation: str
    seed: int
    batch_size: int
    workers: int
    lr: float
    crossing: float  # samples at which the hardest target is met
    status: str  # what the log says in the end
    limit: int  # samples


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def trial_id(batch_size: int, lr: float, seed: int) -> str:
    return sha256(f"{batch_size}/{lr:.12g}/{seed}".encode())[:12]


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


def as_table(name: schema.Table, columns: dict[str, Any]) -> pa.Table:
    """A table in the contract's schema; a scalar stands for every row, a column left out is null."""
    rows = max(np.size(v) for v in columns.values())
    arrow = schema.arrow_schema(name)
    arrays = []
    for field in arrow:
        value = columns.get(field.name)
        if isinstance(value, np.ndarray):
            # A NaN is a missing measurement in a nullable column, and a lost loss in the others.
            arrays.append(pa.array(value, type=field.type, from_pandas=field.nullable))
        else:
            arrays.append(pa.array([value] * rows, type=field.type))
    return pa.Table.from_arrays(arrays, schema=arrow)


def gradient_norms(
    rng: np.random.Generator, g_sq: np.ndarray, batch_size: int, shards: int
) -> tuple[np.ndarray, np.ndarray]:
    """(mean squared shard norm, squared norm of the mean) per step, from drawn gradients; Sigma = TR_SIGMA / d I."""
    shard_size = batch_size / shards
    truth = np.sqrt(g_sq / DIMENSIONS)[:, None, None]
    draws = rng.standard_normal((g_sq.size, shards, DIMENSIONS)) * math.sqrt(TR_SIGMA / DIMENSIONS / shard_size)
    gradients = truth + draws
    return (gradients**2).sum(2).mean(1), (gradients.mean(1) ** 2).sum(1)


def identity(cell: Cell) -> dict[str, Any]:
    return {
        "trial_id": cell.trial_id,
        "realisation": cell.realisation,
        "seed": cell.seed,
        "batch_size": cell.batch_size,
        "workers": cell.workers,
        "lr": cell.lr,
        "attempt": 0,
    }


def trial_tables(
    cell: Cell, *, hardest: float, cadence: float, noise_cadence: int, b_simple: float, distances: bool = False
) -> tuple[pa.Table, pa.Table]:
    """The `steps` and the `evals` of one trial."""
    B = cell.batch_size
    first_met = math.ceil(math.ceil(cell.crossing / cadence) * cadence / B) * B
    confirmed = math.ceil((math.floor(first_met / cadence) + 1) * cadence / B) * B
    end = min(confirmed, cell.limit)
    if cell.status == "diverged":
        end = max(cell.limit // 4, 4 * B)
    step = np.arange(1, max(end // B, 2) + 1)
    samples = step * B

    def value_at(n: np.ndarray) -> np.ndarray:
        return START_VALUE + (hardest - START_VALUE) * n / cell.crossing

    loss = np.abs(value_at(samples - B)) + 0.01
    if cell.status == "diverged":
        loss[-1] = math.nan
    rng = np.random.default_rng([cell.seed, B, round(1e9 * cell.lr)])
    measured = np.arange(0, step.size, noise_cadence)
    shards = min(SHARDS, B)
    # The gradient shrinks while Sigma stays: the noise scale grows to `b_simple` at the crossing.
    g_sq = TR_SIGMA / b_simple * (4.0 - 3.0 * np.minimum(1.0, samples[measured] / cell.crossing))
    small, big = np.full(step.size, np.nan), np.full(step.size, np.nan)
    small[measured], big[measured] = gradient_norms(rng, g_sq, B, shards)
    wobble = 1.0 + (1e-12 if cell.realisation else 0.0)
    step_s = np.full(step.size, 0.002 + 1e-6 * B) * (1.5 if cell.realisation else 1.0)
    has_norms = np.isin(np.arange(step.size), measured)
    steps = as_table(
        "steps",
        {
            **identity(cell),
            "micro_batch": B // cell.workers,
            "accumulation_steps": 1,
            "step": step,
            "samples": samples,
            "step_lr": cell.lr,
            "loss": loss * wobble,
            "grad_sq_small": small,
            "grad_sq_big": big,
            "shard_size": np.where(has_norms, B // shards, np.nan),
            "shards": np.where(has_norms, shards, np.nan),
            "step_s": step_s,
            "compute_s": 0.8 * step_s,
            "sync_s": 0.1 * step_s if cell.realisation else 0.0 * step_s,
            "data_s": 0.1 * step_s,
        },
    )
    multiples = np.arange(1, int(end / cadence) + 1) * cadence
    at_step = np.unique(np.concatenate([[0], np.ceil(multiples / B)])).astype(int)
    at_step = at_step[at_step <= step[-1]]
    evals = as_table(
        "evals",
        {
            **identity(cell),
            "step": at_step,
            "samples": at_step * B,
            "metric": METRIC,
            "value": value_at(at_step * B) * wobble,
            "eval_s": 0.01,
        },
    )
    if distances:  # 0.1 for every 1,000 samples at batch 1, and less by the fourth root of a larger one
        moved = {"metric": schema.DISTANCE, "value": 1e-4 * at_step * B**0.75, "eval_s": 0.01}
        far = as_table("evals", {**identity(cell), "step": at_step, "samples": at_step * B, **moved})
        evals = pa.concat_tables([evals, far]).sort_by("step")
    return steps, evals


def write_trial(
    root: Path, cell: Cell, steps: pa.Table, evals: pa.Table, *, unit: str = "example", n_train: int = 100_000
) -> None:
    """One trial in two commits: the first binds half of the steps, the last binds everything."""
    key = schema.trial_key(cell.trial_id, cell.realisation)
    directory = root / schema.TRIALS_DIR / key
    facts: schema.TrialFacts = {
        "schema_version": schema.SCHEMA_VERSION,
        "trial_id": cell.trial_id,
        "realisation": cell.realisation,
        "seed": cell.seed,
        "batch_size": cell.batch_size,
        "workers": cell.workers,
        "micro_batch": cell.batch_size // cell.workers,
        "accumulation_steps": 1,
        "lr": cell.lr,
        "optimizer": {"name": "sgd", "momentum": 0.0},
        "workload": {"name": "synthetic"},
        "dtype": "float64",
        "unit": unit,
        "n_train": n_train,
        "n_parameters": DIMENSIONS,
        "data_sha256": "0" * 64,
        "limit_samples": cell.limit,
        "versions": {"scaleexp": "0"},
        "git_sha": None,
        "hardware": {"cpu": "synthetic"},
        "created_utc": "2025-01-01T00:00:00Z",
    }
    write_json(directory / schema.TRIAL_FILE, facts)
    half = steps.num_rows // 2
    segments: list[schema.SegmentRef] = []
    pieces: Iterable[tuple[int, list[tuple[schema.Table, pa.Table]]]] = [
        (1, [("steps", steps.slice(0, half)), ("evals", evals.slice(0, 1))]),
        (2, [("steps", steps.slice(half)), ("evals", evals.slice(1))]),
    ]
    for number, tables in pieces:
        for name, table in tables:
            file = f"{schema.SEGMENTS_DIR}/{name}-{number:04d}.parquet"
            data = parquet_bytes(table)
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / file).write_bytes(data)
            segments.append({"file": file, "table": name, "sha256": sha256(data), "rows": table.num_rows})
        last = number == 2
        step = steps.num_rows if last else half
        diverged = last and cell.status == "diverged"
        commit: schema.Commit = {
            "schema_version": schema.SCHEMA_VERSION,
            "key": key,
            "number": number,
            "attempt": 0,
            "step": step,
            "samples": step * cell.batch_size,
            "status": cell.status if last else "running",  # type: ignore[typeddict-item]
            "cause": f"training loss is nan at step {step}" if diverged else "",
            "segments": list(segments),
            "realisation": {"engine": "ddp" if cell.realisation else "packed"},
            "elapsed_s": 1.0,
            "committed_utc": "2025-01-01T00:00:01Z",
        }
        write_json(directory / schema.COMMITS_DIR / f"{number:04d}.json", commit)


def stop_at_first_step(trial: Path) -> None:
    """Make a written trial one that its limit stopped after one step, with no evaluation but that of the start."""
    (trial / schema.COMMITS_DIR / "0002.json").unlink(missing_ok=True)
    commit_file = trial / schema.COMMITS_DIR / "0001.json"
    commit = json.loads(commit_file.read_text())
    for segment in commit["segments"]:
        file = trial / segment["file"]
        data = parquet_bytes(pq.read_table(file).slice(0, 1))
        file.write_bytes(data)
        segment.update(sha256=sha256(data), rows=1)
    samples = pq.read_table(trial / commit["segments"][0]["file"])["samples"][0].as_py()
    write_json(commit_file, commit | {"step": 1, "samples": samples, "status": "limit"})


def write_study(
    path: Path,
    *,
    batches: Sequence[int] = (16, 64, 256, 1024),
    lrs_per_batch: int = 3,
    seeds: int = 3,
    b_crit: float = 256.0,
    s_min: float = 50.0,
    noise: float = 0.05,
    targets: Sequence[float] = (1.5, 1.0),
    direction: str = "min",
    base_batch: int | None = None,
    base_lr: float = 0.1,
    lr_exponent: float = 0.5,
    curvature: float = 0.4,
    shared_noise: float = 0.5,
    limit_factor: float = 1.9,
    evals_per_e_min: float = 20.0,
    noise_cadence: int = 5,
    b_simple: float = 100.0,
    diverged: bool = True,
    second_realisation: bool = True,
    unit: str = "example",
    distances: bool = False,
    rng_seed: int = 0,
) -> Path:
    """Write a study whose hardest target has exactly the given curve.

    Args:
        path: directory to create.
        batches: batch sizes; the LR grid of each has `lrs_per_batch` points a factor 2 apart around its optimum, plus
            the LRs of the rules none, sqrt and linear from (`base_batch`, `base_lr`).
        seeds: seeds 0..seeds-1 at every grid point.
        b_crit, s_min: the truth at the hardest target; easier ones scale s_min only.
        noise: standard deviation of log steps, of which the share `shared_noise` (of the variance) is a seed's own at
            every LR of a batch, because seeds share the data order across LRs.
        targets: from the easiest to the hardest; with direction "max" they must lie above START_VALUE.
        limit_factor: runs needing more than this times the tuned samples of their batch are censored there.
        diverged: whether the largest LR of the largest batch diverges, in the last seed.
        second_realisation: whether one trial is run a second time as `id@ddp-2`.
        distances: whether every evaluation logs the distance from the initialisation, too.
    """
    base = base_batch or batches[len(batches) // 2]
    rng = np.random.default_rng(rng_seed)
    hardest = targets[-1]
    rules: list[schema.RuleLabel] = []
    cells: dict[str, Cell] = {}
    for B in batches:
        kappa = B / base
        optimum = base_lr * kappa**lr_exponent
        tuned = s_min * (1.0 + b_crit / B)
        scaled = {"none": base_lr, "sqrt": base_lr * math.sqrt(kappa), "linear": base_lr * kappa}
        grid = {float(f"{optimum * 2.0 ** (j - lrs_per_batch // 2):.12g}") for j in range(lrs_per_batch)}
        lrs = sorted(grid | {float(f"{lr:.12g}") for lr in scaled.values()})
        shared = rng.standard_normal(seeds)
        limit = math.ceil(limit_factor * tuned) * B
        for lr in lrs:
            own = rng.standard_normal(seeds)
            z = math.sqrt(shared_noise) * shared + math.sqrt(1.0 - shared_noise) * own
            penalty = curvature * math.log(lr / optimum) ** 2
            for seed in range(seeds):
                crossing = tuned * math.exp(penalty + noise * z[seed]) * B
                lost = diverged and max(batches) == B and lr == max(lrs) and seed == seeds - 1
                # Confirmation takes one more evaluation after the crossing.
                fits = crossing + 3 * max(s_min * b_crit / evals_per_e_min, B) <= limit
                status = "diverged" if lost else ("reached" if fits else "limit")
                id_ = trial_id(B, lr, seed)
                cells[id_] = Cell(
                    trial_id=id_,
                    realisation="",
                    seed=seed,
                    batch_size=B,
                    workers=1,
                    lr=lr,
                    crossing=crossing,
                    status=status,
                    limit=limit if fits else min(limit, int(crossing * 0.95) // B * B),
                )
        for rule, lr in scaled.items():
            lr = float(f"{lr:.12g}")
            ids = [trial_id(B, lr, seed) for seed in range(seeds)]
            rules.append({"rule": rule, "batch_size": B, "kappa": kappa, "lr": lr, "trial_ids": ids})
    everything = list(cells.values())
    if second_realisation:
        first = cells[trial_id(base, float(f"{base_lr:.12g}"), 0)]
        everything.append(Cell(**{**vars(first), "realisation": "ddp-2", "workers": 2}))
    for cell in everything:
        steps, evals = trial_tables(
            cell,
            hardest=hardest,
            cadence=s_min * b_crit / evals_per_e_min,
            noise_cadence=noise_cadence,
            b_simple=b_simple,
            distances=distances,
        )
        write_trial(path, cell, steps, evals, unit=unit)
    plan: schema.PlanFile = {
        "schema_version": schema.SCHEMA_VERSION,
        "study": "synthetic",
        "question": "Does the fit return the curve that this study was written from?",
        "targets": [{"metric": METRIC, "values": list(targets), "direction": direction}],  # type: ignore[typeddict-item]
        "base_batch_size": base,
        "base_lr": base_lr,
        "unit": unit,
        "trials": [
            {
                "trial_id": c.trial_id,
                "realisation": c.realisation,
                "seed": c.seed,
                "batch_size": c.batch_size,
                "workers": c.workers,
                "micro_batch": c.batch_size // c.workers,
                "accumulation_steps": 1,
                "lr": c.lr,
            }
            for c in everything
        ],
        "rules": rules,
    }
    write_json(path / schema.PLAN_DIR / "0001.json", plan)
    write_json(path / schema.STUDY_FILE, {"name": "synthetic", "seeds": seeds, "batch_sizes": list(batches)})
    return path
