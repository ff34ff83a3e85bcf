"""An exception in a real worker: a trial's own fails it once, one of the storage ends the study; none is repeated."""

from __future__ import annotations

import re

import pytest

from scaleexp.config import load_study
from scaleexp.errors import CorruptError, StorageError, TrialsFailedError
from scaleexp.launch.runner import prepare, run_study
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.verify import verify
from tests.faults import small_study

SETS = [
    *small_study.SETS,
    "engine=ddp",
    "workers=[2]",
    "worker_batch=8",
    "lr_multipliers=[1, 2]",
    "limits.samples=320",
    "realisations=[]",
]


def starts(root, rank):
    """How often a process of the only group began, as its log says."""
    (log,) = root.glob(f"logs/0001/real-2-0/rank-{rank}.log")
    return len(re.findall(r"^--- .*: rank \d of trials ", log.read_text(), re.MULTILINE))


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_raises_in_any_process_fails_once_and_the_next_one_begins(tmp_path):
    study = prepare(load_study("quadratic", [*SETS, "workload={name: 'tests.plugin_workloads:BrokenOnOne'}"]))
    with pytest.raises(TrialsFailedError, match="2 of 2 trials failed; the first cause was 'MissingPixels: the data"):
        run_study(study, tmp_path / "study")
    commits = [last_commit(Store(tmp_path / "study"), trial.key) for trial in study.plan.trials]
    assert [c["status"] for c in commits] == ["failed", "failed"]
    assert {c["cause"] for c in commits} == {"MissingPixels: the data went missing (in process 1 of 2)"}
    assert starts(tmp_path / "study", rank=1) == 2, "one start for each trial that raised"
    assert [f for f in verify(Store(tmp_path / "study")) if f.kind == "corrupt"] == []


@pytest.mark.ray
@pytest.mark.slow
def test_what_the_storage_says_in_a_process_ends_the_study_as_a_storage_error_at_once(tmp_path):
    study, root = prepare(load_study("quadratic", SETS)), tmp_path / "study"
    facts = root / "trials" / study.plan.trials[0].key / "trial.json"
    facts.parent.mkdir(parents=True)
    facts.write_text("{")
    with pytest.raises(StorageError, match=r"CorruptError: .*trial\.json") as caught:
        run_study(study, root)
    assert caught.value.exit_code == CorruptError.exit_code == 5
    assert starts(root, rank=0) == 1
    assert last_commit(Store(root), study.plan.trials[0].key) is None
