"""Fitted step times: what is known comes back, what is not known is said."""

from __future__ import annotations

import numpy as np
import pytest

from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.simulate.collectives import expected_maximum
from scaleexp.simulate.fitting import fit_groups, folds, weighed
from scaleexp.simulate.forms import FORMS, Form, Rows, gradient, parts
from scaleexp.simulate.measurements import measurements
from scaleexp.simulate.step_time import StepTimeModel
from scaleexp.simulate.tables import checked_row, grouped

TRUTH = StepTimeModel.by_hand(
    compute_fixed_s=0.05, compute_per_sample_s=0.01, transfer_s=0.1, latency_s=0.002, overlap=0.6, sharpness=6.0
)


def grid(most=16, batches=(8, 16, 32)):
    """(workers, nodes, worker batch) of a small sweep, four workers to a node at most."""
    sizes = [(p, n) for n in (1, 2, 3, 4) for p in range(n, 4 * n + 1) if p <= most]
    return (np.array(x, float) for x in zip(*((p, n, b) for p, n in sizes for b in batches), strict=True))


def fitted(noise=0.03, most=16, seed=0):
    workers, nodes, batch = grid(most)
    step = TRUTH.predict(workers, nodes, batch).step_time_s
    step = step * np.exp(noise * np.random.default_rng(seed).standard_normal(step.shape))
    return StepTimeModel(groups=fit_groups({"": measurements(workers, nodes, batch, step)}))


@pytest.fixture(scope="module")
def model():
    return fitted()


def test_a_ring_measured_on_four_nodes_is_predicted_on_sixteen_within_its_interval(model):
    workers, nodes = np.array([24.0, 32, 64]), np.array([6.0, 8, 16])
    truth = TRUTH.predict(workers, nodes, 16).step_time_s
    found = model.predict(workers, nodes, 16)
    assert (found.status == "extrapolated").all()
    assert ((found.interval[0] < truth) & (truth < found.interval[1])).all()
    np.testing.assert_allclose(found.step_time_s, truth, rtol=0.2)  # forms that grow more slowly keep a share


def test_what_was_measured_is_predicted_within_the_noise(model):
    workers, nodes, batch = grid()
    found = model.predict(workers, nodes, batch)
    assert (found.status == "interpolated").all()
    assert (found.reason == "").all()
    np.testing.assert_allclose(found.step_time_s, TRUTH.predict(workers, nodes, batch).step_time_s, rtol=0.06)


def test_parts_add_up_to_the_step(model):
    found = model.predict([1, 4, 64], [1, 2, 16], [8, 8, 32])
    np.testing.assert_allclose(sum(found.parts.values()), found.step_time_s)
    assert found.parts["communication"][0] == pytest.approx(0, abs=1e-9)
    assert all((seconds >= -1e-12).all() for seconds in found.parts.values())


def test_intervals_widen_with_distance_from_what_was_measured(model):
    found = model.predict([16, 32, 64, 128], [4, 8, 16, 32], 16)
    width = np.log(found.interval[1] / found.interval[0])
    assert (np.diff(width) > 0).all()


def test_intervals_cover_new_measurements_as_often_as_they_claim_or_more():
    rng = np.random.default_rng(5)
    inside = []
    for seed in range(3):
        workers, nodes, batch = grid()
        found = fitted(seed=seed).predict(workers, nodes, batch)
        again = TRUTH.predict(workers, nodes, batch).step_time_s * np.exp(0.03 * rng.standard_normal(workers.shape))
        inside.append(((found.interval[0] <= again) & (again <= found.interval[1])).mean())
    assert 0.87 <= np.mean(inside) <= 0.99


def test_draws_lie_about_the_prediction_and_are_the_same_models_everywhere(model):
    drawn = model.draws(300, seed=1)
    steps = drawn.step_time_s([8, 32], [2, 8], 16)
    assert steps.shape == (300, 2)
    found = model.predict([8, 32], [2, 8], 16).step_time_s
    np.testing.assert_allclose(np.median(steps, axis=0), found, rtol=0.05)
    np.testing.assert_allclose(drawn.step_time_s(32, 8, 16), steps[:, 1])
    np.testing.assert_allclose(model.draws(300, seed=1).step_time_s(8, 2, 16), steps[:, 0])


def test_a_model_comes_back_from_its_file_as_it_was(model, tmp_path):
    model.save(tmp_path / "model.json")
    again = StepTimeModel.load(tmp_path / "model.json")
    for asked in ((3, 2, 8), (64, 16, 32)):
        first, second = model.predict(*asked), again.predict(*asked)
        assert first.step_time_s == second.step_time_s
        assert first.interval == second.interval
    hand = tmp_path / "hand.json"
    TRUTH.save(hand)
    assert StepTimeModel.load(hand).predict(4, 2, 8).step_time_s == TRUTH.predict(4, 2, 8).step_time_s


def test_accumulation_pays_the_fixed_cost_again_and_communicates_once():
    plain = StepTimeModel.by_hand(compute_fixed_s=0.1, compute_per_sample_s=0.01, transfer_s=0.2)
    once, four = plain.predict(4, 1, 16), plain.predict(4, 1, 16, 4)
    assert four.step_time_s - once.step_time_s == pytest.approx(0.3)
    assert four.parts["communication"] == pytest.approx(once.parts["communication"].item())


def test_sharded_parameters_communicate_more_and_larger_gradients_too():
    plain = StepTimeModel.by_hand(compute_fixed_s=0.1, compute_per_sample_s=0.01, transfer_s=0.2)
    assert plain.predict(4, 1, 16, parallelism="fsdp").parts["communication"] == pytest.approx(0.45)


def test_nothing_is_said_of_nodes_where_one_was_measured():
    step = TRUTH.predict(np.arange(1, 5), 1, 8).step_time_s
    model = StepTimeModel(groups=fit_groups({"": measurements(np.arange(1, 5), 1, 8, step)}))
    found = model.predict(8, 2, 8)
    assert found.status == "refused"
    assert np.isnan(found.step_time_s)
    assert "between nodes" in found.reason.item()
    assert model.predict(4 * 17, 1, 8).status == "refused"
    assert model.predict(8, 1, 8).status == "extrapolated"


def test_two_nodes_alone_do_not_tell_of_many_and_the_interval_says_so():
    workers, nodes, batch = (x[:] for x in grid())
    kept = nodes <= 2
    step = TRUTH.predict(workers, nodes, batch).step_time_s
    two = StepTimeModel(groups=fit_groups({"": measurements(workers[kept], nodes[kept], batch[kept], step[kept])}))
    four = StepTimeModel(groups=fit_groups({"": measurements(workers, nodes, batch, step)}))
    width = [np.log(m.predict(32, 8, 16).interval[1] / m.predict(32, 8, 16).interval[0]) for m in (two, four)]
    assert width[0] > 2 * width[1]
    assert "one count of nodes" in two.predict(32, 8, 16).reason.item()


def test_two_nodes_that_are_slower_than_three_do_not_spoil_the_others():
    workers, nodes, batch = grid()
    slow = StepTimeModel.by_hand(
        compute_fixed_s=0.05, compute_per_sample_s=0.01, transfer_s=0.3, latency_s=0.006, overlap=0.6, sharpness=6.0
    )
    step = np.where(nodes == 2, slow.predict(workers, nodes, batch).step_time_s, 0.0)
    step = np.where(nodes == 2, step, TRUTH.predict(workers, nodes, batch).step_time_s)
    model = StepTimeModel(groups=fit_groups({"": measurements(workers, nodes, batch, step)}))
    assert model.groups[""].members[0].form.two_nodes
    np.testing.assert_allclose(model.predict(workers, nodes, batch).step_time_s, step, rtol=0.08)
    plain = fitted(noise=0.0)
    np.testing.assert_allclose(model.predict(32, 8, 16).step_time_s, plain.predict(32, 8, 16).step_time_s, rtol=0.15)


def test_two_measurements_are_fitted_and_one_is_not():
    two = StepTimeModel(groups=fit_groups({"": measurements([1, 4], 1, 8, [0.1, 0.11])}))
    found = two.predict([1, 4, 8], 1, 8)
    np.testing.assert_allclose(found.step_time_s[:2], [0.1, 0.11], rtol=0.03)
    assert 0.10 < found.step_time_s[2] < 0.13
    with pytest.raises(NotEnoughDataError, match="two configurations"):
        fit_groups({"": measurements([4, 4], 1, 8, [0.1, 0.11])})


def test_rows_held_out_are_never_fitted():
    workers, nodes, batch = grid()
    rows = measurements(workers, nodes, batch, np.ones_like(workers)).rows
    splits = folds(rows)
    assert set(splits) == {"nodes", "workers", "random"}
    assert all(not (train & test).any() for train, test in splits.values())
    assert rows[splits["workers"][0]].workers.max() < rows[splits["workers"][1]].workers.min()


def test_a_form_that_predicts_better_weighs_more_and_weights_add_up_to_one():
    weights = weighed({"ring": 0.02, "tree": 0.04, "torus": 0.0})
    assert weights["torus"] > weights["ring"] > weights["tree"]
    assert sum(weights.values()) == pytest.approx(1)
    assert weighed({}) == dict.fromkeys(FORMS, 1 / len(FORMS))


@pytest.mark.parametrize("name", FORMS)
def test_derivatives_are_those_of_the_step(name):
    form = Form(name=name, two_nodes=True)
    p, n = np.array([1, 2, 4, 8, 16.0]), np.array([1, 1, 2, 2, 4.0])
    k, ones = np.array([1, 2, 1, 4, 1.0]), np.ones(5)
    rows = Rows(workers=p, nodes=n, worker_batch=8 * k, accumulation_steps=k, volume=ones)
    theta = np.r_[0.1, 0.02, 0.05, 0.6, 2.5, np.random.default_rng(0).uniform(0.01, 0.2, len(form.terms))]
    design = form.design(rows)
    _, by = gradient(theta, rows, design, expected_maximum(p))
    step = 1e-6 * np.eye(len(theta))
    numeric = [(parts(theta + h, rows, design).total - parts(theta - h, rows, design).total) / 2e-6 for h in step]
    np.testing.assert_allclose(by, np.array(numeric).T, atol=1e-7)


@pytest.mark.parametrize(
    ("asked", "said"),
    [((0, 1, 8), "workers must be 1 or more"), ((2, 4, 8), "4 nodes cannot share 2 workers"), ((2, 1, -1), "positive")],
)
def test_configurations_that_cannot_be_are_refused(asked, said):
    with pytest.raises(ConfigError, match=said):
        TRUTH.predict(*asked)


def test_an_unknown_group_is_named():
    groups = dict.fromkeys(("bert", "resnet"), TRUTH.groups[""])
    model = StepTimeModel(groups=groups, group_by=("model",))
    with pytest.raises(ConfigError, match="bert, resnet"):
        model.predict(1, 1, 8)
    with pytest.raises(ConfigError, match="'vgg'"):
        model.predict(1, 1, 8, group="vgg")


def test_timed_communication_tells_it_from_computation_where_step_times_alone_cannot():
    """On two workers alone, 20 ms that every step takes could be either; that 20 ms were communication is measured."""
    batch = np.array([4.0, 8.0, 16.0, 32.0] * 3)
    step = 0.02 + 0.001 * batch
    rows = [
        {"workers": 2, "nodes": 1, "worker_batch": b, "step_time_s": t, "sync_time_s": 0.02}
        for b, t in zip(batch.tolist(), step.tolist(), strict=True)
    ]
    found = {}
    for told in (True, False):
        cells = [{k: repr(v) for k, v in row.items() if told or k != "sync_time_s"} for row in rows]
        held = grouped([checked_row(c, "a row") for c in cells], ())
        spent = StepTimeModel(groups=fit_groups(held)).predict(2, 1, 16).parts
        found[told] = float(spent["communication"] + spent["straggler"])
    assert found[True] == pytest.approx(0.02, rel=0.3)
    assert abs(found[False] - 0.02) > 2 * abs(found[True] - 0.02)


def test_more_communication_than_the_step_is_refused():
    cells = {"workers": "2", "nodes": "1", "worker_batch": "8", "step_time_s": "0.1", "sync_time_s": "0.2"}
    with pytest.raises(ConfigError, match="the part of the step in which nothing was"):
        checked_row(cells, "a row")
