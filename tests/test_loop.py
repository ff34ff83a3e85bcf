"""The loop and its log: what is measured when, what ends a trial, and what a reader then finds."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from scaleexp import schema
from scaleexp.config import load_study
from scaleexp.engines.packed import PackedEngine
from scaleexp.errors import ConfigError, StorageError
from scaleexp.execute import Assignment, noise_cadence, run_packed
from scaleexp.integrity import opened
from scaleexp.launch.runner import open_study, prepare
from scaleexp.resume import unfinished
from scaleexp.runlog import TrialLog, last_commit
from scaleexp.storage import Store, json_bytes
from tests.without_ray import assigned

SETS = [
    "workload={name: quadratic, dimensions: 20}",
    "workers=[4]",
    "base={batch_size: 16, lr: 0.2}",
    "seeds=[0, 1]",
    "lr_multipliers=[0.05, 1, 4]",
    "lr_rules=[sqrt]",
    "limits.samples=3200",
    "evaluation.every_samples=40",
    "targets=[{metric: expected_loss, values: [0.5, 0.2]}]",
    "noise.every_samples=128",
]


def assignment(root, *more, deadline=None):
    prepared = prepare(load_study("quadratic", [*SETS, *more]))
    return prepared.plan.trials, assigned(prepared, root, deadline=deadline, deadline_cause="limits.wall_s = 1")


def rows(root, key, table):
    """Rows of the segments that the last commit binds, checked against their sha256."""
    commit = last_commit(Store(root), key)
    found = []
    for segment in commit["segments"]:
        path = root / "trials" / key / segment["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == segment["sha256"]
        if segment["table"] == table:
            found += pq.read_table(path).to_pylist()
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    trials, work = assignment(root)
    run_packed(work, trials, threads=1)
    return root, trials


def test_every_trial_ends_at_its_target_or_at_its_limit(study):
    root, trials = study
    for trial in trials:
        commit = last_commit(Store(root), trial.key)
        values = [r["value"] for r in rows(root, trial.key, "evals") if r["metric"] == "expected_loss"]
        if commit["status"] == "reached":
            assert values[-1] <= 0.2
            assert values[-2] <= 0.2
            assert not any(a <= 0.2 and b <= 0.2 for a, b in pairwise(values[:-1]))
        else:
            assert commit["status"] == "limit"
            assert commit["samples"] == 3200
    assert {last_commit(Store(root), t.key)["status"] for t in trials} == {"reached", "limit"}


def test_steps_are_logged_once_each_and_batches_add_up(study):
    root, trials = study
    for trial in trials:
        steps = rows(root, trial.key, "steps")
        assert [r["step"] for r in steps] == list(range(1, len(steps) + 1))
        for r in steps:
            assert r["batch_size"] == r["micro_batch"] * r["accumulation_steps"] * r["workers"]
            assert r["samples"] == r["step"] * r["batch_size"]
            assert (r["grad_sq_small"] is None) == ((r["step"] - 1) % 8 != 0)
            assert r["step_s"] >= r["compute_s"] + r["data_s"] + r["sync_s"] > 0
        measured = [r for r in steps if r["grad_sq_big"] is not None]
        assert {(r["shards"], r["shard_size"]) for r in measured} == {(8, 2)}


def test_evaluations_fall_on_the_first_step_past_each_multiple_of_the_cadence(study):
    root, trials = study
    evals = rows(root, trials[0].key, "evals")
    samples = [r["samples"] for r in evals if r["metric"] == "expected_loss"]
    expected = [0] + [-(-m // 16) * 16 for m in range(40, 3201, 40)]
    assert samples == expected[: len(samples)]


def test_schema_of_the_files_is_the_contract(study):
    root, trials = study
    for segment in (root / "trials" / trials[0].key).glob("*.parquet"):
        table = "evals" if "evals" in segment.name else "steps"
        found = pq.read_schema(segment)
        assert found.equals(schema.arrow_schema(table), check_metadata=False)
        assert found.metadata[b"scaleexp.schema_version"] == b"1"
        assert found.field("trial_id").metadata[b"deterministic"] == b"true"


def test_facts_say_what_ran_and_where(study):
    root, trials = study
    facts = Store(root).read_json(f"trials/{trials[0].key}/trial.json")
    assert set(facts) == set(schema.TrialFacts.__annotations__)
    assert facts["n_parameters"] == 20
    assert facts["hardware"]["cores"] >= 1
    assert facts["versions"]["torch"]


def test_finished_trials_never_run_again(study):
    root, trials = study
    before = sorted(p.name for t in trials for p in (root / "trials" / t.key / "commits").iterdir())
    _, work = assignment(root)
    run_packed(work, trials, threads=1)
    assert unfinished(Store(root), trials, ()) == []
    assert sorted(p.name for t in trials for p in (root / "trials" / t.key / "commits").iterdir()) == before


@pytest.fixture
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_reproducible")
def test_two_runs_of_a_deterministic_study_write_the_same_deterministic_columns(tmp_path):
    root, tmp_path = tmp_path / "a", tmp_path / "b"
    for where in (root, tmp_path):
        trials, work = assignment(where, "deterministic=true")
        run_packed(work, trials, threads=1)
    for table in ("steps", "evals"):
        exact = schema.deterministic_columns(table)
        for trial in trials:
            a, b = rows(root, trial.key, table), rows(tmp_path, trial.key, table)
            assert [{c: r[c] for c in exact} for r in a] == [{c: r[c] for c in exact} for r in b]


def test_a_deadline_leaves_trials_stopped_and_a_later_run_finishes_them(tmp_path, monkeypatch):
    trials, work = assignment(tmp_path)
    asked = iter(["", "", "", "limits.wall_s = 1"])
    with monkeypatch.context() as patch:
        patch.setattr(Assignment, "stop", lambda self: next(asked))
        run_packed(work, trials, threads=1)
    commits = [last_commit(Store(tmp_path), t.key) for t in trials]
    assert {(c["status"], c["cause"], c["step"]) for c in commits} == {("stopped", "limits.wall_s = 1", 3)}
    run_packed(work, trials, threads=1)
    commits = [last_commit(Store(tmp_path), t.key) for t in trials]
    assert {c["status"] for c in commits} == {"reached", "limit"}
    assert {c["attempt"] for c in commits} == {1}
    assert [r["attempt"] for r in rows(tmp_path, trials[0].key, "steps")][:5] == [0, 0, 0, 1, 1]


def test_nothing_starts_after_the_deadline(tmp_path):
    trials, work = assignment(tmp_path, deadline=1.0)
    run_packed(work, trials, threads=1)
    assert not (tmp_path / "trials").exists()


def test_divergence_is_a_result(tmp_path):
    trials, work = assignment(tmp_path, "base={batch_size: 16, lr: 100.0}", "dtype=float32")
    run_packed(work, trials, threads=1)
    commits = [last_commit(Store(tmp_path), t.key) for t in trials]
    assert {c["status"] for c in commits} == {"diverged"}
    assert "loss became" in commits[0]["cause"]


def test_an_error_in_the_middle_is_committed_as_a_failure_and_raised(tmp_path, monkeypatch):
    trials, work = assignment(tmp_path)
    real = PackedEngine.step

    def breaks(self, start, stop, lr, *, measure):
        if start >= 64:
            raise RuntimeError("the model broke")
        return real(self, start, stop, lr, measure=measure)

    monkeypatch.setattr(PackedEngine, "step", breaks)
    with pytest.raises(RuntimeError, match="the model broke"):
        run_packed(work, trials, threads=1)
    commits = [last_commit(Store(tmp_path), t.key) for t in trials]
    assert {c["status"] for c in commits} == {"failed"}
    assert commits[0]["cause"] == "RuntimeError: the model broke (after step 4)"
    assert commits[0]["samples"] == 0
    assert rows(tmp_path, trials[0].key, "steps") == []
    monkeypatch.undo()
    run_packed(work, trials[:2], threads=1)
    assert unfinished(Store(tmp_path), trials, ()) == list(trials[2:])
    more, _ = assignment(tmp_path, "seeds=3")
    assert [t.seed for t in unfinished(Store(tmp_path), more, ())] == [2, 2, 2, 0, 1, 0, 1]


class Timed:
    """An engine of known speed."""

    def __init__(self, plain_s, measuring_s):
        self.seconds = lambda batch_size: (plain_s, measuring_s)


def test_measuring_noise_costs_a_twentieth_of_a_step_at_most_unless_the_study_says_how_often():
    sets = [s for s in SETS if "noise" not in s]
    study = load_study("quadratic", sets)
    for measuring_s in (1.0, 1.04, 1.2, 1.9, 8.0):
        every, timings = noise_cadence(study, Timed(1.0, measuring_s), 16)
        assert (measuring_s - 1.0) / every == pytest.approx(timings["noise_cost"])
        assert timings["noise_cost"] <= 0.05
        assert every == 1 or (measuring_s - 1.0) / every > 0.025 / 2  # and not much rarer than that
    every, timings = noise_cadence(load_study("quadratic", [*SETS, "noise.every_samples=32"]), Timed(1.0, 3.0), 16)
    assert (every, timings["noise_cost"]) == (2, 1.0)


def test_nothing_depends_on_the_clock_in_a_deterministic_study():
    study = load_study("quadratic", [*SETS, "deterministic=true", "noise.every_samples=null"])
    assert noise_cadence(study, Timed(1.0, 9.0), 16)[0] == 8  # one step in as many as there are shards
    assert noise_cadence(study, Timed(1.0, 1.0), 4)[0] == 10  # one per evaluation interval of 40 samples


def test_the_norms_of_all_parameters_are_those_of_the_gradient(tmp_path):
    trials, work = assignment(tmp_path, "noise.per_layer=true")
    run_packed(work, trials, threads=1)
    for trial in trials:
        steps = [r for r in rows(tmp_path, trial.key, "steps") if r["shards"]]
        layers = rows(tmp_path, trial.key, "layers")
        assert {r["layer"] for r in layers} == {"x"}
        keys = ("step", "samples", "grad_sq_small", "grad_sq_big", "shards")
        assert [[r[k] for k in keys] for r in layers] == [[r[k] for k in keys] for r in steps]


def test_a_study_written_before_a_field_existed_goes_on(tmp_path):
    prepared = prepare(load_study("quadratic", SETS))
    open_study(prepared, tmp_path)
    plan = tmp_path / "plan" / "0001.json"
    plan.write_bytes(json_bytes({k: v for k, v in opened(plan.read_bytes(), plan).items() if k != "resolved"}))
    file = tmp_path / "study.json"
    held = opened(file.read_bytes(), file)
    for newer in ("compile", "deterministic", "batch_norm", "processes"):
        del held[newer]
    file.write_text(json.dumps(held))  # nor had it a checksum
    open_study(prepared, tmp_path)
    file.write_text(json.dumps(held | {"dtype": "float32" if held["dtype"] == "float64" else "float64"}))
    with pytest.raises(ConfigError, match="differs in dtype"):
        open_study(prepared, tmp_path)


def test_the_death_of_another_process_is_no_failure_of_the_trial(tmp_path, monkeypatch):
    trials, work = assignment(tmp_path)

    def cut_off(self, start, stop, lr, *, measure):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242")

    monkeypatch.setattr(PackedEngine, "step", cut_off)
    with pytest.raises(RuntimeError, match="by peer"):
        run_packed(work, trials, threads=1)
    assert {last_commit(Store(tmp_path), t.key)["status"] for t in trials} == {"running"}


def test_warmup_scales_the_logged_learning_rate(tmp_path):
    trials, work = assignment(tmp_path, "warmup_samples=160", "limits.samples=320")
    run_packed(work, trials, threads=1)
    steps = rows(tmp_path, trials[0].key, "steps")
    expected = [min(1.0, (i + 0.5) / 10) * trials[0].lr for i in range(len(steps))]
    np.testing.assert_allclose([r["step_lr"] for r in steps], expected, rtol=1e-12)


def test_a_second_writer_of_a_trial_is_told_so_and_changes_nothing(tmp_path):
    trials, work = assignment(tmp_path)
    run_packed(work, trials[:1], threads=1)
    directory = tmp_path / "trials" / trials[0].key
    facts = opened((directory / "trial.json").read_bytes(), directory)
    first, second = (TrialLog(Store(tmp_path), facts, {}) for _ in range(2))
    first.commit(step=0, samples=0, status="stopped")
    with pytest.raises(StorageError, match="another run is writing trial"):
        second.commit(step=1, samples=16, status="stopped")
    assert last_commit(Store(tmp_path), trials[0].key)["step"] == 0
