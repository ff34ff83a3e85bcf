from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.noise import estimates
from scaleexp.engines.packed import PackedEngine
from scaleexp.noise_scale import shard_count, squared_norms
from scaleexp.sampling import derived_seed
from scaleexp.workloads.classifier import Classifier
from scaleexp.workloads.quadratic import Quadratic


def test_estimates_are_unbiased_for_gaussian_gradients():
    rng = np.random.default_rng(0)
    g, n, b = np.array([1.0, -2.0, 0.5]), 4, 3
    deviations = np.array([0.5, 1.0, 2.0])
    shards = g + rng.normal(size=(40_000, n, 3)) * deviations / np.sqrt(b)
    small = (shards**2).sum(-1).mean(-1)
    big = (shards.mean(1) ** 2).sum(-1)
    pairs = np.array([estimates(s, m, b, n * b) for s, m in zip(small, big, strict=True)])
    for found, truth in zip(pairs.T, ((g**2).sum(), (deviations**2).sum()), strict=True):
        assert abs(found.mean() - truth) < 3 * found.std() / np.sqrt(len(found))


def test_squared_norms_add_over_parameters():
    grads = [torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[[2.0]], [[2.0]]])]
    assert squared_norms(grads).tolist() == [29.0, 5.0]


@pytest.mark.parametrize(("batch_size", "workers"), [(4, 1), (60, 3), (1024, 2), (7, 1), (24, 3), (1024, 16), (96, 12)])
@pytest.mark.parametrize("real", [False, True])
def test_shards_are_whole_workers_or_whole_parts_of_one(batch_size, workers, real):
    n = shard_count(batch_size, at_most=8, workers=workers, real=real)
    assert n is not None
    assert n >= 2
    assert batch_size % n == 0
    assert n % workers == 0 or (not real and workers % n == 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 8])
def test_real_and_virtual_workers_are_cut_into_the_same_shards(workers):
    virtual, real = (shard_count(24 * workers, at_most=8, workers=workers, real=r) for r in (False, True))
    assert virtual == real


def _per_example_gradients(workload, params, batch):
    """Brute force: one backward pass per example."""
    rows = []
    for i in range(len(batch[0])):
        model = workload.model(0)
        for name, p in model.named_parameters():
            p.data.copy_(params[name])
        loss = workload.loss(model, tuple(part[i : i + 1] for part in batch), lambda t: t)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_engine_logs_the_norms_of_brute_force_per_example_gradients(model):
    workload = Classifier(model=model, hidden=[8], dtype=torch.float64)
    engine = PackedEngine(workload, seeds=[3], batch_size=24, optimizer={"name": "sgd"}, noise_shards=8)
    found = engine.step(0, np.array([0.1]), measure=True).noise
    start = dict(workload.model(derived_seed(3, "init")).named_parameters())
    batch = workload.batch(derived_seed(3, "data"), 0, 24)
    per_example = _per_example_gradients(workload, {k: p.detach() for k, p in start.items()}, batch)
    shards = per_example.view(8, 3, -1).mean(1)
    assert found is not None
    assert (found.shards, found.shard_size) == (8, 3)
    np.testing.assert_allclose(found.small, (shards**2).sum(1).mean().item(), rtol=1e-10)
    np.testing.assert_allclose(found.big, (shards.mean(0) ** 2).sum().item(), rtol=1e-10)


def test_the_quadratic_at_its_start_has_its_closed_form_noise_scale():
    workload = Quadratic(dimensions=50, noise=3.0, dtype=torch.float64)
    h = np.arange(1, 51) ** -1.0
    engine = PackedEngine(workload, seeds=list(range(400)), batch_size=16, optimizer={"name": "sgd"}, noise_shards=8)
    noise = engine.step(0, np.zeros(400), measure=True).noise
    assert noise is not None
    pairs = np.array([estimates(s, m, 2, 16) for s, m in zip(noise.small, noise.big, strict=True)])
    for found, truth in zip(pairs.T, ((h**2).sum(), 3.0 * h.sum()), strict=True):
        assert abs(found.mean() - truth) < 3 * found.std() / np.sqrt(len(found))
