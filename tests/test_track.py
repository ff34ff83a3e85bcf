"""Any training script writes the log of our own loop; what it must not do is told in one sentence."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

import analysis.read
import scaleexp
from analysis.study import analyse
from scaleexp import lease, schema
from scaleexp.config import load_study
from scaleexp.errors import ConfigError, StorageError
from scaleexp.execute import run_packed
from scaleexp.launch.runner import open_study, prepare
from scaleexp.runlog import last_commit
from scaleexp.sampling import derived_seed
from scaleexp.status import status_of
from scaleexp.storage import Store
from scaleexp.trial_context import TargetValue, TrialContext
from scaleexp.verify import verify
from tests.tracked_scripts import STATED, network, train
from tests.without_ray import assigned

SETS = [
    "workload={name: classifier, data: mnist5k, model: cnn, hidden: [2, 2]}",
    "dtype=float64",
    "workers=[1]",
    "worker_batch=null",
    "micro_batch=4",
    "accumulation_steps=8",
    "base={batch_size: 32, lr: 0.1}",
    "optimizer={name: sgd, momentum: 0.9}",
    "seeds=[3]",
    "lr_multipliers=[1]",
    "lr_rules=[sqrt]",
    "limits.samples=3200",
    "evaluation.every_samples=200",
    "targets=[{metric: val_loss, values: [2.1, 1.2]}]",
    "noise={shards: 8, every_samples: 96}",
]


def rows(root, table):
    log = analysis.read.load(root)
    assert log.problems == ()
    return analysis.read.read_table(log, table, [c.name for c in schema.TABLES[table]], None).to_pylist()


def only_commit(root):
    (key,) = Store(root).names("trials")
    return last_commit(Store(root), key)


def told_to(trial, prepared, root, **more):
    """The context of a planned trial."""
    study = prepared.study
    return TrialContext(
        storage=str(root),
        key=trial.key,
        trial_id=trial.trial_id,
        seed=trial.seed,
        batch_size=trial.batch_size,
        workers=trial.workers,
        micro_batch=trial.micro_batch,
        accumulation_steps=trial.accumulation_steps,
        lr=trial.lr,
        unit="example",
        limit_samples=trial.limit_samples,
        evaluate_every_samples=study.evaluation.every_samples,
        noise_every_samples=study.noise.every_samples,
        hyperparameters=study.optimizer.model_dump(mode="json"),
        targets=tuple(
            TargetValue(metric=t["metric"], value=t["values"][-1], direction=t["direction"]) for t in prepared.targets
        ),
        workload={"name": study.workload.name, **study.workload.options},
        study=study.name,
        **more,
    )


@pytest.fixture(scope="module")
def planned():
    return prepare(load_study("quickstart", [*SETS, "realisations=[]"]))


def raw_loop(workload, seed, run):
    """The workload as a script would train it that knows nothing of engines."""
    data_seed = derived_seed(seed, "data")
    model = workload.model(derived_seed(seed, "init"))
    optimizer = torch.optim.SGD(model.parameters(), lr=run.trial.lr, momentum=0.9)
    run.watch(model, distance=True)

    def evaluate():
        with torch.no_grad():
            sums = workload.metric_sums(model, workload.eval_batch(0, workload.n_eval))
        run.evaluate(**{name: value / workload.n_eval for name, value in sums.items()})

    evaluate()
    while not run.should_stop:
        total = 0.0
        for k in range(run.trial.accumulation_steps):
            at = run.samples + k * run.trial.micro_batch
            batch = workload.batch(data_seed, at, at + run.trial.micro_batch)
            loss = workload.loss(model, batch, lambda x: x) / run.trial.accumulation_steps
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        run.step(loss=total, batch_size=run.trial.batch_size)
        if run.should_evaluate:
            evaluate()


def test_a_raw_loop_under_a_study_writes_the_rows_that_our_own_loop_writes(planned, tmp_path, monkeypatch):
    (trial,) = planned.plan.trials
    ours, tracked = tmp_path / "ours", tmp_path / "tracked"
    for root in (ours, tracked):
        open_study(planned, root)
    run_packed(assigned(planned, ours), [trial], threads=1)
    monkeypatch.setenv("SCALEEXP_TRIAL", told_to(trial, planned, tracked).to_env()["SCALEEXP_TRIAL"])
    with scaleexp.track() as run:
        raw_loop(planned.workload, trial.seed, run)
    assert (
        last_commit(Store(tracked), trial.key)["status"] == last_commit(Store(ours), trial.key)["status"] == "reached"
    )
    for table in ("steps", "evals"):
        mine, theirs = rows(tracked, table), rows(ours, table)
        assert len(mine) == len(theirs) > 5
        for a, b in zip(mine, theirs, strict=True):
            for column in schema.deterministic_columns(table):
                if isinstance(b[column], float):
                    assert a[column] == pytest.approx(b[column], rel=1e-9, abs=1e-12), (table, column)
                else:
                    assert a[column] == b[column], (table, column)
    assert sum(row["grad_sq_small"] is not None for row in rows(tracked, "steps")) > 3


def test_alone_a_script_makes_a_study_that_every_tool_reads(tmp_path):
    for batch in (32, 64):
        train(tmp_path, batch_size=batch)
    found = status_of(Store(tmp_path))
    assert found["trials"] == {"reached": 2}
    assert [row["batch_size"] for row in found["rows"]] == [32, 64]
    assert list(verify(Store(tmp_path))) == []
    study = analyse(tmp_path)
    assert [p.batch_size for p in study.points] == [32, 64]
    assert study.noise is not None
    facts = analysis.read.load(tmp_path).trials[0].facts
    assert facts["sample_order"] == "uncontrolled"
    assert facts["n_parameters"] == sum(p.numel() for p in network().parameters())
    assert facts["optimizer"]["name"] == "sgd"
    assert facts["optimizer"]["momentum"] == 0.9
    assert {row["attempt"] for row in rows(tmp_path, "steps")} == {0}


def moving(run, model, steps, *, by=1.0):
    """The first weight moves by so much in each step."""
    for _ in range(steps):
        with torch.no_grad():
            next(model.parameters())[0, 0] += by
        run.step(loss=1.0, batch_size=32)
        run.evaluate(val_loss=1.0)


def distances_in(root):
    return [row["value"] for row in rows(root, "evals") if row["metric"] == "distance_from_init"]


def test_the_distance_from_the_initialisation_is_logged_where_it_is_asked_for(tmp_path):
    for asked in (True, False):
        with scaleexp.track(storage=str(tmp_path / str(asked)), **{**STATED, "targets": []}) as run:
            model = network()
            model[0].bias.requires_grad_(False)
            run.watch(model, distance=asked)
            model[0].bias.add_(100.0)  # is not trained
            run.evaluate(val_loss=2.0)
            moving(run, model, 3)
            run.resume(1)
            moving(run, model, 1, by=-0.5)
    assert distances_in(tmp_path / "True") == pytest.approx([0.0, 1.0, 2.5])  # 3 - 0.5 after going back to step 1
    assert distances_in(tmp_path / "False") == []


def test_a_distance_that_a_script_measures_itself_is_its_own(tmp_path):
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}) as run:
        run.watch(network(), distance=True)
        run.step(loss=1.0, batch_size=32)
        run.evaluate(val_loss=1.0, distance_from_init=7.0)
    assert distances_in(tmp_path) == [7.0]


def test_a_model_that_is_watched_after_its_checkpoint_was_loaded_has_no_initialisation_either(tmp_path, caplog):
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}) as run:
        moving(run, network(), 2)
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}) as run:
        model = network()
        run.watch(model, distance=True)
        run.resume(2)
        moving(run, model, 2)
    assert distances_in(tmp_path) == []
    assert "no distance_from_init is logged: the script goes on from step 2" in caplog.text


def test_a_script_that_goes_on_has_no_initialisation_to_measure_from_and_that_is_said(tmp_path, caplog):
    for resume_step in (None, 2):
        with scaleexp.track(storage=str(tmp_path), resume_step=resume_step, **{**STATED, "targets": []}) as run:
            model = network()
            run.watch(model, distance=True)
            moving(run, model, 2)
    assert distances_in(tmp_path) == pytest.approx([1.0, 2.0])
    assert "no distance_from_init is logged: the script goes on from step 2" in caplog.text


def test_the_learning_rate_of_a_step_is_the_optimizers(tmp_path):
    def decay(optimizer, n):
        optimizer.param_groups[0]["lr"] = 0.1 / (n + 1)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}, optimizer=optimizer) as run:
        for n in range(3):
            decay(optimizer, n)
            model(torch.randn(2, 8)).sum().backward()
            optimizer.step()
            run.step(loss=1.0, batch_size=32)
    assert [row["step_lr"] for row in rows(tmp_path, "steps")] == [0.1, 0.05, pytest.approx(0.1 / 3)]


def test_a_script_that_ends_by_itself_has_met_its_limit_and_one_short_of_a_stated_limit_can_go_on(tmp_path):
    train(tmp_path / "free", until=10, targets=[], limit_samples=None)
    assert only_commit(tmp_path / "free")["status"] == "limit"
    assert only_commit(tmp_path / "free")["cause"] == "the script ended"
    train(tmp_path / "short", until=10, targets=[])
    commit = only_commit(tmp_path / "short")
    assert (commit["status"], commit["step"], commit["cause"]) == (
        "stopped",
        10,
        "the script ended after 320 of 6400 samples",
    )


def test_rows_after_the_step_that_a_script_resumes_at_are_superseded_once_each(tmp_path):
    train(tmp_path, until=33, targets=[])
    before = rows(tmp_path, "steps")
    train(tmp_path, until=60, targets=[], resume_step=25)
    after = rows(tmp_path, "steps")
    assert [row["step"] for row in after] == list(range(1, 61))
    assert after[:25] == before[:25]
    assert [row["attempt"] for row in after] == [0] * 25 + [1] * 35
    assert [row["step"] for row in rows(tmp_path, "evals")] == [0, 10, 20, 30, 40, 50, 60]
    assert list(verify(Store(tmp_path))) == [] or all(f.kind == "note" for f in verify(Store(tmp_path)))


def test_going_back_inside_a_run_drops_what_was_logged_after(tmp_path):
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}) as run:
        for n in range(1, 9):
            run.step(loss=1.0 / n, batch_size=32, step=n)
        run.resume(5)
        run.step(loss=7.0, batch_size=32, step=6)
    assert [(r["step"], r["loss"]) for r in rows(tmp_path, "steps")][4:] == [(5, 0.2), (6, 7.0)]


def test_steps_between_the_last_commit_and_a_later_checkpoint_are_said_to_be_missing(tmp_path, caplog):
    train(tmp_path, until=10, targets=[])
    train(tmp_path, until=30, targets=[], resume_step=20)
    assert [row["step"] for row in rows(tmp_path, "steps")] == [*range(1, 11), *range(21, 31)]
    assert only_commit(tmp_path)["gaps"] == [[11, 20]]
    assert "call run.commit() before each checkpoint" in caplog.text


def test_divergence_is_a_result_and_ends_the_log_at_its_step(tmp_path):
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}) as run:
        for loss in (1.0, 0.5, float("nan"), 3.0):
            run.step(loss=torch.tensor(loss), batch_size=32)
            if loss == 1.0:
                assert not run.should_stop
        assert run.should_stop
    commit = only_commit(tmp_path)
    assert (commit["status"], commit["step"], commit["cause"]) == ("diverged", 3, "the training loss became nan")
    assert len(rows(tmp_path, "steps")) == 3


def test_whoever_asks_the_study_to_stop_stops_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr("scaleexp.asked._LOOK_S", 0.01)

    def ask(n):
        if n == 5:
            assert lease.request_stop(Store(tmp_path))
        if n > 5:
            threading.Event().wait(0.02)

    train(tmp_path, before_step=ask, targets=[])
    commit = only_commit(tmp_path)
    assert (commit["status"], commit["cause"]) == ("stopped", "asked to stop")
    assert commit["step"] < 12


def past_its_deadline(planned, root, monkeypatch):
    """The study's one trial, which a script is told of in its environment."""
    (trial,) = planned.plan.trials
    open_study(planned, root)
    context = told_to(trial, planned, root, deadline_unix_s=1.0, deadline_cause="limits.wall_s = 1")
    monkeypatch.setenv("SCALEEXP_TRIAL", context.to_env()["SCALEEXP_TRIAL"])
    return trial


