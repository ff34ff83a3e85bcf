"""A study written by the first version of the schema stays readable, with the values that it had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis.read import load, read_evals, read_steps
from analysis.study import analyse
from scaleexp import schema
from scaleexp.errors import CorruptError, StorageError
from scaleexp.resume import standing
from scaleexp.storage import Store, json_bytes
from scaleexp.trial import Trial
from scaleexp.verify import verify

GOLDEN = Path(__file__).with_name("golden") / "study-v1"
KEY = "a7f108984bab4cac"


@pytest.fixture(params=["study-v1", "study-v1-compacted"])
def golden(request):
    """Its rows in segments, and merged into one file for each table."""
    return GOLDEN.with_name(request.param)


def test_it_has_the_values_that_it_had(golden):
    log = load(golden)
    expected = json.loads(golden.with_suffix(".json").read_text())
    assert log.problems == ()
    assert verify(Store(golden)) == []
    found = {
        "steps": read_steps(log, list(expected["steps"])).to_pydict(),
        "evals": read_evals(log).select(list(expected["evals"])).to_pydict(),
    }
    assert found == expected
    assert found["steps"]["step"] == [1, 2, 3, 4, 5, 6]


def test_its_plan_facts_and_end_are_what_they_were(golden):
    log = load(golden)
    (trial,) = log.trials
    assert (log.plan["study"], log.plan["question"]) == ("quadratic", "Does this stay readable?")
    assert (trial.key, trial.facts["batch_size"], trial.facts["lr"], trial.facts["dtype"]) == (KEY, 16, 0.05, "float64")
    assert trial.commit is not None
    assert (trial.commit["status"], trial.commit["step"], trial.commit["number"]) == ("limit", 6, 3)
    assert analyse(log).fit is None


def test_its_state_can_be_gone_on_from(golden):
    facts = load(golden).trials[0].facts
    trial = Trial(
        trial_id=KEY,
        realisation="",
        seed=facts["seed"],
        batch_size=facts["batch_size"],
        workers=facts["workers"],
        micro_batch=facts["micro_batch"],
        accumulation_steps=facts["accumulation_steps"],
        lr=facts["lr"],
        engine="packed",
        processes=1,
        limit_samples=10**6,
        statistics_group=None,
    )
    found = standing(Store(golden), trial)
    assert (found.step, list(found.values)) == (6, ["expected_loss"])
    assert found.decoded()["model.x"].shape == (4,)


@pytest.mark.parametrize("file", ["plan/0001.json", f"trials/{KEY}/trial.json", f"trials/{KEY}/commits/0003.json"])
def test_a_newer_schema_is_refused_with_a_hint_to_upgrade(tmp_path, file):
    shutil.copytree(GOLDEN, tmp_path / "study")
    newer = Store(GOLDEN).read_json(file) | {"schema_version": schema.SCHEMA_VERSION + 1}
    (tmp_path / "study" / file).write_bytes(json_bytes(newer))
    with pytest.raises(StorageError, match=r"log version 2 and this installation reads up to 1: upgrade") as caught:
        load(tmp_path / "study")
    assert not isinstance(caught.value, CorruptError)
