"""What a hardware profile and gradient bytes say of communication that was not measured, or hardly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import read_hardware
from scaleexp.simulate.fitting import fit_groups
from scaleexp.simulate.forms import FORMS, Form
from scaleexp.simulate.link_priors import LINK_EFFICIENCY, expected_terms, informed
from scaleexp.simulate.measurements import measurements
from scaleexp.simulate.step_time import StepTimeModel

A100 = read_hardware("a100-40gb")
MIDDLE = np.sqrt(LINK_EFFICIENCY[0] * LINK_EFFICIENCY[1])
BYTES = 0.04 * A100.intra_node_bytes_per_s * MIDDLE
"""Of gradients that a ring inside a node sends in 2 (p - 1) / p x 40 ms."""


def one_worker(batches=(8, 16, 32)):
    """A step of 10 ms and 1 ms a sample on one worker: nothing of it tells of communication."""
    batch = np.array(batches, float)
    return replace(measurements(1, 1, batch, 0.01 + 0.001 * batch), grad_bytes=BYTES)


def test_from_one_worker_the_links_say_what_more_of_them_cost():
    asked = ([4, 8], 1, [16, 16])
    told = StepTimeModel(groups=fit_groups(informed({"": one_worker()}, A100))).predict(*asked)
    untold = StepTimeModel(groups=fit_groups({"": one_worker()})).predict(*asked)
    ring = 0.04 * 2 * (np.array([4, 8]) - 1) / np.array([4, 8])
    spent = told.parts["communication"]
    assert ((0.5 * ring < spent) & (spent < 1.3 * ring)).all()
    assert (untold.parts["communication"] < 0.2 * ring).all()


def test_measured_communication_overrules_the_links():
    """Five times slower than the profile says, in forty rows."""
    p, batch = (x.ravel() for x in np.meshgrid(np.arange(1.0, 9.0), [8.0, 16, 32, 64, 128]))
    truth = StepTimeModel.by_hand(compute_fixed_s=0.01, compute_per_sample_s=0.001, transfer_s=0.2)
    step = truth.predict(p, 1, batch).step_time_s
    held = replace(measurements(p, 1, batch, step), grad_bytes=BYTES)
    model = StepTimeModel(groups=fit_groups(informed({"": held}, A100)))
    np.testing.assert_allclose(model.predict(p, 1, batch).step_time_s, step, rtol=0.08)


def test_the_same_bytes_count_once_and_a_figure_that_is_missing_says_nothing():
    rows = measurements([1, 4, 8, 16], [1, 1, 2, 4], 8, 0.1).rows
    found = expected_terms(A100, BYTES, rows)
    assert found.keys() == {(name, two) for name in FORMS for two in (False, True)}
    ring = dict(zip(Form(name="ring", two_nodes=True).terms, found["ring", True].tolist(), strict=True))
    assert ring["inside.ring"] == pytest.approx(0.04)
    assert ring["inside.hops"] == A100.intra_node_latency_s
    # four workers on a node share four network cards
    between = BYTES / (4 * A100.inter_node_bytes_per_s * MIDDLE)
    assert ring["between.ring"] == ring["two_nodes.ring"] == pytest.approx(between)
    assert ring["between.pipelined"] == ring["two_nodes.pipelined"] == 0
    local = dict(
        zip(Form(name="hierarchical", two_nodes=False).terms, found["hierarchical", False].tolist(), strict=True)
    )
    assert local["between.local_ring"] == pytest.approx(0.04)
    assert local["between.node_ring"] == pytest.approx(between)
    t4 = expected_terms(read_hardware("t4"), BYTES, rows)["ring", False]
    assert t4[0] > 0
    assert t4[Form(name="ring", two_nodes=False).terms.index("between.ring")] == 0


def test_without_bytes_or_links_the_profile_is_refused_in_a_sentence():
    with pytest.raises(ConfigError, match="column grad_bytes"):
        informed({"bert": measurements([1, 2], 1, 8, 0.1)}, A100)
    blind = A100.model_copy(update={"intra_node_bytes_per_s": None, "inter_node_bytes_per_s": None})
    with pytest.raises(ConfigError, match="neither intra_node_bytes_per_s nor"):
        informed({"": one_worker()}, blind)