def test_a_deadline_stops_the_script(planned, tmp_path, monkeypatch):
    trial = past_its_deadline(planned, tmp_path, monkeypatch)
    with scaleexp.track() as run:
        run.step(loss=1.0, batch_size=32)
        assert run.should_stop
    assert last_commit(Store(tmp_path), trial.key)["cause"] == "limits.wall_s = 1"


def test_an_error_of_the_script_fails_the_trial_and_keeps_its_rows(tmp_path):
    def broken(n):
        if n == 1:
            raise ZeroDivisionError("of the script")

    with pytest.raises(ZeroDivisionError):
        train(tmp_path, before_step=broken)
    commit = only_commit(tmp_path)
    assert (commit["status"], commit["cause"]) == ("failed", "ZeroDivisionError: of the script (after step 1)")
    assert len(rows(tmp_path, "steps")) == 1


@pytest.mark.parametrize(
    ("code", "status", "cause"),
    [(0, "limit", ""), (None, "limit", ""), (3, "failed", "SystemExit: 3 (after step 10)")],
)
def test_a_script_that_exits_inside_of_its_run_has_ended_by_its_exit_code(tmp_path, code, status, cause):
    def script():
        with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": [], "limit_samples": 320}) as run:
            for _ in range(10):
                run.step(loss=1.0, batch_size=32)
            sys.exit(code)

    with pytest.raises(SystemExit):
        script()
    commit = only_commit(tmp_path)
    assert (commit["status"], commit["cause"]) == (status, cause)


