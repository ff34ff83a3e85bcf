"""`scaleexp status` and `scaleexp stop`: what a study directory says about itself."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from importlib.resources import files

import jsonschema
import pytest
from click.testing import CliRunner

from scaleexp import lease, status
from scaleexp.cli import cli
from scaleexp.config import load_study
from scaleexp.errors import ConfigError, StorageError
from scaleexp.execute import run_packed
from scaleexp.launch.runner import open_study, prepare
from scaleexp.status import status_of
from scaleexp.status_text import MOST_BATCHES, MOST_CAUSES, rendered
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
    assert lines[2].startswith(f"{sum(t.batch_size == 8 for t in trials)} ")
    assert lines[2].endswith(f"{sum(t.batch_size == 16 for t in trials)} waiting")
    rows = [line.split() for line in lines[3:] if line.split()[0].isdigit()]
    assert [int(r[0]) for r in rows] == sorted({t.batch_size for t in trials})
    assert max(map(len, lines[2:])) <= 100
    with lease.held(Store(root)):
        lease.request_stop(Store(root))
        assert "stopping by process" in rendered(status_of(Store(root)), width=100)


def test_the_time_left_of_what_goes_on_counts_only_what_this_run_has_done(tmp_path):
    """A trial of 1000 samples that an earlier driver left at 890, at 900 after 10 s: as long for each 10 to come."""
    driver = {"lease": 2, "running": True, "host": "here", "pid": 7, "stopping": False, "silent_s": None}
    rows = [{"status": "running", "samples": 900, "limit_samples": 1000}]
    commits = {"t": {"samples": 900, "began_samples": 890, "fence": 2}}
    assert status._eta_s(rows, commits, driver, 0.0, 10.0) == pytest.approx(100.0)


def document(statuses, batches):
    """A study whose trials have these statuses, on these batch sizes in turn; the cause of a failure is its place."""
    rows = [
        {
            "key": f"trial-{i}",
            "batch_size": batches[i % len(batches)],
            "workers": 1,
            "lr": 0.1,
            "seed": 0,
            "status": status,
            "step": 7,
            "samples": 7,
            "limit_samples": 100_000,
            "elapsed_s": 1.0,
            "cause": f"ValueError: number {i % 5} (after step {i})" if status == "failed" else "",
        }
        for i, status in enumerate(statuses)
    ]
    driver = {"lease": 1, "running": True, "host": "here", "pid": 7, "stopping": False, "silent_s": None}
    counted = dict(Counter(statuses))
    return {
        "study": "s",
        "question": "q?",
        "driver": driver,
        "trials": counted,
        "eta_s": None,
        "limits": [],
        "rows": rows,
    }


def test_of_a_thousand_trials_a_screenful_is_shown_and_everything_on_request():
    many = document([["reached", "running", "waiting", "failed"][i % 4] for i in range(1000)], range(1, 101))
    short, whole = (rendered(many, width=100, everything=e) for e in (False, True))
    assert len(short.splitlines()) <= 3 + 2 + MOST_BATCHES + 1 + MOST_CAUSES + 1
    assert "250 reached the target, 250 running, 250 failed, 250 waiting" in short
    assert f"and {100 - MOST_BATCHES} more batch sizes: --all shows them" in short
    assert "50 trials failed, as trial-3 did: ValueError: number 3\n" in short
    assert "and 100 more failed, of 2 other causes: --all shows them" in short
    assert "trial-999" not in short
    assert all(f" trial-{i} " in whole for i in range(1000))
    assert "--all" not in whole


def test_batch_sizes_where_something_failed_or_runs_are_shown_before_others():
    statuses = ["reached"] * 100
    statuses[70], statuses[90] = "failed", "running"
    lines = rendered(document(statuses, range(1, 101)), width=100).splitlines()
    shown = [int(line.split()[0]) for line in lines[5:] if line.split()[0].isdigit()]
    assert shown == [*range(1, MOST_BATCHES - 1), 71, 91]


@pytest.mark.parametrize(
    ("statuses", "said"),
    [(["waiting"] * 2, "0/2 trials ended; not started"), (["reached", "waiting"], "1/2 trials ended; nobody runs it")],
)
def test_a_study_without_a_driver_on_record_has_not_started_only_where_no_trial_has(statuses, said):
    assert said in rendered({**document(statuses, [4]), "driver": None}, width=100)


def test_one_failure_is_told_with_its_trial():
    text = rendered(document(["failed", "reached"], [4]), width=100)
    assert "trial trial-0 failed: ValueError: number 0" in text
    assert "--all" not in text


def test_no_study_and_nobody_to_stop_are_said_in_a_sentence(tmp_path):
    for command, error, said in (("status", StorageError, "holds no study"), ("stop", ConfigError, "nothing to stop")):
        result = CliRunner().invoke(cli, [command, str(tmp_path)])
        assert isinstance(result.exception, error)
        assert said in str(result.exception)
    assert list(tmp_path.iterdir()) == []


ELSEWHERE = {"host": "elsewhere", "pid": 1, "space": "another machine", "started": "1", "ttl_s": 30.0}


def test_a_driver_that_died_on_another_machine_runs_no_longer_than_its_lease(half_done, tmp_path):
    root = shutil.copytree(half_done[0], tmp_path / "left")
    store = Store(root)
    number = lease.newest(store) + 1
    store.write_json(f"lease/{number:04d}.json", ELSEWHERE)
    store.write_json(f"lease/{number:04d}.beat-000003", {"held_s": 18.0})
    assert status_of(store)["driver"]["running"]
    assert ", last sign of life 0." in rendered(status_of(store), width=100).splitlines()[1]
    for file in root.glob(f"lease/{number:04d}.*"):
        os.utime(file, (0, time.time() - 7400))
    assert not lease.request_stop(store)
    store.write_json(f"lease/{number:04d}.stop", {"asked_by": {}})
    document = json_of("status", str(root), "--json")
    jsonschema.validate(document, json.loads(files("scaleexp").joinpath("schemas/status.json").read_text()))
    assert document["driver"]["running"] is False
    assert document["driver"]["silent_s"] == pytest.approx(7400, abs=60)
    said = "process 1 on elsewhere gave its last sign of life 2h03m ago; the same `scaleexp run` command takes over"
    assert rendered(status_of(store), width=100).splitlines()[1].endswith(f"; nobody runs it: {said}")
    result = CliRunner().invoke(cli, ["stop", str(root)])
    assert str(result.exception).endswith(f"nothing to stop: {said}")


def test_a_lease_that_cannot_be_read_hides_no_trial(half_done, tmp_path):
    root, trials = half_done
    damaged = shutil.copytree(root, tmp_path / "damaged")
    number = lease.newest(Store(damaged))
    (damaged / "lease" / f"{number:04d}.json").write_text('{"ho')
    document = json_of("status", str(damaged), "--json")
    assert len(document["rows"]) == len(trials)
    assert document["driver"]["lease"] == number
