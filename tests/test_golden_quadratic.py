"""A whole study through Ray Tune against the closed form of the noisy quadratic (Zhang et al. 2019)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.read import load, read_evals
from scaleexp.config import load_study
from scaleexp.engines.packed import PackedEngine
from scaleexp.launch.runner import prepare, run_study
from scaleexp.workloads.quadratic import Quadratic

D, DECAY, NOISE = 100, 0.25, 1.0
H = np.arange(1, D + 1) ** -DECAY


def expected_loss(lr: float, batch_size: int, step: int) -> float:
    """E l(t) for SGD from x = 1: the initial loss decays while the noise fills up."""
    decay = (1 - lr * H) ** (2 * step)
    stationary = lr * NOISE * H / (2 * batch_size * (2 - lr * H))
    return float((decay * 0.5 * H + (1 - decay) * stationary).sum())


def z_scores(directory, *, noise: float) -> dict[tuple[int, float], float]:
    """(mean over 64 seeds - closed form) / standard error at the last evaluation, per batch size and LR."""
    sets = [
        f"workload={{name: quadratic, dimensions: {D}, decay: {DECAY}, noise: {noise}}}",
        "targets=[]",
        "base={batch_size: 16, lr: 0.2}",
        "workers=[1, 2, 4, 8, 16]",
        "lr_multipliers=[1]",
        "lr_rules=[none, sqrt]",
        "seeds=64",
        "limits.samples=6400",
        "evaluation.every_samples=1600",
    ]
    run_study(prepare(load_study("quadratic", sets)), directory)
    log = load(directory)
    assert not log.problems
    last = {}
    for row in read_evals(log, "expected_loss").to_pylist():
        if row["samples"] == 6400:
            last.setdefault((row["batch_size"], row["lr"], row["step"]), []).append(row["value"])
    scores = {}
    for (batch_size, lr, step), values in last.items():
        assert len(values) == 64
        exact = expected_loss(lr, batch_size, step)
        scores[batch_size, lr] = (np.mean(values) - exact) / (np.std(values, ddof=1) / 8)
    assert len({b for b, _ in scores}) == 5
    return scores


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_through_ray_tune_follows_the_closed_form(tmp_path):
    scores = z_scores(tmp_path / "true", noise=NOISE)
    assert max(map(abs, scores.values())) <= 3, scores


@pytest.mark.ray
@pytest.mark.slow
def test_ten_percent_too_much_noise_does_not_pass(tmp_path):
    scores = z_scores(tmp_path / "planted", noise=1.1 * NOISE)
    assert min(scores.values()) > 3, scores


def heavy_ball_loss(lr: float, momentum: float, batch_size: int, steps: int) -> float:
    """Exact second moments X = E x^2, W = E v^2, Y = E x v of v <- m v + g, x <- x - lr v."""
    x, w, y = np.ones(D), np.zeros(D), np.zeros(D)
    for _ in range(steps):
        w_next = momentum**2 * w + H**2 * x + 2 * momentum * H * y + NOISE * H / batch_size
        x_next = x - 2 * lr * (momentum * y + H * x) + lr**2 * w_next
        y = momentum * y + H * x - lr * w_next
        x, w = x_next, w_next
    return float(0.5 * (H * x).sum())


@pytest.mark.parametrize("batch_size", [4, 16, 64])
def test_momentum_follows_its_exact_second_moments(batch_size):
    import torch

    workload = Quadratic(dimensions=D, decay=DECAY, noise=NOISE, dtype=torch.float64)
    optimizer = {"name": "sgd", "momentum": 0.9}
    engine = PackedEngine(workload, seeds=range(256), batch_size=batch_size, optimizer=optimizer, noise_shards=4)
    for i in range(150):
        engine.step(i * batch_size, (i + 1) * batch_size, np.full(256, 0.05), measure=i % 7 == 0)
    values = engine.evaluate()["expected_loss"]
    exact = heavy_ball_loss(0.05, 0.9, batch_size, 150)
    assert abs(values.mean() - exact) < 3 * values.std(ddof=1) / 16


def test_a_sample_is_the_same_in_whatever_order_and_sizes_samples_are_asked_for():
    whole = Quadratic(dimensions=3, dtype=torch.float64).batch(5, 0, 40_000)[0]
    workload = Quadratic(dimensions=3, dtype=torch.float64)
    for start, stop in [(0, 4), (4, 8), (2, 6), (5_400, 5_470), (0, 4), (20_000, 39_000), (39_000, 39_001), (1, 2)]:
        assert torch.equal(workload.batch(5, start, stop)[0], whole[start:stop])
        assert not torch.equal(workload.batch(6, start, stop)[0], whole[start:stop])