# -- bad use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["storage", "batch_size", "unit", "workers", "lr", "seed"])
def test_what_is_not_stated_is_not_guessed(tmp_path, missing):
    stated = {"storage": str(tmp_path), **STATED}
    del stated[missing]
    with pytest.raises(ConfigError, match=rf"scaleexp.track needs {missing}=.*never guessed"):
        scaleexp.track(**stated)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 33}, "1 workers with 2 accumulation steps cannot share equally"),
        ({"batch_size": 32.5}, "whole number"),
        ({"unit": "word"}, "an 'example' or a 'token'"),
        ({"targets": ["val_loss < 0.5"]}, "is no target: write 'val_loss <= 0.5'"),
        ({"targets": ["val_loss <= low"]}, "is no target"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"resume_step": -1}, "counts the steps of the script's checkpoint"),
        ({"resume_step": 5}, "holds nothing of trial"),
    ],
)
def test_nonsense_is_told_in_one_sentence(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said), scaleexp.track(**{"storage": str(tmp_path), **STATED, **changes}):
        pass


def failing(tmp_path, body, **changes):
    with (
        pytest.raises(ConfigError) as told,
        scaleexp.track(**{"storage": str(tmp_path), **STATED, **changes}) as run,
    ):
        body(run)
    assert only_commit(tmp_path)["status"] == "failed"
    return str(told.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"loss": 1.0},
            "run.step needs batch_size=, the samples that all workers ate in this step, and got none after step 0: "
            "give run.step(loss=..., batch_size=32). It is stated, never guessed.",
        ),
        (
            {"batch_size": 32},
            "run.step needs loss=, the mean loss of this process's part of the batch, and got none after step 0: give "
            "run.step(loss=..., batch_size=32).",
        ),
        ({}, "run.step needs batch_size="),
        ({"loss": 1.0, "batch_size": "32"}, "Step 1 ate '32' samples and 32 were stated"),
        ({"loss": "low", "batch_size": 32}, "loss is 'low': give a number, or a tensor of one."),
    ],
)
def test_a_step_that_does_not_say_what_it_ate_and_lost_is_refused(tmp_path, arguments, said):
    assert failing(tmp_path, lambda run: run.step(**arguments)).startswith(said)


