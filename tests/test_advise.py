"""Advice: one card from a study or a fit, true to its inputs, and silent about what they do not say."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from analysis.cli import main as analysis_main
from analysis.read import load
from analysis.step_rows import step_rows
from scaleexp.simulate.deciding_run import deciding_run
from scaleexp.simulate.fits_file import of_document
from scaleexp.simulate.learning_rate import learning_rate
from scaleexp.simulate.measured_steps import own_times
from scaleexp.simulate.step_time import StepTimeModel
from tests.study_factory import write_study
from tests.test_frontier import typed

SCHEMA = json.loads((files("scaleexp") / "schemas" / "advise.json").read_text())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """S = 50 (1 + 256 / B), LR optimum 0.1 sqrt(B / 256)."""
    return write_study(tmp_path_factory.mktemp("advise") / "study", lrs_per_batch=5, noise=0.02)


@pytest.fixture(scope="module")
def document(study):
    from analysis.output import fit_document
    from analysis.study import analyse

    return json.loads(json.dumps(fit_document([analyse(study)])))


@pytest.fixture(scope="module")
def fits(document, tmp_path_factory):
    path = tmp_path_factory.mktemp("fits") / "fits.json"
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.json"
    StepTimeModel.by_hand(compute_fixed_s=0.1, compute_per_sample_s=0.01, transfer_s=0.05, latency_s=1e-3).save(path)
    return str(path)


def advise(*words):
    return typed(*words, command=("advise",))


def changed(document, **fields):
    """The same document with other values in its only fit."""
    return {**document, "fits": [{**document["fits"][0], **fields}]}


def opened(document):
    return changed(
        document,
        status="not_identified",
        reason="The interval is unbounded above.",
        b_crit=None,
        s_min=None,
        b_crit_interval=[300.0, None],
        s_min_interval=[None, 45.0],
    )


def test_one_card_says_what_to_run_how_long_and_for_how_much(fits, model):
    words = (fits, "--model", model, "--gpus", "8,16,32,64", "--usd-per-gpu-hour", "2.4", "--deadline", "24h")
    code, out, _ = advise(*words)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 12
    names = [line.split("  ")[0] for line in lines]
    assert names[:6] == ["take", "batch", "learning rate", "time", "cost", "trade-off"]
    assert "weakest input" in names
    assert "8 GPUs, the cheapest that is done within 24 h: it is in 100 % of the draws" in lines[0]
    assert "16 GPUs buy " in out
    assert "more money" in out


def test_its_numbers_are_those_of_the_curve_the_model_and_the_price(fits, model):
    code, out, _ = advise(fits, "--model", model, "--gpus", "8,16", "--usd-per-gpu-hour", "2.4", "--json")
    assert code == 0
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    at, curve = found["decision"]["recommended"], found["curve"]
    steps = curve["s_min"] * (1 + curve["b_crit"] / at["batch_size"])
    p = at["workers"]
    step = 0.1 + 0.01 * at["worker_batch"] + 0.05 * 2 * (p - 1) / p + 1e-3 * 2 * (p - 1)
    assert at["hours"] == pytest.approx(steps * step / 3600)
    assert at["usd"] == pytest.approx(2.4 * p * at["hours"])
    assert at["hours_interval"][0] < at["hours"] < at["hours_interval"][1]
    assert found["weakest"]["input"] == "curve"
    assert curve["b_crit"] == pytest.approx(256, rel=0.15)


def test_the_rate_is_that_of_the_rule_that_held(fits, model):
    found = json.loads(advise(fits, "--model", model, "--gpus", "16", "--json")[1])
    batch, lr = found["decision"]["recommended"]["batch_size"], found["lr"]
    assert lr["rule"] == "sqrt"
    assert lr["lr"] == pytest.approx(0.1 * np.sqrt(batch / 256), rel=1e-3)
    assert lr["low"] <= lr["lr"] <= lr["high"]


@pytest.mark.parametrize(
    ("batch", "status"), [(64, "rule"), (1024, "rule"), (4096, "extrapolated"), (2, "extrapolated")]
)
def test_no_rule_reaches_beyond_where_it_held(document, batch, status):
    assert learning_rate(of_document(document, "fit"), batch).status == status


def test_without_a_rule_the_rate_is_as_measured_around_the_batch(document):
    curve = of_document({**document, "rules": []}, "fit")
    found = learning_rate(curve, 128)
    assert (found.status, found.rule) == ("measured", None)
    assert found.lr == pytest.approx(0.1 * np.sqrt(0.5), rel=0.15)


def test_a_table_of_points_knows_no_rate(tmp_path, capsys):
    (tmp_path / "points.csv").write_text(
        "batch_size,steps\n" + "".join(f"{b},{50 + 12800 / b}\n" for b in (16, 64, 256, 1024))
    )
    assert analysis_main(["fit", str(tmp_path / "points.csv"), "--json"]) == 0
    fit = capsys.readouterr().out
    (tmp_path / "fits.json").write_text(fit)
    code, out, said = advise(str(tmp_path / "fits.json"), "--step-time", "1", "--worker-batch", "16")
    assert code == 0, said
    assert "not known: the fit knows no learning rates" in out


# ---- a study


def test_a_study_brings_its_own_step_times_and_says_that_they_are_the_weakest_input(study):
    code, out, said = advise(str(study), "--gpus", "1:32")
    assert code == 0, said
    assert "weakest input  the step time: " in out
    assert "no price is known" in out
    found = json.loads(advise(str(study), "--json")[1])
    jsonschema.validate(found, SCHEMA)
    assert found["decision"]["step_time"]["unmeasured"]


def test_the_steps_of_a_study_are_read_by_engine_and_split(study):
    rows = step_rows(load(study))
    assert {row.engine for row in rows} == {"packed", "ddp"}
    assert sum(row.steps for row in rows) > 1000
    assert all(row.step_s > 0 for row in rows)


class Steps:
    def __init__(self, engine, workers, micro_batch, step_s, sync_s=0.0):
        self.engine, self.workers, self.micro_batch = engine, workers, micro_batch
        self.step_s, self.sync_s, self.accumulation_steps = step_s, sync_s, 1


def test_own_steps_become_a_line_and_a_ring():
    virtual = [Steps("packed", w, 4, 0.01 + 0.001 * 4 * w) for w in (1, 2, 8, 64)]
    found = own_times([*virtual, Steps("ddp", 2, 16, 0.1 + 0.016 + 0.05, 0.05)])
    assert found is not None
    at = found.times.predict(4, 1, 32)
    assert float(at.parts["compute"]) == pytest.approx(0.1 + 0.032)
    assert float(at.parts["communication"]) == pytest.approx(0.05 * 2 * 3 / 4)
    alone = own_times(virtual)
    assert alone is not None
    assert float(alone.times.predict(4, 1, 32).step_time_s) == pytest.approx(0.042)
    assert "no communication is counted" in alone.unmeasured
    assert own_times(virtual[:1]) is None


# ---- what is not known


def test_without_a_step_time_the_answer_is_in_steps_and_samples(fits):
    code, out, _ = advise(fits, "--gpus", "8,16,32,64,1024")
    assert code == 0
    assert len(out.splitlines()) <= 12
    assert "no step time" in out
    assert "$" not in out
    found = json.loads(advise(fits, "--gpus", "8,16,32,64,1024", "--json")[1])
    jsonschema.validate(found, SCHEMA)
    assert found["decision"] is None
    curve = found["curve"]
    for row in found["in_steps"]:
        assert row["steps"] == pytest.approx(curve["s_min"] * (1 + curve["b_crit"] / row["batch_size"]))
        assert row["times_fewest"] == pytest.approx(1 + row["batch_size"] / curve["b_crit"])
    assert advise(fits, "--deadline", "3h")[0] == 2


def test_bounds_alone_come_with_the_cheapest_run_that_would_decide(document, tmp_path, model):
    path = tmp_path / "open.json"
    path.write_text(json.dumps(opened(document)))
    code, out, _ = advise(str(path), "--model", model, "--gpus", "8,16,32", "--usd-per-gpu-hour", "2.4")
    assert code == 0
    assert len(out.splitlines()) <= 12
    assert "B_crit is not identified, 300 or more examples" in out
    assert "to decide      run batch 4,096 at learning rates 0." in out
    assert "at most, by the bounds alone" in out
    found = json.loads(advise(str(path), "--json")[1])
    jsonschema.validate(found, SCHEMA)
    assert found["curve"]["b_crit"] is None
    assert found["curve"]["bounds_only"]
    assert found["deciding_run"]["batch_size"] == 4096


@pytest.mark.parametrize(
    ("interval", "batch"), [([300.0, None], 4096), ([None, 8.0], 2), ([20.0, 320.0], 64), ([1e5, None], 2**19)]
)
def test_the_deciding_run_lies_on_the_side_that_is_open(document, interval, batch):
    known = {"status": "not_identified", "s_min_interval": [40.0, 60.0], "e_min_interval": [10_000.0, 16_000.0]}
    found = deciding_run(of_document(changed(document, b_crit_interval=interval, **known), "fit"))
    assert found is not None
    assert found.batch_size == batch


def test_an_identified_curve_needs_no_further_run(document):
    assert deciding_run(of_document(document, "fit")) is None


@pytest.mark.parametrize(
    ("fields", "words", "code", "said"),
    [
        ({"b_crit": None, "rms_log_residual": None, "reason": "2 of 9 runs reached."}, [], 6, "has no curve: 2 of 9"),
        ({"status": "not_identified", "b_crit_interval": [None, None]}, [], 6, "on any side"),
        ({"cost_unit": "epochs"}, [], 2, "counts cost in epochs"),
        ({"definition": "equal-samples"}, [], 2, "fit it without"),
        ({}, ["--target", "3"], 2, "none of the fits"),
        ({}, ["--group", "model=big"], 2, "none of the fits"),
        ({}, ["--gpus", "0"], 2, "--gpus is a list"),
        ({}, ["--usd-per-gpu-hour", "-1"], 2, "must be a number above 0"),
    ],
)
def test_a_fit_that_does_not_carry_it_is_refused_with_its_code(document, tmp_path, fields, words, code, said):
    path = tmp_path / "fits.json"
    path.write_text(json.dumps(changed(document, **fields)))
    got, out, sentence = advise(str(path), *words)
    assert (got, out) == (code, "")
    assert said in sentence


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"fits": []}', '{"fits": [{}]}', '{"fits": [{"definition": "curve"}]}']
)
def test_a_file_that_is_no_fit_is_refused(tmp_path, content):
    path = tmp_path / "fits.json"
    path.write_text(content)
    code, out, sentence = advise(str(path))
    assert (code, out) == (2, "")
    assert "scaleexp-analysis fit --json" in sentence or "for want of" in sentence


def test_several_fits_are_told_apart_by_their_target(document, tmp_path, model):
    easier = {**document["fits"][0], "target": 1.5, "s_min": 20.0}
    path = tmp_path / "two.json"
    path.write_text(json.dumps({**document, "fits": [easier, document["fits"][0]]}))
    assert "target 1.5; target 1" in advise(str(path))[2]
    assert advise(str(path), "--target", "1.5", "--model", model)[0] == 0
