"""Segments of many commits become few, and nobody who reads the log can tell."""

from __future__ import annotations

import itertools
import shutil
import time

import pyarrow.parquet as pq
import pytest
import torch

import analysis.read
from scaleexp import schema
from scaleexp.commits import bound_bytes, commit_files, last_commit
from scaleexp.engines.packed import PackedEngine
from scaleexp.merging import FAN_IN
from scaleexp.storage import Store
from scaleexp.verify import verify, whole
from tests.faults.small_study import Interrupted, prepared, run

STEPS = 2 * FAN_IN * FAN_IN + 40
OFTEN = [f"limits.samples={16 * STEPS}", "base={batch_size: 16, lr: 0.0001}", "evaluation.every_samples=64"]


@pytest.fixture(scope="module")
def study():
    yield prepared(*OFTEN)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def at_once(study, tmp_path_factory):
    root = tmp_path_factory.mktemp("once")
    run(study, root)
    return root


@pytest.fixture(scope="module")
def under_way(study, tmp_path_factory):
    """Committed after every step, and interrupted before the last."""
    root = tmp_path_factory.mktemp("often")
    with pytest.raises(Interrupted):
        run(study, root, commit_after=range(1, STEPS), dies_at=STEPS)
    return root


def key(study):
    return study.plan.trials[0].key


def rows(root, table):
    """Deterministic columns, in the order in which a reader gets them."""
    log = analysis.read.load(root)
    assert log.problems == ()
    return analysis.read.read_table(log, table, schema.deterministic_columns(table), None).to_pylist()


def test_what_a_commit_lists_does_not_grow_with_the_number_of_commits(study, under_way):
    store = Store(under_way)
    assert len(commit_files(store, key(study))) == STEPS
    for table in schema.TABLES:
        own = [s for s in last_commit(store, key(study))["segments"] if s["table"] == table]
        assert len(own) <= 3 * (FAN_IN - 1), "at most so many of each level"


def test_every_row_is_read_once_and_in_order_however_often_it_was_committed(study, at_once, under_way, tmp_path):
    for table in ("steps", "evals"):
        assert rows(under_way, table) == [r for r in rows(at_once, table) if r["step"] < STEPS]
    assert [r["step"] for r in rows(under_way, "steps")] == list(range(1, STEPS))
    ended = shutil.copytree(under_way, tmp_path / "ended")
    run(study, ended)
    for table in ("steps", "evals"):
        assert rows(ended, table) == rows(at_once, table)
    assert verify(Store(ended)) == []


def test_merged_segments_have_the_columns_and_the_metadata_of_the_contract(study, under_way):
    commit = last_commit(Store(under_way), key(study))
    merged = [s for s in commit["segments"] if s.get("level")]
    assert {s["level"] for s in merged} >= {1, 2}
    for reference in merged:
        found = pq.read_schema(under_way / "trials" / key(study) / reference["file"])
        assert found.equals(schema.arrow_schema(reference["table"]), check_metadata=True)


def test_every_earlier_commit_stays_whole(study, under_way):
    store = Store(under_way)
    for file in commit_files(store, key(study)).values():
        for bound in store.read_json(file)["segments"]:
            bound_bytes(store, key(study), bound)
    assert whole(verify(store))


def test_a_trial_goes_on_after_its_segments_were_merged(study, at_once, tmp_path):
    with pytest.raises(Interrupted):
        run(study, tmp_path, commit_after=range(1, STEPS), dies_at=2 * FAN_IN + 5)
    with pytest.raises(Interrupted):
        run(study, tmp_path, commit_after=range(1, 3 * FAN_IN), dies_at=3 * FAN_IN)
    levels = [s.get("level", 0) for s in last_commit(Store(tmp_path), key(study))["segments"] if s["table"] == "steps"]
    assert levels == sorted(levels, reverse=True)
    assert max(levels) > 0
    run(study, tmp_path)
    for table in ("steps", "evals"):
        assert rows(tmp_path, table) == rows(at_once, table)


def test_a_segment_that_is_not_whole_is_never_merged_and_ends_no_training(study, tmp_path, monkeypatch):
    directory, real, steps = tmp_path / "trials" / key(study), PackedEngine.step, itertools.count(1)
    damaged = []

    def step(self, *args, **options):
        if next(steps) == FAN_IN // 2:
            while len(written := sorted((directory / "segments").glob("*-steps.parquet"))) < 2:
                time.sleep(0.01)  # the log is written beside training
            damaged.append(written[0])
            written[0].write_bytes(written[1].read_bytes())
        return real(self, *args, **options)

    monkeypatch.setattr(PackedEngine, "step", step)
    run(study, tmp_path, commit_after=range(1, 3 * FAN_IN))
    commit = last_commit(Store(tmp_path), key(study))
    assert commit["status"] == "limit"
    assert f"segments/{damaged[0].name}" in [s["file"] for s in commit["segments"]], "and it can be seen"
    assert not whole(verify(Store(tmp_path)))
