from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from scaleexp.config import load_study
from scaleexp.plan import make_plan
from scaleexp.progress import Watch, shown
from scaleexp.storage import Store

SETS = ["workers=[1, 8]", "base={batch_size: 4, lr: 0.1}", "lr_multipliers=[1]", "lr_rules=[sqrt]", "seeds=2"]


@pytest.fixture
def trials():
    study = load_study("quadratic", [*SETS, "worker_batch=4", "limits.samples=1000", "realisations=[]"])
    return make_plan(study, "0" * 64).trials


def begin(root: Path, trial) -> None:
    (root / "trials" / trial.key / "commits").mkdir(parents=True)


def end(root: Path, trial, samples: int, status: str = "reached") -> None:
    commits = root / "trials" / trial.key / "commits"
    number = len(list(commits.iterdir())) + 1
    commit = {"number": number, "status": status, "samples": samples}
    (commits / f"{number:04d}.json").write_text(json.dumps(commit))


def test_nothing_done_gives_no_eta(tmp_path, trials):
    watch = Watch(store=Store(tmp_path), trials=trials)
    watch.look()
    assert watch.line(3.0) == "0/4 trials done, 0 running, 3.0 s elapsed, ETA not known yet"


def test_eta_counts_running_trials_as_far_as_the_last_of_their_pack_that_ended(tmp_path, trials):
    small = [t for t in trials if t.batch_size == 4]
    for trial in small:
        begin(tmp_path, trial)
    end(tmp_path, small[0], 500)
    watch = Watch(store=Store(tmp_path), trials=small)
    watch.look()
    done, left = watch.work()
    assert left / done == pytest.approx(0.5)  # one trial at 500 and done, the other at 500 of 1,000
    assert watch.line(10.0) == "1/2 trials done, 1 running, 10.0 s elapsed, ETA 5.0 s"


def test_batches_that_have_not_begun_are_taken_to_need_what_others_needed(tmp_path, trials):
    small = [t for t in trials if t.batch_size == 4]
    for trial in small:
        begin(tmp_path, trial)
        end(tmp_path, trial, 250)
    watch = Watch(store=Store(tmp_path), trials=trials)
    watch.look()
    done, left = watch.work()
    per_sample = {4: 1 + 64 / 4 / 2, 32: 1 + 64 / 32 / 2}
    assert done == pytest.approx(2 * 250 * per_sample[4])
    assert left == pytest.approx(2 * 250 * per_sample[32])


def test_progress_without_a_terminal_is_plain_lines(tmp_path, trials):
    stream = io.StringIO()
    for trial in trials:
        begin(tmp_path, trial)
        end(tmp_path, trial, 1000, "limit")
    watch = Watch(store=Store(tmp_path), trials=trials)
    with shown(watch, stream):
        pass
    assert stream.getvalue().startswith("4/4 trials done, 0 running")
    assert "\x1b" not in stream.getvalue()
    assert watch.ended == {"limit": 4}


def test_what_an_earlier_run_left_unfinished_is_not_done(tmp_path, trials):
    for trial in trials:
        begin(tmp_path, trial)
        end(tmp_path, trial, 100, "stopped")
    watch = Watch.from_now(Store(tmp_path), trials)
    watch.look()
    assert watch.line(1.0).startswith("0/4 trials done, 0 running")
    end(tmp_path, trials[0], 1000, "limit")
    watch.look()
    assert watch.line(1.0).startswith("1/4 trials done, 0 running")


def test_a_trial_that_a_limit_stops_now_is_not_done(tmp_path, trials):
    for trial in trials:
        begin(tmp_path, trial)
    end(tmp_path, trials[0], 100, "stopped")
    end(tmp_path, trials[1], 100, "reached")
    watch = Watch(store=Store(tmp_path), trials=trials)
    watch.look()
    assert watch.line(1.0).startswith("1/4 trials done, 3 running")
    assert watch.ended == {"reached": 1}
