"""Studies through a real local Ray: virtual and real workers, what is refused, what fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.read import load, read_evals, read_steps
from analysis.study import analyse
from scaleexp.config import load_study
from scaleexp.errors import ConfigError, InfeasibleError, NotEnoughDataError, StorageError, TrialsFailedError
from scaleexp.execute import run_packed
from scaleexp.launch.cluster import Resources, check_feasible
from scaleexp.launch.runner import open_study, prepare, run_study
from scaleexp.plan import make_plan
from scaleexp.schema import deterministic_columns
from scaleexp.storage import Store
from tests.without_ray import assigned

SMALL = [
    "dtype=float64",
    "workload.hidden=[16]",
    "workers=[2, 8, 32]",
    "base={batch_size: 32, lr: 0.1}",
    "lr_multipliers=[1]",
    "lr_rules=[sqrt]",
    "seeds=[0]",
    "limits.samples=6400",
    "targets=[{metric: val_loss, values: [0.001]}]",
    "noise={shards: 8, every_samples: 640}",
    "realisations=[{engine: ddp, workers: 2, batch_size: 128}, {engine: ddp, workers: 2, batch_size: 32}]",
]


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "both"
    outcome = run_study(prepare(load_study("quickstart", SMALL)), root)
    assert outcome.ended == {"limit": 5}
    return root


@pytest.mark.ray
def test_real_and_virtual_workers_write_the_same_rows(both_ways):
    """50 steps at batch 128 and 200 at 32 in float64, at a learning rate where the loss falls."""
    log = load(both_ways)
    assert not log.problems
    second = [t for t in log.trials if t.facts["realisation"]]
    assert {t.key.split("@")[1] for t in second} == {"ddp-2"}
    assert {t.commit["realisation"]["processes"] for t in second} == {2}
    for trial in second:
        for table, rows in (("steps", read_steps(log, deterministic_columns("steps"))), ("evals", read_evals(log))):
            virtual, real = (_rows(rows, trial.facts["trial_id"], name) for name in ("", "ddp-2"))
            assert len(virtual) == len(real) > 0
            for a, b in zip(virtual, real, strict=True):
                for column in set(deterministic_columns(table)) - DIFFERENT:
                    if isinstance(a[column], float):
                        np.testing.assert_allclose(a[column], b[column], rtol=1e-10, atol=1e-13)
                    else:
                        assert a[column] == b[column]


def _rows(table, trial_id, realisation):
    return [r for r in table.to_pylist() if (r["trial_id"], r["realisation"]) == (trial_id, realisation)]


DIFFERENT = {"realisation", "workers", "micro_batch", "accumulation_steps"}  # the same batch, split in another way


BATCH_NORM = [
    *SMALL[3:],
    "dtype=float64",
    "workload={name: classifier, model: 'tests.equivalence_models:with_batch_norm', hidden: [4]}",
    "workers=[4]",
    "worker_batch=8",
    "batch_norm=worker",
    "limits.samples=640",
    "realisations=[{engine: ddp, workers: 4, processes: 2, batch_size: 32}]",
]


@pytest.mark.ray
def test_four_workers_with_batch_norm_on_two_processes_write_the_rows_of_four_virtual_ones(tmp_path):
    assert run_study(prepare(load_study("quickstart", BATCH_NORM)), tmp_path / "study").ended == {"limit": 2}
    log = load(tmp_path / "study")
    (real,) = [t for t in log.trials if t.facts["realisation"]]
    assert real.key.split("@")[1] == "ddp-4-on-2"
    assert (real.commit["realisation"]["processes"], real.facts["workers"]) == (2, 4)
    for rows, column in ((read_steps(log, deterministic_columns("steps")), "loss"), (read_evals(log), "value")):
        a, b = (_rows(rows, real.facts["trial_id"], name) for name in ("", "ddp-4-on-2"))
        assert len(a) == len(b) > 10
        np.testing.assert_allclose([r[column] for r in b], [r[column] for r in a], rtol=1e-10)
    assert {t.commit["realisation"]["noise_bias"] for t in log.trials} == {"batch_norm"}


@pytest.mark.ray
def test_the_analysis_reports_that_they_agree(both_ways):
    found = analyse(both_ways).agreements
    assert len(found) == 2
    assert all(a.loss_difference < 1e-10 and a.value_difference < 1e-10 for a in found)


@pytest.mark.ray
def test_a_finished_study_starts_no_ray(both_ways, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("started Ray with nothing to run"))
    assert run_study(prepare(load_study("quickstart", SMALL)), both_ways).ended == {"limit": 5}


def test_another_study_in_the_same_directory_is_refused(tmp_path):
    open_study(prepare(load_study("quadratic")), tmp_path)
    open_study(prepare(load_study("quadratic")), tmp_path)
    with pytest.raises(
        ConfigError, match=r"the study 'quadratic', which differs in base\.lr \(\S+ there, 0\.1 here\): give"
    ):
        open_study(prepare(load_study("quadratic", ["base.lr=0.1", "seeds=[5]"])), tmp_path)


@pytest.mark.parametrize("own", ["seeds=[0]", "seeds=[0, 1]"])
def test_of_two_runs_that_open_a_study_at_once_the_second_takes_what_is_there_or_says_so(tmp_path, monkeypatch, own):
    mine, theirs = (prepare(load_study("quadratic", [seeds])) for seeds in (own, "seeds=[0]"))
    write = Store.write

    def overtaken(self, name, content):
        if name == "plan/0001.json":
            monkeypatch.setattr(Store, "write", write)
            open_study(theirs, tmp_path)
        write(self, name, content)

    monkeypatch.setattr(Store, "write", overtaken)
    if own == "seeds=[0, 1]":
        with pytest.raises(StorageError, match=r"another run has just written \S+/plan/0001.json, with another plan"):
            open_study(mine, tmp_path)
    assert open_study(mine, tmp_path).names("plan") == (
        ["0001.json"] if own == "seeds=[0]" else ["0001.json", "0002.json"]
    )


@pytest.mark.ray
def test_real_workers_that_never_fit_are_refused_before_any_starts(tmp_path):
    prepared = prepare(load_study("quickstart", ["engine=ddp", "workers=[64]", "realisations=[]"]))
    with pytest.raises(InfeasibleError, match="the study asks for 64 real workers, which need 64 CPUs, and Ray has"):
        run_study(prepared, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_gpus_count_where_there_are_any():
    trials = prepare(load_study("quickstart", ["engine=ddp", "workers=[4]", "base.batch_size=16", "realisations=[]"]))
    check_feasible(trials.plan.trials, Resources(cpus=1, gpus=4))
    with pytest.raises(InfeasibleError, match="4 GPUs, and Ray has 2: set engine to packed"):
        check_feasible(trials.plan.trials, Resources(cpus=64, gpus=2))


def test_a_second_realisation_that_never_fits_can_be_left_out():
    trials = prepare(load_study("quickstart")).plan.trials
    with pytest.raises(InfeasibleError, match=r"Ray has 1: leave it out with --set realisations=\[\]"):
        check_feasible(trials, Resources(cpus=1, gpus=0))


def test_limits_of_a_run_may_change_but_its_data_may_not(tmp_path):
    open_study(prepare(load_study("quadratic", ["limits.wall_s=5"])), tmp_path)
    open_study(prepare(load_study("quadratic", ["limits.wall_s=50"])), tmp_path)
    prepared = prepare(load_study("quadratic"))
    changed = replace(prepared, plan=make_plan(prepared.study, "0" * 64))
    with pytest.raises(ConfigError, match="planned from other data"):
        open_study(changed, tmp_path)


def fails_with(study_class, root):
    sets = [
        f"workload={{name: 'tests.plugin_workloads:{study_class}'}}",
        "workers=[4]",
        "seeds=1",
        "lr_multipliers=[1]",
    ]
    with pytest.raises(TrialsFailedError) as caught:
        run_study(prepare(load_study("quadratic", [*sets, "lr_rules=[sqrt]"])), root)
    return str(caught.value)


@pytest.mark.ray
def test_a_failing_workload_is_told_with_its_cause(tmp_path):
    assert "1 of 1 trials failed" in (told := fails_with("Broken", tmp_path / "study"))
    assert "RuntimeError: the data went missing" in told


@pytest.mark.ray
def test_a_dying_process_is_told_and_ends(tmp_path):
    assert "1 of 1 trials failed" in fails_with("Dying", tmp_path / "study")


def test_a_study_whose_every_trial_diverged_has_nothing_to_fit_and_says_why(tmp_path):
    sets = [
        "workers=[4]",
        "seeds=[0]",
        "base={batch_size: 16, lr: 1.0e6}",
        "lr_multipliers=[1, 4]",
        "lr_rules=[none]",
        "limits.samples=640",
    ]
    study = prepare(load_study("quadratic", [*sets, "realisations=[]"]))
    open_study(study, tmp_path)
    run_packed(assigned(study, tmp_path), study.plan.trials, threads=1)
    with pytest.raises(NotEnoughDataError, match=r"all 2 trials diverged.*the training loss became .* Lower base\.lr"):
        run_study(study, tmp_path)
    assert NotEnoughDataError.exit_code == 6
