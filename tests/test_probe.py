"""A probe from the study to its files, against steps and bytes that are known."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from scaleexp.cli import cli
from scaleexp.config import load_study
from scaleexp.errors import ConfigError, InfeasibleError
from scaleexp.launch.opening import prepare
from scaleexp.probe.findings import PARTS, document, measurements, memory_of
from scaleexp.probe.largest_batch import growth
from scaleexp.probe.measure import Measured, measure, time_workers
from scaleexp.probe.memory_held import Check, Memory, measure_memory
from scaleexp.probe.repeats import repeated
from scaleexp.probe.saying import text
from scaleexp.probe.sizes import powers
from scaleexp.simulate.sources import read_source
from tests.probe_workloads import nothing_fits

SCHEMA = json.loads((files("scaleexp") / "schemas" / "probe.json").read_text())
SHORT = ("--rounds", "5", "--up-to", "16", "--memory", "1")
STUDIES = {
    "quadratic": ("quadratic",),
    "mlp": ("quickstart", "--set", "workload.hidden=[16]"),
    "cnn": ("quickstart", "--set", "workload={name: classifier, data: mnist5k, model: cnn, hidden: [4]}"),
}


def run(*words):
    done = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def sleeping(options):
    """A study of `tests.probe_workloads:Known`, prepared."""
    workload = f"workload={{name: 'tests.probe_workloads:Known', {options}}}"
    return prepare(load_study("quadratic", [workload, "targets=[]", "workers=[1]", "worker_batch=4", "dtype=float32"]))


def no_memory(*_):
    """In the place of its measurement."""
    rows = [{"worker_batch": b, "peak_bytes": 5e8 + 1e5 * b, "step_time_s": 0.1} for b in (1, 8, 64)]
    check = Check(worker_batch=64, peak_bytes=5e8)
    line = growth([1, 8, 64], [row["peak_bytes"] for row in rows])
    return Memory(rows=rows, limit_bytes=1e9, free_bytes=10**10, on_gpu=False, growth=line, at_most=64, checks=(check,))


def timed(options, monkeypatch, **asked):
    """The document of its steps."""
    monkeypatch.setattr("scaleexp.probe.measure.measure_memory", no_memory)
    prepared = sleeping(options)
    found = measure(prepared.study, prepared.workload.n_train, **{"rounds": 5, **asked})
    made = document(prepared.study, prepared.unit, found, 0.05)
    jsonschema.validate(json.loads(json.dumps(made, allow_nan=False)), SCHEMA)
    return made


def held(options, limit_bytes=1e9):
    """What is found of its memory."""
    prepared = sleeping(options)
    n_train = prepared.workload.n_train
    return memory_of(measure_memory(prepared.study, powers(n_train), n_train, limit_bytes, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDIES)
def test_a_probe_prints_what_it_writes_by_its_schema_and_the_fit_reads_it(kind, tmp_path):
    made = json.loads(run("probe", *STUDIES[kind], *SHORT, "--out", tmp_path / "probe", "--json"))
    jsonschema.validate(made, SCHEMA)
    assert made == json.loads((tmp_path / "probe" / "probe.json").read_text())
    rows = pq.read_table(tmp_path / "probe" / "measurements.parquet").to_pylist()
    assert rows == made["measurements"]
    assert len(read_source(str(tmp_path / "probe"))) == len(rows) == 5 * len(made["steps"])
    assert {step["worker_batch"] for step in made["steps"]} >= {1, 2, 4, 7, 8, 9}  # as far as its time went
    for row in rows:
        parts = sum(row[part if part != "sync_s" else "sync_time_s"] for part in PARTS)
        assert 0.5 * row["step_time_s"] < parts <= 1.001 * row["step_time_s"]
    model = tmp_path / "model.json"
    run("simulate", "fit", "--measurements", tmp_path / "probe", "--out", model)
    assert "worker_batch" in run("simulate", "predict", "--model", model, "--at", "workers=1,nodes=1,worker_batch=12")


def test_steps_of_known_length_are_measured_and_judged_as_they_are(monkeypatch):
    """0.02 s + 1 ms a sample, and 4 ms a sample more where they are no power of two."""
    made = timed("fixed_s: 0.02, each_s: 0.001, unaligned_s: 0.004", monkeypatch, largest=16)
    of = {step["worker_batch"]: step for step in made["steps"]}
    for size in (1, 4, 16):
        assert of[size]["parts_s"]["forward"]["interval"][0] >= 0.02 + 0.001 * size
        assert of[size]["samples_per_s"]["median"] == pytest.approx(size / of[size]["step_time_s"]["median"], rel=1e-6)
    assert made["alignment"]["ratio"]["interval"][1] < 1
    best = made["throughput"][0]
    assert best["best_worker_batch"] == 16
    assert best["smallest_worker_batch"] == 16
    assert best["still_rising"] is False  # 17 was tried


def test_memory_of_known_growth_is_extrapolated_and_the_largest_batch_is_tried():
    made = held("each_mb: 2, n_train: 100000")
    largest = made["largest_worker_batch"]
    # Held: the megabytes and their gradient, or not, but nothing smaller.
    assert 2e6 * 0.9 < made["bytes_per_sample"] < 3 * 2e6
    assert largest["status"] == "checked"
    assert largest["limited_by"] == "memory"
    assert largest["checked_bytes"] <= 1e9
    low, high = largest["predicted_interval"]
    assert low <= largest["checked_bytes"] <= high
    assert largest["worker_batch"] * made["bytes_per_sample"] == pytest.approx(1e9 - made["fixed_bytes"], rel=0.1)


def test_where_the_data_end_before_the_memory_all_of_them_fit():
    largest = held("each_mb: 0.5")["largest_worker_batch"]
    assert (largest["limited_by"], largest["worker_batch"], largest["status"]) == ("data", 64, "checked")


def test_what_runs_out_of_memory_is_left_out_and_said_and_the_rest_is_measured(monkeypatch):
    made = timed("most: 9", monkeypatch, largest=16)
    assert max(step["worker_batch"] for step in made["steps"]) == 9
    (note,) = made["notes"]
    assert "15 samples ran out of memory" in note


def test_the_batch_at_which_memory_ran_out_bounds_the_largest_one():
    largest = held("most: 9")["largest_worker_batch"]
    assert largest["limited_by"] == "memory"
    assert 8 <= largest["checked_worker_batch"] <= 9
    assert 8 <= largest["worker_batch"] <= 15


def test_memory_for_not_one_step_is_refused(monkeypatch):
    monkeypatch.setattr("scaleexp.probe.worker.time_steps", nothing_fits)
    with pytest.raises(InfeasibleError, match="not one step of 1 worker"):
        timed("fixed_s: 0", monkeypatch, largest=4)


def test_two_real_workers_are_timed_beside_one_with_their_communication(monkeypatch):
    made = timed("fixed_s: 0.01, each_s: 0.001", monkeypatch, largest=8, workers=2)
    assert {step["workers"] for step in made["steps"]} == {1, 2}
    assert {row["workers"] for row in made["all_reduce"]} == {2}
    both = next(step for step in made["steps"] if (step["workers"], step["worker_batch"]) == (2, 8))
    assert 0.1 < both["efficiency"]["median"] < 2
    assert both["samples_per_s"]["median"] == pytest.approx(16 / both["step_time_s"]["median"])
    assert {(m["grad_bytes"], m["nodes"]) for m in made["measurements"]} == {(16, 1)}
    assert "All-reduce (gloo)" in text(made)


def test_more_workers_than_cores_are_refused(monkeypatch):
    with pytest.raises(InfeasibleError, match="4096 workers need a"):
        timed("fixed_s: 0", monkeypatch, workers=4096)


@pytest.mark.slow
def test_the_probe_predicts_the_throughput_of_two_real_workers_at_batches_that_it_did_not_fit(tmp_path):
    """In the same rounds, for a machine that others use may be another one a minute later."""
    prepared = prepare(load_study("quickstart", ["realisations=[]"]))
    fitted, held_out = [1, 2, 4, 8, 16, 32, 64, 128], [12, 48, 96]
    facts, alone = time_workers(prepared.study, 1, fitted, 11, [])
    _, both = time_workers(prepared.study, 2, sorted(fitted + held_out), 11, [])
    visits = {1: alone, 2: [row for row in both if row["worker_batch"] in fitted]}
    rows = measurements(Measured(facts=facts, group=1, visits=visits, all_reduce=[], memory=no_memory()))
    (tmp_path / "probe.json").write_text(json.dumps({"measurements": rows}))
    model = tmp_path / "model.json"
    run("simulate", "fit", "--measurements", tmp_path, "--out", model)
    asked = [word for batch in held_out for word in ("--at", f"workers=2,nodes=1,worker_batch={batch}")]
    predictions = json.loads(run("simulate", "predict", "--model", model, *asked, "--json"))["predictions"]
    for prediction in predictions:
        batch = prediction["worker_batch"]
        seconds = repeated([row["step_time_s"] for row in both if row["worker_batch"] == batch]).median
        low, high = prediction["interval"]
        assert prediction["status"] == "interpolated"
        assert 2 * batch / high <= 2 * batch / seconds <= 2 * batch / low, (prediction, seconds)


def test_a_study_of_a_users_own_script_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    words = ["--set", "targets=[]", "--set", "noise={}"]
    raw = (files("scaleexp") / "studies" / "quickstart.yaml").read_text()
    lines = [
        line for line in raw.splitlines() if not line.startswith(("workload", "targets", "realisations", "  - {eng"))
    ]
    (tmp_path / "own.yaml").write_text(
        "\n".join([*lines, 'command: [python, train.py, --lr, "{lr}"]', "unit: example"])
    )
    with pytest.raises(ConfigError, match="trains by a script of its own") as refused:
        CliRunner().invoke(cli, ["probe", "own.yaml", *words[:0]], catch_exceptions=False)
    assert str(refused.value).count(". ") == 0


def test_the_fit_of_a_probe_with_repeats_knows_how_far_they_scatter(tmp_path):
    """Repeats stay rows of their own: medians alone would claim a precision that no single step has."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "workers": p,
            "nodes": 1,
            "worker_batch": b,
            "step_time_s": (0.01 + 0.001 * b) * np.exp(0.2 * rng.standard_normal()),
        }
        for _ in range(11)
        for p in (1, 2)
        for b in (1, 2, 4, 8, 16)
    ]
    (tmp_path / "probe.json").write_text(json.dumps({"measurements": rows}))
    fit = json.loads(run("simulate", "fit", "--measurements", tmp_path, "--out", tmp_path / "m.json", "--json"))
    assert fit["groups"][0]["spread"] == pytest.approx(0.2, rel=0.25)
