"""Studies of a user's own script: what they may say, which trials they have, what each is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import scaleexp
from scaleexp.config import validate_study
from scaleexp.errors import ConfigError, InfeasibleError
from scaleexp.execute import Assignment
from scaleexp.growth import check_growth
from scaleexp.launch.cluster import Resources, check_feasible
from scaleexp.launch.opening import open_study, prepare
from scaleexp.launch.runner import _assignment
from scaleexp.own_script import OF_THE_TRIAL, filled, placeholders
from scaleexp.plan import make_plan
from scaleexp.plan_rows import plan_document
from scaleexp.plan_table import render_plan
from scaleexp.scripted_trial import arguments_of, context_of, told_by
from scaleexp.spending import Left
from scaleexp.storage import Store
from scaleexp.trial import planned_trial

DOCS = Path(scaleexp.__file__).parent / "docs"
PAGE = DOCS / "own_script.md"
COMMAND = {
    "name": "own",
    "question": "Does it scale?",
    "command": [
        "python",
        "train.py",
        "--lr",
        "{lr}",
        "--batch={worker_batch}",
        "--width={width}",
        "--wd={weight_decay}",
    ],
    "unit": "token",
    "hyperparameters": {"width": 32, "tied": True},
    "targets": [{"metric": "accuracy", "values": [0.5, 0.9], "direction": "max"}],
    "optimizer": {"name": "adamw"},
    "base": {"batch_size": 16, "lr": 0.01},
    "workers": [1, 2],
    "micro_batch": 4,
    "accumulation_steps": 2,
    "lr_multipliers": [0.5, 1, 2],
    "lr_rules": ["sqrt"],
    "seeds": [0, 1],
    "limits": {"samples": 1000},
    "evaluation": {"every_samples": 100},
}
ENTRYPOINT = {**COMMAND, "entrypoint": "tests.scripts.raw_loop:train"}
del ENTRYPOINT["command"]


def study(changes=None, of=COMMAND):
    raw = {**of, **(changes or {})}
    return validate_study({key: value for key, value in raw.items() if value != "leave out"}, "the file")


@pytest.fixture
def where_it_is(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("print(1)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_trials_are_those_of_the_grid_on_real_workers():
    plan = make_plan(study(), "")
    assert len(plan.trials) == 2 * 3 * 2
    assert {(t.engine, t.workers, t.processes, t.batch_size) for t in plan.trials} == {
        ("command", 1, 1, 8),
        ("command", 2, 2, 16),
    }
    assert {t.engine for t in make_plan(study(of=ENTRYPOINT), "").trials} == {"entrypoint"}


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ["python", "other.py"]},
        {"hyperparameters": {"width": 33, "tied": True}},
        {"unit": "example"},
        {"n_train": 5000},
        {"optimizer": {"name": "adamw", "weight_decay": 0.1}},
        {"warmup_samples": 100},
        {"dtype": "bf16"},
    ],
)
def test_another_declaration_is_another_trial(changes):
    if "hyperparameters" not in changes and "command" in changes:
        changes = {**changes, "hyperparameters": COMMAND["hyperparameters"]}
    ids = [{t.trial_id for t in make_plan(s, "").trials} for s in (study(), study(changes))]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"samples": 2000}},
        {"targets": [{"metric": "accuracy", "values": [0.95], "direction": "max"}]},
        {"cpus_per_worker": 2},
        {"question": "Really?"},
        {"checkpoint": {"every_s": 1}},
    ],
)
def test_what_changes_no_mathematics_changes_no_id(changes):
    ids = [{t.trial_id for t in make_plan(s, "").trials} for s in (study(), study(changes))]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": ["train.py", "{lrr}"]}, "no placeholder {lrr}; did you mean 'lr'? Known: lr, batch_size, "),
        ({"command": ["train.py", "{}"]}, "no placeholder {}; valid: accumulation_steps"),
        ({"command": ["train.py", "{lr:.1e}"]}, "a placeholder takes no format"),
        ({"command": ["train.py", "{lr"]}, "a brace that is meant as such is written twice"),
        ({"command": []}, "command is []"),
        ({"command": "train.py {lr}"}, "must be a list"),
        ({"entrypoint": "a:b"}, "say either entrypoint or command"),
        ({"workload": {"name": "quadratic"}}, "say either a workload or command"),
        ({"command": "leave out"}, "'workload' is missing: Data, model and loss; or say entrypoint or command instead"),
        ({"command": "leave out", "entrypoint": "train"}, "it is written as module:function"),
        ({"unit": "leave out"}, "unit is missing"),
        ({"unit": "word"}, "unit"),
        ({"batch_norm": "worker"}, "batch_norm says how a workload is trained, and command trains by itself"),
        ({"deterministic": True}, "deterministic says"),
        ({"engine": "ddp"}, "engine says"),
        ({"compile": "always"}, "compile says"),
        ({"realisations": [{"engine": "ddp", "workers": 2, "batch_size": 16}]}, "realisations says"),
        ({"noise": {"shards": 4}}, "noise.shards and noise.per_layer are chosen in the script"),
        ({"targets": [{"metric": "accuracy", "values": [0.9]}]}, "target accuracy: say direction: min or max"),
        ({"hyperparameters": {"lr": 0.1}}, "lr is said elsewhere"),
        ({"hyperparameters": {"beta1": 0.1}}, "beta1 is said elsewhere"),
        ({"hyperparameters": {"a-b": 0.1}}, "'a-b' is no name"),
        ({"hyperparameters": {"width": None}}, "hyperparameters.width: it is null"),
        ({"hyperparameters": {"width": [1, 2]}}, "an option is a number"),
        ({"workload": {"name": "quadratic"}, "command": "leave out"}, "unit is for studies of a script"),
        ({"workload": {"name": "command"}, "command": "leave out"}, "command is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(changes, said):
    with pytest.raises(ConfigError) as told:
        study(changes)
    assert said in str(told.value)
    assert str(told.value).count("\n") == 0


def test_a_workload_says_which_direction_is_better_itself():
    raw = {
        "workload": {"name": "quadratic"},
        "command": "leave out",
        "unit": "leave out",
        "hyperparameters": "leave out",
    }
    with pytest.raises(ConfigError, match="the workload says which direction is better"):
        study(raw)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": ["no-such-program"]}, "There is no program 'no-such-program' to start"),
        (
            {"command": ["train.py", "{lr}"]},
            r"no program 'train.py' to start .*write python before it, as in \[python, ",
        ),
        ({"command": ["python", "trian.py"]}, "There is no file 'trian.py' in"),
        ({"n_train": 10}, "The batch of 16 samples is larger than the training set of 10"),
        ({"command": "leave out", "entrypoint": "train:main"}, "Cannot load the entrypoint 'train:main'"),
        ({"command": "leave out", "entrypoint": "math:pi"}, "The entrypoint 'math:pi' is no function"),
    ],
)
def test_a_script_that_is_not_there_is_refused_before_anything_starts(where_it_is, changes, said):
    with pytest.raises(ConfigError, match=said):
        prepare(study(changes))


def test_its_plan_says_what_is_not_known(where_it_is):
    prepared = prepare(study())
    document = plan_document(prepared.plan, prepared.study)
    assert document["seconds_at_most"] is None
    assert "time: unknown until the first trial has ended" in render_plan(document)
    assert document["workload"]["command"] == COMMAND["command"]


def test_a_study_of_a_script_is_stored_and_goes_on(where_it_is, tmp_path):
    prepared = prepare(study())
    assert prepared.code["file"] == "train.py"
    assert len(prepared.code["sha256"]) == 64
    store = open_study(prepared, tmp_path / "study")
    open_study(prepared, tmp_path / "study")
    plan = store.read_json("plan/0001.json")
    assert plan["unit"] == "token"
    assert plan["targets"] == [{"metric": "accuracy", "values": [0.5, 0.9], "direction": "max"}]
    assert store.names("plan") == ["0001.json"]
    more = prepare(study({"limits": {"samples": 2000}, "seeds": [0, 1, 2], "cpus_per_worker": 2}))
    open_study(more, tmp_path / "study")
    with pytest.raises(ConfigError, match=r"hyperparameters\.width \(32 there, 64 here\)"):
        open_study(prepare(study({"hyperparameters": {"width": 64, "tied": True}})), tmp_path / "study")


ONLY_OF_SCRIPTS = ("entrypoint", "command", "unit", "n_train", "hyperparameters", "cpus_per_worker")
NONE_OF_A_SCRIPT = {"workload": {"name": "quadratic"}, "targets": [], **dict.fromkeys(ONLY_OF_SCRIPTS, "leave out")}


def test_studies_of_before_scripts_go_on():
    """Fields that did not exist when a study was written are no difference."""
    held = study(NONE_OF_A_SCRIPT).model_dump(mode="json")
    old = {name: value for name, value in held.items() if name not in ONLY_OF_SCRIPTS}
    plan = {"targets": [], "trials": [{"trial_id": "3f2a", "realisation": ""}]}
    check_growth(validate_study(old, "old").model_dump(mode="json"), held, plan, plan, where="there")


def assigned(of=COMMAND, **changes):
    own = study(changes, of)
    targets = ({"metric": "accuracy", "values": [0.5, 0.9], "direction": "max"},)
    return Assignment(
        study=own,
        targets=targets,
        root="/runs/own",
        git_sha=None,
        deadline=5.0,
        deadline_cause="limits.wall_s = 5",
        fence=3,
        code={"file": "train.py", "sha256": "0" * 64},
        directory="/home/me",
    )


def test_a_driver_hands_on_where_it_stands_and_which_code_it_found(where_it_is):
    begun = prepare(study())
    told = _assignment(begun, Store(where_it_is / "study"), 3, 0.0, Left())
    assert told.directory == str(where_it_is)
    assert told.code == begun.code
    assert told.code["file"] == "train.py"


def test_a_script_is_told_its_trial():
    assignment = assigned()
    trial = replace(make_plan(assignment.study, "").trials[-1], realisation="command-2")
    context = context_of(assignment, trial)
    assert (context.key, context.batch_size, context.workers, context.lr) == (trial.key, 16, 2, trial.lr)
    assert planned_trial(context) == planned_trial(trial)
    assert context.hyperparameters["width"] == 32
    assert context.hyperparameters["beta1"] == 0.9
    assert [(t.metric, t.value, t.direction) for t in context.targets] == [("accuracy", 0.9, "max")]
    assert (context.deadline_unix_s, context.deadline_cause, context.fence) == (5.0, "limits.wall_s = 5", 3)
    assert context.state_dir == f"/runs/own/trials/{trial.key}/state"
    assert context.code["sha256"] == "0" * 64
    json.dumps(context.to_env())


def test_a_command_is_told_every_digit():
    assignment = assigned(base={"batch_size": 16, "lr": 1 / 3})
    trial = next(t for t in make_plan(assignment.study, "").trials if t.workers == 1)
    arguments = arguments_of(assignment.study.command, context_of(assignment, trial))
    assert arguments[:2] == ["python", "train.py"]
    assert float(arguments[3]) == trial.lr
    assert arguments[4:] == ["--batch=8", "--width=32", "--wd=0.0"]


def test_what_stands_in_a_placeholder_is_one_argument_and_no_program():
    assert filled(["echo", "{text}"], {"text": "a b; rm -rf $HOME {lr}"}) == ["echo", "a b; rm -rf $HOME {lr}"]
    assert placeholders("{{lr}}") == []


@pytest.mark.parametrize(
    ("code", "lines", "said"),
    [
        (1, ["Traceback (most recent call last):", "ValueError: 3", ""], "ValueError: 3 (exit code 1)"),
        (
            1,
            ["[rank0]: RuntimeError: no such file", "torch.distributed.elastic.errors.ChildFailedError: ", "====="],
            "RuntimeError: no such file (exit code 1)",
        ),
        (2, ["usage: train.py", "train.py: error: unrecognized arguments: --lrr"], "unrecognized arguments: --lrr"),
        (3, [], "it printed nothing to stderr (exit code 3)"),
        (137, [], "it was ended by SIGKILL, as a machine does whose memory runs out"),
        (143, ["x"], "it was ended by SIGTERM"),
    ],
)
def test_the_cause_of_a_failure_is_what_the_script_said(code, lines, said):
    assert said in told_by(code, lines)


def test_a_command_that_no_node_can_hold_is_refused():
    own = make_plan(study({"workers": [1, 4]}), "").trials
    two_nodes = Resources(cpus=6, gpus=0, node_cpus=3, largest_cpus=3)
    with pytest.raises(InfeasibleError, match="4 workers, which need 4 CPUs, and the largest node of Ray has 3"):
        check_feasible(own, two_nodes)
    group = make_plan(study({"workers": [1, 4]}, of=ENTRYPOINT), "").trials
    check_feasible(group, two_nodes)
    with pytest.raises(InfeasibleError, match="need 8 CPUs, and Ray has 6"):
        check_feasible(group, two_nodes, 2)


def blocks(language, page=PAGE):
    """Code of a language on a page."""
    return [part.partition("```")[0] for part in page.read_text().split(f"```{language}\n")[1:]]


PAGES = [("own_script.md", "raw_loop.py"), ("huggingface.md", "hf_trainer.py")]


@pytest.mark.parametrize(("page", "script"), PAGES)
def test_the_script_of_a_page_is_the_one_that_the_tests_run(page, script):
    assert blocks("python", DOCS / page)[0] == (Path(__file__).parent / "scripts" / script).read_text()


@pytest.mark.parametrize(("page", "script"), PAGES)
def test_the_study_of_a_page_is_one(tmp_path, monkeypatch, page, script):
    monkeypatch.chdir(tmp_path)
    (tmp_path / script).write_text(blocks("python", DOCS / page)[0])
    prepared = prepare(validate_study(yaml.safe_load(blocks("yaml", DOCS / page)[0]), "the page"))
    assert {t.workers for t in prepared.plan.trials} == {1, 2}
    assert prepared.code["file"] == script


def test_every_placeholder_of_the_page_is_known_and_every_known_one_is_on_it():
    named = {
        name
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `{")
        for name in placeholders(line.split("|")[1])
    }
    assert set(OF_THE_TRIAL) <= named
    assert named - set(OF_THE_TRIAL) == {"weight_decay", "momentum", "beta1", "width"}


def test_the_small_gpt_needs_no_more_lines_than_the_page_says():
    script = (Path(__file__).parent / "scripts" / "tiny_gpt.py").read_text()
    own = [line for line in script.splitlines() if re.search(r"\brun\.|scaleexp\.track", line)]
    assert len(own) <= 6
