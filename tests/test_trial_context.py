"""What a script is told about its trial."""

import json
import subprocess
import sys

import pytest

import scaleexp
from scaleexp.errors import ConfigError
from scaleexp.trial_context import VARIABLE, TargetValue, TrialContext


def context(**changes):
    told = {
        "storage": "/runs/a",
        "key": "3f2a@script",
        "trial_id": "3f2a",
        "realisation": "script",
        "seed": 3,
        "batch_size": 64,
        "workers": 4,
        "micro_batch": 8,
        "accumulation_steps": 2,
        "lr": 0.1,
        "unit": "example",
        "limit_samples": 1000,
        "evaluate_every_samples": 128,
        "hyperparameters": {"name": "sgd", "momentum": 0.9},
        "targets": (TargetValue(metric="val_loss", value=0.3, direction="min"),),
        "deadline_unix_s": 1e9,
        "fence": 2,
    }
    return TrialContext(**{**told, **changes})


def variable(**changes):
    return {VARIABLE: json.dumps({**json.loads(context().to_env()[VARIABLE]), **changes})}


def test_what_a_process_reads_is_what_was_told():
    assert TrialContext.from_env(context().to_env()) == context()
    assert TrialContext.from_env({}) is None


def test_a_script_asks_for_it_by_one_name(monkeypatch):
    assert scaleexp.current_trial() is None
    monkeypatch.setenv(VARIABLE, context().to_env()[VARIABLE])
    assert scaleexp.current_trial() == context()


def test_a_field_of_a_later_version_that_has_a_default_here_is_no_problem():
    assert TrialContext.from_env(variable(colour="blue")) == context()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "later version"),
        ({"version": None}, "no version"),
        ({"seed": "0"}, "seed: Input should be a valid integer"),
        ({"unit": "word"}, "unit: Input should be 'example' or 'token'"),
        ({"workers": 3}, "micro_batch x accumulation_steps x workers = 8 x 2 x 3 = 48"),
        ({"workers": 0}, "workers is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"key": "other"}, "key is 'other'"),
        ({"targets": [{"metric": "val_loss"}]}, "targets.0.value: Field required"),
    ],
)
def test_nonsense_is_told_in_one_sentence(changes, said):
    with pytest.raises(ConfigError) as told:
        TrialContext.from_env(variable(**changes))
    assert said in str(told.value)
    assert VARIABLE in str(told.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_what_is_no_json_object_is_nonsense_too(text):
    with pytest.raises(ConfigError, match=VARIABLE):
        TrialContext.from_env({VARIABLE: text})


def test_neither_torch_nor_ray_is_loaded_for_it():
    script = "import sys, scaleexp; scaleexp.current_trial(); print({'torch', 'ray'} & set(sys.modules))"
    environment = {**__import__("os").environ, **context().to_env()}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr
