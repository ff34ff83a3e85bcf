"""A finished study of a user's own script: what the report and the advice say of it is true of what was run.

The script is a stand-in that tells the recorder what one would that reaches its target after S = S_min (1 + B_crit / B)
steps, on a clock of its own; everything between it and the card is what runs in a real study.
"""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import pytest

import scaleexp
from analysis.cli import main as analysis_main
from analysis.output import fit_document
from analysis.provenance import measured_rows
from analysis.study import analyse
from scaleexp import lease
from scaleexp.launch.opening import open_study, prepare
from scaleexp.scripted_trial import came_to, context_of
from scaleexp.storage import Store
from tests.test_frontier import typed
from tests.test_own_script import COMMAND, ENTRYPOINT, study
from tests.without_ray import assigned

S_MIN, B_CRIT, LR_AT_16 = 40.0, 64.0, 0.01
SWEPT = {
    "workers": [1, 2, 4, 8, 16, 32],
    "targets": [{"metric": "accuracy", "values": [0.9], "direction": "max"}],
    "limits": {"samples": 40_000},
    "evaluation": {"every_samples": 32},
}


def step_s(workers):
    """Of micro-batches of 4, two of them in a step [seconds]."""
    return 0.1 + 0.02 * 2 * (workers - 1) / workers


def steps_of(trial):
    off = math.log(trial.lr / (LR_AT_16 * math.sqrt(trial.batch_size / 16)))
    noise = 1.0 + 0.02 * (trial.seed - 0.5)
    return S_MIN * (1 + B_CRIT / trial.batch_size) * math.exp(0.5 * off**2) * noise


def script(clock, trial):
    needed = steps_of(trial)
    with scaleexp.track(batch_size=trial.batch_size, unit="token") as run:
        while not run.should_stop:
            clock.now += step_s(trial.workers)
            run.step(loss=3.0 - 2.0 * run.steps / needed, batch_size=trial.batch_size)
            if run.should_evaluate:
                clock.now += 0.01
                run.evaluate(accuracy=0.9 * run.steps / needed)


def finished(root, monkeypatch, of):
    """Every trial of the study, trained here as its launcher would have it trained."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("scaleexp.run.time", SimpleNamespace(perf_counter=lambda: clock.now))
    prepared = prepare(study(SWEPT, of=of))
    with lease.held(Store(root)) as fence:
        open_study(prepared, root)
        assignment = assigned(prepared, root, fence=fence)
        for trial in prepared.plan.trials:
            context = context_of(assignment, trial)
            for name, value in {**context.to_env(), "RANK": "0", "WORLD_SIZE": str(trial.workers)}.items():
                monkeypatch.setenv(name, value)
            script(clock, context)
            assert came_to(assignment, trial, "") == ""
    return root


@pytest.fixture(scope="module", params=["command", "entrypoint"])
def root(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "train.py").write_text("print(1)\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(directory)
        return finished(directory / "study", patched, {"command": COMMAND, "entrypoint": ENTRYPOINT}[request.param])


def card(root, *words):
    code, out, error = typed(str(root), *words, command=("advise",))
    assert code == 0, error
    return out


def test_the_report_has_the_curve_of_the_script_and_the_rule_that_held(root):
    found = analyse(root)
    (fit,) = fit_document([found])["fits"]
    assert fit["b_crit"] == pytest.approx(B_CRIT, rel=0.05)
    assert fit["s_min"] == pytest.approx(S_MIN, rel=0.05)
    assert {(t.facts["micro_batch"], t.facts["accumulation_steps"]) for t in found.log.trials} == {(4, 2)}


def test_advice_takes_the_step_times_and_the_split_of_the_trials_and_no_others(root):
    found = json.loads(card(root, "--json", "--gpus", "1:32"))
    rows = [found["decision"]["recommended"], *found["decision"]["rows"]]
    assert {(row["micro_batch"], row["accumulation_steps"], row["worker_batch"]) for row in rows} == {(4, 2, 8)}
    assert {row["batch_size"] == 8 * row["workers"] for row in rows} == {True}
    assert {row["nodes"] for row in rows} == {1}
    for row in rows:
        assert row["step_time_s"] == pytest.approx(step_s(row["workers"]), rel=0.05)
        steps = S_MIN * (1 + B_CRIT / row["batch_size"])
        assert row["hours"] == pytest.approx(steps * step_s(row["workers"]) / 3600, rel=0.1)
    assert found["curve"]["unit"] == "token"
    text = card(root, "--gpus", "8")
    assert "64 tokens = micro-batch 4 x 2 accumulation steps x 8 workers" in text
    assert "no step time" not in text


def test_what_was_never_measured_is_left_out_with_that_reason(root):
    text = " ".join(card(root, "--gpus", "32,64").split())
    assert "64 workers are left out: 2 nodes, and nothing was measured between nodes" in text


def test_the_report_says_what_was_told_and_that_the_rest_was_not(root):
    rows = dict(measured_rows(analyse(root)))
    assert rows["Data"] == "tokens of a stream, or of a training set whose size was not said; sha256 not said"
    assert rows["Parameters"] == "not said"
    assert rows["Optimizer"] == "adamw, beta1 0.9, beta2 0.999, eps 1e-8, weight_decay 0"
    assert "hyperparameters.width 32" in rows["Workload"]
    assert "sample_order uncontrolled" in rows["Realisation"]
    assert "processes 1 | 2 | 4 | 8 | 16 | 32" in rows["Realisation"]


def test_the_report_names_how_every_trial_was_started(root, tmp_path):
    assert analysis_main(["report", str(root), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    started = root.parent.name.rstrip("0")
    assert len(re.findall(rf">\s*{started}\s*<", page)) == 36