def test_a_step_of_another_batch_size_is_refused(tmp_path):
    said = failing(tmp_path, lambda run: run.step(loss=1.0, batch_size=20))
    assert said.startswith("Step 1 ate 20 samples and 32 were stated")


@pytest.mark.parametrize(("step", "said"), [(1, "went backwards: got step 1 after step 1"), (3, "left steps out")])
def test_steps_go_up_by_one(tmp_path, step, said):
    def body(run):
        run.step(loss=1.0, batch_size=32, step=1)
        run.step(loss=1.0, batch_size=32, step=step)

    assert said in failing(tmp_path, body)


def test_watching_after_the_first_step_is_too_late(tmp_path):
    def body(run):
        run.step(loss=1.0, batch_size=32)
        run.watch(network())

    assert "came after step 1: call it before the first step" in failing(tmp_path, body)


def test_a_loss_of_many_numbers_is_refused(tmp_path):
    assert "loss of shape (4,)" in failing(tmp_path, lambda run: run.step(loss=torch.ones(4), batch_size=32))


def test_a_target_whose_metric_is_never_reported_is_told_at_the_end(tmp_path):
    def body(run):
        while not run.should_stop:
            run.step(loss=1.0, batch_size=32)
        run.evaluate(val_los=0.1)

    said = failing(tmp_path, body, limit_samples=320)
    assert said == "A target is on val_loss and no evaluation reported it: call run.evaluate(val_loss=...)."


