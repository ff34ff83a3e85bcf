"""`scaleexp status` and `scaleexp stop`: what a study directory says about itself."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import pytest
from click.testing import CliRunner

from scaleexp import lease
from scaleexp.cli import cli
from scaleexp.config import load_study
from scaleexp.errors import ConfigError, StorageError
from scaleexp.execute import run_packed
from scaleexp.launch.runner import open_study, prepare
from scaleexp.status import rendered, status_of
from scaleexp.storage import Store
from tests.without_ray import assigned

SETS = ["workload={name: quadratic, dimensions: 4}", "workers=[2, 4]", "seeds=[0, 1]", "limits.samples=3200"]


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """A study of which the trials of one batch size have ended."""
    root = tmp_path_factory.mktemp("study")
    prepared = prepare(load_study("quadratic", SETS))
    store = open_study(prepared, root)
    with lease.held(store) as fence:
        work = assigned(prepared, root, fence=fence)
        batches = sorted({t.batch_size for t in prepared.plan.trials})
        run_packed(work, [t for t in prepared.plan.trials if t.batch_size == batches[0]], threads=1)
    return root, prepared.plan.trials


def json_of(*arguments):
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.output)


def test_every_trial_of_the_plan_has_a_row_and_the_json_is_as_its_schema_says(half_done):
    root, trials = half_done
    document = json_of("status", str(root), "--json")
    jsonschema.validate(document, json.loads(files("scaleexp").joinpath("schemas/status.json").read_text()))
    assert [row["key"] for row in document["rows"]] == [t.key for t in trials]
    assert sum(document["trials"].values()) == len(trials)
    ended = [r for r in document["rows"] if r["status"] in ("reached", "limit", "diverged")]
    assert {r["batch_size"] for r in ended} == {min(t.batch_size for t in trials)}
    assert all(r["samples"] == r["step"] * r["batch_size"] > 0 for r in ended)
    assert document["trials"]["waiting"] == len(trials) - len(ended)
    assert document["driver"]["running"] is False
    assert document["eta_s"] is None, "nobody runs it"


def test_the_time_left_is_that_of_the_samples_to_come_at_the_pace_so_far(half_done):
    root, trials = half_done
    store = Store(root)
    with lease.held(store) as number:
        since = store.read_json(f"lease/{number:04d}.json")["since"]
        assert status_of(store, now=since + 10)["eta_s"] is None, "this driver has committed nothing"
    first = status_of(store)
    ended = [r["samples"] for r in first["rows"] if r["status"] != "waiting"]
    since = store.read_json("lease/0001.json")["since"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "newest", lambda store: 1)
        patch.setattr(lease, "may_live", lambda store, number: True)
        eta = status_of(store, now=since + 10)["eta_s"]
    usual = sum(ended) / len(ended)
    assert eta == pytest.approx(10 * usual * (len(trials) - len(ended)) / sum(ended))


def test_a_person_reads_one_line_per_batch_and_who_runs_it(half_done):
    root, trials = half_done
    text = rendered(status_of(Store(root)), width=100)
    lines = text.splitlines()
    assert lines[0].startswith("quadratic: ")
    assert "trials ended; nobody runs it (last was process" in lines[1]
    rows = [line.split() for line in lines if line.strip() and line.split()[0].isdigit()]
    assert [int(r[0]) for r in rows] == sorted({t.batch_size for t in trials})
    assert max(map(len, lines[2:])) <= 100
    with lease.held(Store(root)):
        lease.request_stop(Store(root))
        assert "stopping by process" in rendered(status_of(Store(root)), width=100)


def test_no_study_and_nobody_to_stop_are_said_in_a_sentence(tmp_path):
    for command, error, said in (("status", StorageError, "holds no study"), ("stop", ConfigError, "nothing to stop")):
        result = CliRunner().invoke(cli, [command, str(tmp_path)])
        assert isinstance(result.exception, error)
        assert said in str(result.exception)
    assert list(tmp_path.iterdir()) == []
