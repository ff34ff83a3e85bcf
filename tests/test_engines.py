"""W real workers, W virtual workers and one worker are the same optimisation; trials in a pack do not meet."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from scaleexp.engines.ddp import DdpEngine
from scaleexp.engines.packed import PackedEngine
from scaleexp.sampling import derived_seed
from scaleexp.workloads.classifier import Classifier
from tests.real_workers import real_workers

B, STEPS, LR = 48, 50, 0.1
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4}


def make(**options):
    return Classifier(dtype=torch.float64, **{"model": "mlp", "hidden": [16], **options})


@functools.cache
def one_worker(optimizer_name: str, model: str) -> dict[str, np.ndarray]:
    """The reference, written with nothing of ours but the data: one process, plain torch."""
    workload = make(model=model)
    net = workload.model(derived_seed(1, "init"))
    optimizer = (
        torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
        if optimizer_name == "sgd"
        else torch.optim.AdamW(net.parameters(), lr=0.003)
    )
    losses, after_one = [], None
    for i in range(STEPS):
        x, y = workload.batch(derived_seed(1, "data"), i * B, (i + 1) * B)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        after_one = after_one or _val_loss(workload, net)
    return {"loss": np.array(losses), "val_loss": _val_loss(workload, net), "after_one": after_one}


def _val_loss(workload, net):
    x, y = workload.eval_batch(0, workload.n_eval)
    return torch.nn.functional.cross_entropy(net(x), y).item()


def run(engine, lr, *, measure_every):
    losses, noise, after_one = [], [], None
    for i in range(STEPS):
        result = engine.step(i * B, (i + 1) * B, np.array([lr]), measure=i % measure_every == 0)
        losses.append(result.loss[0])
        if result.noise:
            noise.append((result.noise.small[0], result.noise.big[0], result.noise.shards))
        after_one = after_one or engine.evaluate()["val_loss"][0]
    value = engine.evaluate()["val_loss"][0]
    return {"loss": np.array(losses), "val_loss": value, "noise": np.array(noise), "after_one": after_one}


def assert_same(found, reference):
    """One step to 1e-12, fifty steps to 1e-10."""
    np.testing.assert_allclose(found["loss"][0], reference["loss"][0], rtol=1e-12)
    np.testing.assert_allclose(found["after_one"], reference["after_one"], rtol=1e-12)
    np.testing.assert_allclose(found["loss"], reference["loss"], rtol=1e-10)
    np.testing.assert_allclose(found["val_loss"], reference["val_loss"], rtol=1e-10)


def spec(name):
    return SGD if name == "sgd" else {"name": "adamw"}


def rate(name):
    return LR if name == "sgd" else 0.003


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(("workers", "measure_every"), [(1, 1), (2, 1), (3, 1), (16, 1), (2, 1000)])
def test_virtual_workers_are_one_worker(name, model, workers, measure_every):
    """Every step by the shards that the workers hold, or none but the first."""
    engine = PackedEngine(
        make(model=model), seeds=[1], batch_size=B, workers=workers, optimizer=spec(name), noise_shards=8
    )
    found = run(engine, rate(name), measure_every=measure_every)
    shards = set(found["noise"][:, 2])
    assert shards == {B if model == "mlp" else {1: 8, 2: 8, 3: 6, 16: 8}[workers]}
    reference = one_worker(name, model)
    assert reference["loss"][-1] < 0.5 * reference["loss"][0]
    assert_same(found, reference)


def run_real(name, model, micro_batch, measure_every):
    engine = DdpEngine(
        make(model=model),
        seed=1,
        batch_size=B,
        samples_at_once=micro_batch,
        optimizer=spec(name),
        noise_shards=8,
        device=torch.device("cpu"),
    )
    return run(engine, rate(name), measure_every=measure_every)


CASES = [("sgd", "mlp", 24, 10), ("adamw", "mlp", 8, 1000), ("sgd", "cnn", 24, 1), ("sgd", "mlp", 12, 3)]


@pytest.fixture(scope="module")
def two_real_workers():
    names = ("name", "model", "micro_batch", "measure_every")
    with real_workers(2) as group:
        return [group.run(run_real, **dict(zip(names, case, strict=True))) for case in CASES]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_real_workers_are_one_worker(two_real_workers, case):
    """With accumulation, with and without the noise path, evaluated in halves."""
    name, model, _, _ = CASES[case]
    assert_same(two_real_workers[case], one_worker(name, model))


@pytest.mark.parametrize("case", [0, 2, 3])
def test_real_and_virtual_workers_measure_the_same_gradient_norms(two_real_workers, case):
    name, model, _, measure_every = CASES[case]
    virtual = PackedEngine(make(model=model), seeds=[1], batch_size=B, optimizer=spec(name), noise_shards=8)
    expected = run(virtual, rate(name), measure_every=measure_every)["noise"]
    assert len(expected) > 4
    np.testing.assert_allclose(two_real_workers[case]["noise"], expected, rtol=1e-8)


def test_a_trial_is_bit_identical_in_every_pack():
    """Alone, beside others, and after others have left."""

    def losses(seeds, lrs, leave_at=None, leave=()):
        engine = PackedEngine(Classifier(), seeds=seeds, batch_size=16, optimizer=SGD, noise_shards=8)
        rates, rows = np.array(lrs), []
        for i in range(30):
            if i == leave_at:
                engine.keep(leave)
                rates = rates[leave]
            result = engine.step(i * 16, i * 16 + 16, rates, measure=i % 5 == 0)
            rows.append(float(result.loss[rates.tolist().index(0.05)]))
        return rows

    alone = losses([7], [0.05])
    assert losses([3, 7, 7], [0.01, 0.05, 0.2]) == alone
    for leave in ([1], [1, 2], [0, 1, 3]):
        assert losses([3, 7, 9, 9], [0.01, 0.05, 0.2, 0.4], leave_at=11, leave=leave) == alone


def test_frozen_parameters_stay_and_every_seed_keeps_its_own_buffers():
    workload = Classifier(model="tests.plugin_workloads:with_frozen_and_random_features")
    together = PackedEngine(workload, seeds=[1, 2], batch_size=16, optimizer=SGD, noise_shards=8)
    alone = PackedEngine(workload, seeds=[2], batch_size=16, optimizer=SGD, noise_shards=8)
    assert together.n_parameters == 12 * 10 + 10
    net = workload.model(derived_seed(2, "init"))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, 0.9, weight_decay=1e-4)
    for i in range(10):
        x, y = workload.batch(derived_seed(2, "data"), i * 16, (i + 1) * 16)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = together.step(i * 16, i * 16 + 16, np.array([0.1, 0.1]), measure=False).loss[1]
        assert found == alone.step(i * 16, i * 16 + 16, np.array([0.1]), measure=False).loss[0]
        np.testing.assert_allclose(found, loss.item(), rtol=1e-5)


def test_a_diverging_trial_does_not_touch_its_neighbours():
    lrs = np.array([0.05, 1e6])
    pack = PackedEngine(Classifier(), seeds=[1, 1], batch_size=16, optimizer=SGD, noise_shards=8)
    alone = PackedEngine(Classifier(), seeds=[1], batch_size=16, optimizer=SGD, noise_shards=8)
    for i in range(20):
        together = pack.step(i * 16, i * 16 + 16, lrs, measure=False).loss
        assert together[0] == alone.step(i * 16, i * 16 + 16, lrs[:1], measure=False).loss[0]
    assert not np.isfinite(together[1])


MODELS_OF_ALL_SORTS = [
    "mlp",
    "cnn",
    "tests.equivalence_models:with_batch_norm",
    "tests.equivalence_models:with_dropout",
]


def short_run(model, steps=12, dtype=torch.float32, **options):
    group = 8 if "batch_norm" in model else None
    workload = Classifier(dtype=dtype, model=model)
    options = {"optimizer": SGD, "noise_shards": 4, "statistics_group": group, **options}
    engine = PackedEngine(workload, seeds=[1, 1, 2], batch_size=16, **options)
    losses = [
        engine.step(i * 16, i * 16 + 16, np.array([0.05, 0.1, 0.05]), measure=i % 5 == 0).loss for i in range(steps)
    ]
    return engine, np.array(losses), engine.evaluate()["val_loss"]


@pytest.mark.parametrize("model", MODELS_OF_ALL_SORTS)
def test_every_kernel_trains_the_same_and_the_fastest_is_chosen_among_them(model):
    chosen, *found = short_run(model, dtype=torch.float64, kernel="time")
    assert chosen.realisation["kernel"] in ("vmap", "one by one")
    assert {"vmap", "one by one", f"evaluation: {chosen.realisation['evaluation_kernel']}"} <= chosen.timings.keys()
    assert chosen.realisation["kernel_note"] == ""
    for kernel in ("vmap", "one by one"):
        engine, *other = short_run(model, dtype=torch.float64, kernel=kernel)
        assert engine.realisation["kernel"] == kernel
        for a, b in zip(found, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


def test_a_record_is_kept_whatever_is_faster():
    for kernel in ("vmap", "one by one"):
        first, *found = short_run("mlp", kernel=kernel)
        again, *same = short_run("mlp", kernel="time", record=first.realisation)
        assert again.realisation == first.realisation
        assert all(np.array_equal(a, b) for a, b in zip(found, same, strict=True))


@pytest.mark.parametrize("kernel", ["time", "vmap"])
def test_a_model_that_cannot_be_vmapped_is_trained_one_by_one_with_a_note(kernel):
    engine, *found = short_run("tests.plugin_workloads:that_looks_at_values", kernel=kernel)
    assert engine.realisation["kernel"] == "one by one"
    assert "vmap cannot run this model (RuntimeError: " in engine.realisation["kernel_note"]
    _, losses, value = short_run("mlp", kernel="one by one")
    assert np.array_equal(found[0], losses)
    np.testing.assert_allclose(found[1], value, rtol=1e-6)


def test_bfloat16_autocast_trains_in_low_precision_on_float32_parameters():
    engine, losses, value = short_run("mlp", autocast=True)
    _, exact, exact_value = short_run("mlp")
    assert all(t.dtype == torch.float32 for n, t in engine.states()[0].items() if n.startswith("model."))
    assert not np.array_equal(losses, exact)
    np.testing.assert_allclose(losses, exact, rtol=0.1)
    np.testing.assert_allclose(value, exact_value, rtol=0.1)


def test_a_recording_gives_every_bit_of_what_it_replaces(monkeypatch):
    _, losses, value = short_run("tests.equivalence_models:with_dropout", steps=20)
    monkeypatch.setattr("scaleexp.engines.traced.PAYS_AFTER", 3)
    engine, recorded, same_value = short_run("tests.equivalence_models:with_dropout", steps=20)
    assert any(seen.recording for seen in engine._kernel._plain._seen.values())
    assert np.array_equal(losses, recorded)
    assert np.array_equal(value, same_value)


def test_modules_that_evaluate_while_the_model_trains_go_on_doing_so():
    workload = make(model="tests.plugin_workloads:with_a_part_that_evaluates")
    runs = []
    for kernel in ("vmap", "one by one"):
        engine = PackedEngine(workload, seeds=[1], batch_size=16, optimizer=SGD, noise_shards=4, kernel=kernel)
        engine.evaluate()
        runs.append([engine.step(i * 16, i * 16 + 16, np.array([0.1]), measure=False).loss[0] for i in range(5)])
    np.testing.assert_allclose(*runs, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, while it compiles
@pytest.mark.parametrize("model", ["mlp", "tests.equivalence_models:with_batch_norm"])
def test_a_compiled_kernel_trains_the_same_and_shrinks_by_halves(model):
    engine, *found = short_run(model, dtype=torch.float64, kernel="compiled vmap")
    assert engine.realisation["kernel"] == "compiled vmap"
    _, *expected = short_run(model, dtype=torch.float64)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    assert [engine._kernel.padded(range(n), 7) for n in (5, 4, 1)] == [[0, 1, 2, 3, 4, 4, 4], [0, 1, 2, 3], [0, 0]]


def real_options(model, dtype=torch.float64, **options):
    """Losses of a short run on real workers with options of the engine."""
    engine = DdpEngine(
        Classifier(dtype=dtype, model=model),
        seed=1,
        batch_size=16,
        samples_at_once=8,
        optimizer=SGD,
        noise_shards=4,
        device=torch.device("cpu"),
        statistics_group=8 if "batch_norm" in model else None,
        **options,
    )
    losses = [engine.step(i * 16, i * 16 + 16, np.array([0.1]), measure=i % 5 == 0).loss[0] for i in range(12)]
    return {"losses": losses, "kernel": engine.realisation["kernel"], "seconds": engine.seconds(16)}


@pytest.mark.slow
def test_real_workers_train_the_same_compiled_and_nearly_the_same_in_bfloat16():
    with real_workers(2) as group:
        for model in MODELS_OF_ALL_SORTS:
            expected = group.run(real_options, model=model)
            assert min(expected["seconds"]) > 0
            single, low = (group.run(real_options, model=model, dtype=torch.float32, autocast=a) for a in (False, True))
            np.testing.assert_allclose(single["losses"], expected["losses"], rtol=1e-4)
            np.testing.assert_allclose(low["losses"], expected["losses"], rtol=0.1)
            assert low["losses"] != single["losses"]
        compiled = group.run(real_options, model=model, compiled=True)
        assert compiled["kernel"] == "compiled"
        np.testing.assert_allclose(compiled["losses"], expected["losses"], rtol=1e-10)
