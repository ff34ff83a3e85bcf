"""How long what is left of a script's study takes is told by the logs of its ended trials, or said to be unknown."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
from click.testing import CliRunner

import scaleexp.logged_times as logged_times
from scaleexp.cli import cli
from scaleexp.launch.opening import open_study, prepare
from scaleexp.plan_rows import NOT_SEEN, plan_document
from scaleexp.plan_table import render_plan
from scaleexp.resume import steps_left
from scaleexp.runlog import TrialLog
from scaleexp.scripted_trial import context_of
from scaleexp.storage import Store
from scaleexp.tracked_log import _facts
from tests.test_own_script import study
from tests.without_ray import assigned


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """12 trials: batch 8 on 1 worker and 16 on 2, 125 and 62 steps each, an evaluation every 100 samples."""
    (tmp_path / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logged_times, "_slots", lambda: (2, "CPU core"))
    return prepare(study())


def of_batch(prepared, batch_size):
    return [t for t in prepared.plan.trials if t.batch_size == batch_size]


def ended(prepared, root, trial, *, step_s, eval_s=0.0, steps=50, status="reached"):
    """A trial whose steps all took so long, with an evaluation of two metrics every 10 of them."""
    log = TrialLog(Store(root), _facts(context_of(assigned(prepared, root), trial), None), {"engine": "command"})
    for step in range(1, steps + 1):
        samples = step * trial.batch_size
        log.step(
            step=step,
            samples=samples,
            step_lr=trial.lr,
            loss=1.0,
            noise=None,
            row=0,
            step_s=step_s,
            compute_s=None,
            sync_s=None,
            data_s=None,
        )
        if step % 10 == 0:
            log.evaluation(step=step, samples=samples, values={"accuracy": 0.1, "loss": 1.0}, eval_s=eval_s)
    log.commit(step=steps, samples=steps * trial.batch_size, status=status)


def planned(prepared, root):
    store, trials = Store(root), prepared.plan.trials
    left = steps_left(store, trials, ())
    found = logged_times.calibrated(prepared.study, store, trials, left)
    return plan_document(prepared.plan, prepared.study, found, left)


def test_before_a_trial_has_ended_nothing_is_known_and_that_is_said(prepared, tmp_path):
    root = tmp_path / "study"
    open_study(prepared, root)
    document = planned(prepared, root)
    assert document["seconds_at_most"] is None
    assert document["machine"] is None
    assert "time: unknown until the first trial has ended" in render_plan(document, width=200)


def test_the_time_left_is_that_of_the_steps_and_evaluations_of_ended_trials_from_the_fastest_to_the_slowest(
    prepared, tmp_path
):
    root = tmp_path / "study"
    open_study(prepared, root)
    for trial, step_s in zip(of_batch(prepared, 8), (0.10, 0.12, 0.20), strict=False):
        ended(prepared, root, trial, step_s=step_s, eval_s=0.5)  # 5 evaluations in 50 steps: 0.05 s a step
    ended(prepared, root, of_batch(prepared, 16)[0], step_s=0.3)
    document = planned(prepared, root)
    small, large = document["batches"]
    assert small["seconds_at_most"] == pytest.approx(2 * 125 * 0.17)  # 3 trials of 1 worker are left, 2 at a time
    assert small["seconds_interval"] == pytest.approx(
        [2 * 125 * 0.15 * (1 - NOT_SEEN), 2 * 125 * 0.25 * (1 + NOT_SEEN)]
    )
    assert large["seconds_at_most"] == pytest.approx(5 * 62 * 0.3)  # 5 of 2 workers, one at a time
    assert document["seconds_at_most"] == pytest.approx(2 * 125 * 0.17 + 5 * 62 * 0.3)
    assert document["machine"] == {"workers": 2, "kind": "CPU core"}
    assert document["timings"] == 4
    assert document["disk_bytes_at_most"] is None
    text = " ".join(render_plan(document, width=200).split())
    assert "time: at most 2m16s (1m51s to 2m59s) on 2 CPU cores of this machine" in text
    assert "the logs of 4 trials of this study that have ended" in text
    assert "The start of a script's processes" in text
    jsonschema.validate(document, json.loads((resources.files("scaleexp") / "schemas" / "plan.json").read_text()))


def test_a_batch_of_which_no_trial_has_ended_leaves_the_whole_unknown_and_is_named(prepared, tmp_path):
    root = tmp_path / "study"
    open_study(prepared, root)
    ended(prepared, root, of_batch(prepared, 8)[0], step_s=0.1)
    ended(prepared, root, of_batch(prepared, 16)[0], step_s=0.1, status="failed")  # not to be relied on
    document = planned(prepared, root)
    assert document["seconds_at_most"] is None
    assert document["batches"][0]["seconds_at_most"] == pytest.approx(3 * 125 * 0.1)
    assert document["batches"][1]["seconds_at_most"] is None
    text = " ".join(render_plan(document, width=200).split())
    assert "No trial of batch 16 has ended, so that its time, and that of the whole, is not known." in text


def test_a_trial_under_way_has_less_before_it_and_what_has_a_price_costs(prepared, tmp_path):
    root = tmp_path / "study"
    with_price = prepare(
        study({"price_usd_per_worker_hour": 3600.0, "workers": [1], "seeds": [0], "limits": {"samples": 1000}})
    )
    open_study(with_price, root)
    first, second, third = with_price.plan.trials
    ended(with_price, root, first, step_s=0.1, steps=125, status="limit")
    ended(with_price, root, second, step_s=0.1, steps=100, status="stopped")
    ended(with_price, root, third, step_s=0.1, steps=125, status="limit")
    document = planned(with_price, root)
    assert document["seconds_at_most"] == pytest.approx(25 * 0.1)
    assert document["usd_at_most"] == pytest.approx(2 * 25 * 0.1)


def test_when_all_has_ended_nothing_is_left(prepared, tmp_path):
    root = tmp_path / "study"
    open_study(prepared, root)
    for trial in prepared.plan.trials:
        ended(prepared, root, trial, step_s=0.1, steps=trial.limit_steps, status="limit")
    document = planned(prepared, root)
    assert (document["seconds_at_most"], document["trials"]) == (0.0, 0)
    assert "time: nothing is left to run." in render_plan(document, width=200)


def test_the_command_plan_reads_them(prepared, tmp_path):
    import yaml

    (tmp_path / "own.yaml").write_text(yaml.safe_dump(json.loads(prepared.study.model_dump_json(exclude={"workload"}))))
    open_study(prepared, tmp_path / "study")
    for trial in (of_batch(prepared, 8)[0], of_batch(prepared, 16)[0]):
        ended(prepared, tmp_path / "study", trial, step_s=0.1)
    done = CliRunner().invoke(cli, ["plan", "own.yaml", "--storage", str(tmp_path / "study")], catch_exceptions=False)
    assert "the logs of 2 trials of this study that have ended" in done.output
