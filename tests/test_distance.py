"""How far training has come from its initialisation: by hand, on any workers and engine, in any pack, resumed."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from scaleexp import schema
from scaleexp.config import check_against_data, load_study
from scaleexp.engines.ddp import DdpEngine
from scaleexp.engines.packed import PackedEngine
from scaleexp.errors import ConfigError
from scaleexp.execute import run_packed
from scaleexp.launch.runner import prepare
from scaleexp.runlog import last_commit
from scaleexp.sampling import derived_seed
from scaleexp.storage import Store
from scaleexp.workloads import make_workload
from scaleexp.workloads.classifier import Classifier
from scaleexp.workloads.quadratic import Quadratic
from tests.real_workers import real_workers
from tests.without_ray import assigned

B, LR, STEPS = 24, 0.1, 6
SGD = {"name": "sgd", "momentum": 0.9}


def workload():
    return Classifier(dtype=torch.float64, model="mlp", hidden=[8])


def packed(seeds=(1,), *, workers=1, kernel="vmap"):
    return PackedEngine(
        workload(), seeds=seeds, batch_size=B, workers=workers, optimizer=SGD, noise_shards=4, kernel=kernel
    )


def train(engine, trials=1, *, start=0, steps=STEPS, lrs=LR):
    """The distances before the first step and after each."""
    found = [engine.distances()]
    for i in range(start, start + steps):
        engine.step(i * B, (i + 1) * B, np.broadcast_to(np.array(lrs), (trials,)).copy(), measure=i % 2 == 0)
        found.append(engine.distances())
    return np.array(found).T


def by_hand(engine, seed=1, row=0):
    """The same from the state and a model of the seed, with numpy alone."""
    state, first = engine.states()[row], workload().model(derived_seed(seed, "init"))
    theta = np.concatenate([state[f"model.{n}"].numpy().ravel() for n, _ in first.named_parameters()])
    return np.linalg.norm(theta - np.concatenate([p.detach().numpy().ravel() for p in first.parameters()]))


def train_on_real_workers(state=None, start=0, steps=STEPS):
    engine = DdpEngine(
        workload(),
        seed=1,
        batch_size=B,
        samples_at_once=B // 2,
        optimizer=SGD,
        noise_shards=4,
        device=torch.device("cpu"),
    )
    if state:
        engine.restore([state])
    found = train(engine, start=start, steps=steps)[0]
    held = sum(p.numel() for p in engine._begun.values())
    return {"distances": found, "by_hand": by_hand(engine), "state": engine.states()[0], "held": held}


@pytest.fixture(scope="module")
def real():
    with real_workers(2) as group:
        half = group.run(train_on_real_workers, steps=3)
        rest = group.run(train_on_real_workers, state=half["state"], start=3, steps=3)
        yield group.run(train_on_real_workers), half, rest


def test_it_is_the_norm_over_all_trained_parameters():
    engine = packed()
    found = train(engine)[0]
    assert found[0] == 0.0
    assert found[-1] > 0.1
    np.testing.assert_allclose(found[-1], by_hand(engine), rtol=1e-13)


def test_one_plain_step_goes_as_far_as_the_learning_rate_times_the_gradient():
    nine = Quadratic(dimensions=9, dtype=torch.float64)
    engine = PackedEngine(nine, seeds=[0], batch_size=4, optimizer={"name": "sgd"}, noise_shards=4)
    noise = engine.step(0, 4, np.array([0.5]), measure=True).noise
    np.testing.assert_allclose(engine.distances(), 0.5 * np.sqrt(noise.big), rtol=1e-12)


def test_two_real_workers_go_as_far_as_one(real):
    whole, _, _ = real
    np.testing.assert_allclose(whole["distances"][-1], whole["by_hand"], rtol=1e-13)
    np.testing.assert_allclose(whole["distances"], train(packed())[0], rtol=1e-10)


@pytest.mark.parametrize("workers", [2, 3, 12])
@pytest.mark.parametrize("kernel", ["vmap", "one by one"])
def test_virtual_workers_go_as_far_as_one(workers, kernel):
    np.testing.assert_allclose(train(packed(workers=workers, kernel=kernel)), train(packed()), rtol=1e-10)


def test_a_trial_goes_as_far_in_any_pack_each_from_its_own_beginning():
    engine = packed([3, 1, 1])
    together = train(engine, 3, lrs=[0.05, LR, 0.2])
    assert together[1].tolist() == train(packed())[0].tolist()
    np.testing.assert_allclose(together[:, -1], [by_hand(engine, s, k) for k, s in enumerate([3, 1, 1])], rtol=1e-13)
    engine.keep([1])
    assert engine.distances().tolist() == [together[1, -1]]


def test_after_a_resume_it_is_counted_from_the_beginning_all_the_same(real):
    whole, half, rest = real
    assert [*half["distances"], *rest["distances"][1:]] == whole["distances"].tolist()
    first, second = packed(), packed()
    before = train(first, steps=3)[0]
    second.restore(first.states())
    assert [*before, *train(second, start=3, steps=3)[0][1:]] == train(packed())[0].tolist()
    second.restore([half["state"]])  # from another engine
    np.testing.assert_allclose(second.distances(), half["distances"][-1:], rtol=1e-12)


def test_trials_of_one_seed_share_their_beginning_and_of_real_workers_one_process_holds_it(real):
    begun = packed([1, 1, 2])._stack.begun
    assert begun[0] is begun[1] is not begun[2]
    assert real[0]["held"] == packed().n_parameters  # of process 0
    engine = packed([1, 1, 2])
    engine.keep([2])
    assert set(engine._stack._begun) == {2}


SETS = [
    "workload={name: quadratic, dimensions: 20}",
    "workers=[4]",
    "base={batch_size: 16, lr: 0.2}",
    "seeds=[0]",
    "lr_multipliers=[1]",
    "limits.samples=320",
    "evaluation.every_samples=40",
    "targets=[{metric: expected_loss, values: [0.01]}]",
]


def test_every_evaluation_has_it_in_a_row_beside_the_metrics_of_the_workload(tmp_path):
    prepared = prepare(load_study("quadratic", SETS))
    run_packed(assigned(prepared, tmp_path), prepared.plan.trials, threads=1)
    (trial,) = prepared.plan.trials
    bound = last_commit(Store(tmp_path), trial.key)["segments"]
    files = [tmp_path / "trials" / trial.key / s["file"] for s in bound if s["table"] == "evals"]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    at = {m: [r["samples"] for r in rows if r["metric"] == m] for m in ("expected_loss", schema.DISTANCE)}
    assert at["expected_loss"] == at[schema.DISTANCE]
    assert len(rows) == 2 * len(at[schema.DISTANCE])
    found = [r["value"] for r in rows if r["metric"] == schema.DISTANCE]
    assert found[0] == 0.0
    assert all(v > 0.0 for v in found[1:])


def test_it_is_no_target():
    study = load_study("quadratic", [*SETS, f"targets=[{{metric: {schema.DISTANCE}, values: [1.0]}}]"])
    with pytest.raises(ConfigError, match="reports no metric 'distance_from_init'; valid: expected_loss"):
        check_against_data(study, n_train=None, metrics=Quadratic(dimensions=2).metrics)


class Named(Quadratic):
    """A workload that takes the name for a metric of its own."""

    metrics = {schema.DISTANCE: "min"}  # noqa: RUF012


def test_a_workload_cannot_take_its_name():
    with pytest.raises(ConfigError, match="reports a metric 'distance_from_init', which every run logs: rename it"):
        make_workload("tests.test_distance:Named", {"dimensions": 2}, dtype="float64")
