"""What is computed for all runs of a study at once is, bit for bit, what one run after another gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from analysis.losses import _Evaluated, loss_curve, loss_curves
from analysis.noise import measurements, noise_at_target, noise_series
from analysis.noise_ratio import Measurements
from analysis.read import load, read_evals, read_steps
from analysis.targets import Run, batch_points, runs_to_target
from scaleexp.laws import first_confirmed, interpolated_crossing, noise_estimates
from tests.study_factory import METRIC, write_study

GOLDEN = Path(__file__).parent / "golden"
NORMS = ["samples", "batch_size", "grad_sq_small", "grad_sq_big", "shards"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Name -> (log, metric, targets, direction)."""
    made = tmp_path_factory.mktemp("studies")
    return {
        "falling": (load(write_study(made / "a")), METRIC, (1.5, 1.0, 0.8), "min"),
        "rising": (load(write_study(made / "b", targets=(3.0, 4.0), direction="max")), METRIC, (3.0, 4.0), "max"),
        "golden": (load(GOLDEN / "study-v1"), "expected_loss", (1.0, 0.5, 0.1), "min"),
        "golden, compacted": (load(GOLDEN / "study-v1-compacted"), "expected_loss", (1.0, 0.5, 0.1), "min"),
    }


def one_by_one(log, metric):
    """(trial, samples, values) of each run with an evaluation, in order of samples."""
    table = read_evals(log, metric)
    for trial in log.trials:
        same = pc.and_(
            pc.equal(table["trial_id"], trial.facts["trial_id"]),
            pc.equal(table["realisation"], trial.facts["realisation"]),
        )
        own = table.filter(same)
        samples, values = own["samples"].to_numpy(), own["value"].to_numpy()
        if samples.size and not trial.facts["realisation"]:
            order = np.argsort(samples, kind="stable")
            yield trial, samples[order], values[order]


def plain_run(trial, samples, values, target, direction):
    status = trial.commit["status"] if trial.commit else "running"
    hit = None if status == "diverged" else first_confirmed(values.tolist(), target, direction)
    if hit is None:
        missed = np.flatnonzero(~(values <= target if direction == "min" else values >= target))
        crossing = float(samples[missed[-1]]) if missed.size else 0.0
        bracket = (crossing, math.inf)
    elif hit == 0:
        crossing, bracket = float(samples[0]), (0.0, float(samples[0]))
    else:
        before, after = ((float(samples[i]), float(values[i])) for i in (hit - 1, hit))
        crossing, bracket = interpolated_crossing(before, after, target), (before[0], after[0])
    own = {name: trial.facts[name] for name in ("seed", "batch_size", "workers", "lr")}
    return Run(key=trial.key, **own, reached=hit is not None, samples=crossing, bracket=bracket, status=status)


@pytest.mark.parametrize("name", ["falling", "rising", "golden", "golden, compacted"])
def test_runs_to_target_are_those_of_one_run_after_another(logs, name):
    log, metric, targets, direction = logs[name]
    runs = list(one_by_one(log, metric))
    assert runs
    for target in targets:
        found = runs_to_target(log, metric, target, direction)
        assert found == tuple(plain_run(*run, target, direction) for run in runs)


@pytest.mark.parametrize("name", ["falling", "rising", "golden"])
def test_loss_curves_are_those_of_one_run_after_another(logs, name):
    log, metric, _, direction = logs[name]
    by_batch: dict[int, list[_Evaluated]] = {}
    for trial, samples, values in one_by_one(log, metric):
        lost = (trial.commit is not None and trial.commit["status"] == "diverged") or not np.isfinite(values).all()
        run = _Evaluated(lr=trial.facts["lr"], diverged=lost, samples=samples.astype(np.float64), values=values)
        by_batch.setdefault(trial.facts["batch_size"], []).append(run)
    plain = [
        loss_curve(B, [r for r in by_batch[B] if r.diverged or r.samples[-1] > 0], direction) for B in sorted(by_batch)
    ]
    assert repr(loss_curves(log, metric, direction)) == repr(tuple(curve for curve in plain if curve))


def plain_measurements(log, trial):
    table = read_steps(log, NORMS, {trial.key})
    valid = pc.and_(pc.is_finite(table["grad_sq_small"]), pc.is_finite(table["grad_sq_big"]))
    columns = table.filter(pc.and_(valid, pc.greater(table["shards"], 1))).sort_by("samples")
    samples, B, small, big, n = (columns[name].to_numpy() for name in NORMS)
    g_sq, tr_sigma = noise_estimates(small, big, n, B, data_size=trial.facts["n_train"], first=samples - B)
    seen = np.isfinite(tr_sigma)
    return Measurements(*(column[seen].astype(np.float64) for column in (samples, g_sq, tr_sigma, B)))


@pytest.mark.parametrize("name", ["falling", "rising", "golden", "golden, compacted"])
def test_measurements_of_noise_are_those_of_one_run_after_another(logs, name):
    log = logs[name][0]
    plain = {trial.key: plain_measurements(log, trial) for trial in log.trials}
    plain = {key: m for key, m in plain.items() if m.samples.size}
    found = measurements(log, {trial.key for trial in log.trials})
    assert found.keys() == plain.keys()
    for key, m in found.items():
        assert all(np.array_equal(a, b) for a, b in zip(m, plain[key], strict=True))


def test_noise_from_measurements_read_once_is_that_of_measurements_read_on_demand(logs):
    log, metric, targets, direction = logs["falling"]
    points, _ = batch_points(runs_to_target(log, metric, targets[1], direction))
    once = measurements(log, {trial.key for trial in log.trials})
    assert noise_series(log, points, measured=once) == noise_series(log, points)
    assert noise_at_target(log, points, measured=once) == noise_at_target(log, points)