def test_a_script_that_takes_no_step_is_told(tmp_path):
    assert "never called run.step" in failing(tmp_path, lambda run: None)


def test_two_writers_of_one_trial_are_one_too_many(tmp_path):
    with scaleexp.track(storage=str(tmp_path), **{**STATED, "targets": []}) as run:
        run.step(loss=1.0, batch_size=32)
        script = f"import scaleexp; scaleexp.track(storage={str(tmp_path)!r}, **{STATED!r}).begin()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert "is being run by process" in done.stderr.splitlines()[-1]
        with pytest.raises(StorageError, match="is being run by process"):
            scaleexp.track(storage=str(tmp_path), **STATED).begin()
        run.step(loss=1.0, batch_size=32)
    assert len(rows(tmp_path, "steps")) == 2


def test_a_trial_that_has_ended_does_not_run_again(tmp_path):
    train(tmp_path)
    with pytest.raises(ConfigError, match=r"has ended \(reached at step \d+\): give another storage="):
        train(tmp_path)


def test_a_trial_that_has_ended_is_not_overwritten_by_a_script_whose_checkpoint_is_gone(tmp_path):
    train(tmp_path)
    with pytest.raises(ConfigError, match=r"has ended \(reached at step \d+\): give another storage="):
        train(tmp_path, resume_step=0)


def test_a_script_under_a_study_trains_one_trial(planned, tmp_path, monkeypatch):
    (trial,) = planned.plan.trials
    with lease.held(Store(tmp_path)) as fence:
        open_study(planned, tmp_path)
        told = told_to(trial, planned, tmp_path, fence=fence)
        monkeypatch.setenv("SCALEEXP_TRIAL", told.to_env()["SCALEEXP_TRIAL"])
        with scaleexp.track() as run:
            run.step(loss=float("nan"), batch_size=32)
        with pytest.raises(ConfigError, match=r"diverged at step 1\) in this run of the study: call .*track once"):
            scaleexp.track().begin()
    assert last_commit(Store(tmp_path), trial.key)["attempt"] == 0


def test_a_stop_that_comes_before_the_first_step_is_no_failure(planned, tmp_path, monkeypatch):
    trial = past_its_deadline(planned, tmp_path, monkeypatch)
    with scaleexp.track() as run:
        assert run.should_stop
    commit = last_commit(Store(tmp_path), trial.key)
    assert (commit["status"], commit["cause"]) == ("stopped", "limits.wall_s = 1")


def test_a_run_that_has_not_begun_says_so(tmp_path):
    run = scaleexp.track(storage=str(tmp_path), **STATED)
    for call in (lambda: run.step(loss=1.0, batch_size=32), lambda: run.should_stop, lambda: run.watch(network())):
        with pytest.raises(ConfigError, match=r"has not begun: write `with scaleexp.track\(...\) as run:`"):
            call()


def test_what_comes_after_the_end_of_a_run_is_refused_and_not_lost(tmp_path):
    run = train(tmp_path, until=3, targets=[])
    for call in (lambda: run.step(loss=1.0, batch_size=32), lambda: run.evaluate(val_loss=1.0), run.commit):
        with pytest.raises(ConfigError, match="was closed after step 3"):
            call()
    run.close()
    assert run.steps == 3


@pytest.mark.parametrize(("changes", "what"), [({"unit": "token"}, "unit"), ({"targets": []}, "targets")])
def test_a_directory_holds_trials_of_one_kind(tmp_path, changes, what):
    train(tmp_path, until=2, targets=STATED["targets"])
    with pytest.raises(ConfigError, match=f"holds a study with {what}"):
        train(tmp_path, **{"batch_size": 64, **changes})


def test_a_directory_of_another_study_is_refused(planned, tmp_path):
    open_study(planned, tmp_path)
    with pytest.raises(ConfigError, match="which `scaleexp run` planned: give another storage="):
        train(tmp_path)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"batch_size": 64}, "states batch_size=64 and the study 'quickstart' planned 32"),
        ({"workers": 2}, "states workers=2 and the study 'quickstart' planned 1"),
        ({"lr": 0.2}, "states lr=0.2 and the study 'quickstart' planned 0.1"),
        ({"targets": ["val_loss <= 9"]}, "are not those of the study"),
    ],
)
def test_what_a_script_states_and_a_study_planned_agree_or_the_trial_fails(
    planned, tmp_path, monkeypatch, stated, said
):
    (trial,) = planned.plan.trials
    open_study(planned, tmp_path)
    monkeypatch.setenv("SCALEEXP_TRIAL", told_to(trial, planned, tmp_path).to_env()["SCALEEXP_TRIAL"])
    with pytest.raises(ConfigError, match=said):
        scaleexp.track(**stated)
    commit = last_commit(Store(tmp_path), trial.key)
    assert commit["status"] == "failed"
    assert said in commit["cause"]


def test_a_script_under_a_study_that_ends_too_early_fails_its_trial(planned, tmp_path, monkeypatch):
    (trial,) = planned.plan.trials
    open_study(planned, tmp_path)
    monkeypatch.setenv("SCALEEXP_TRIAL", told_to(trial, planned, tmp_path).to_env()["SCALEEXP_TRIAL"])
    with pytest.raises(ConfigError, match=r"train until run.should_stop says so"), scaleexp.track() as run:
        run.step(loss=1.0, batch_size=32)
    assert last_commit(Store(tmp_path), trial.key)["status"] == "failed"
    with pytest.raises(ConfigError, match="Step 1 ate 16 samples and 32 were planned"), scaleexp.track() as run:
        run.step(loss=1.0, batch_size=16)


def test_importing_the_package_loads_no_heavy_library():
    script = "import sys, scaleexp; print({'torch', 'ray', 'pyarrow', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr
