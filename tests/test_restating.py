"""Who does not train says how a trial stands, and buries nothing that a worker committed meanwhile."""

from scaleexp import restating
from scaleexp.commits import commit_files, last_commit
from scaleexp.restating import record_failure, record_stop
from scaleexp.storage import Store
from tests.one_log import evaluated, log


def test_a_trial_under_way_stands_as_stopped_where_it_was_and_one_that_ended_stays(tmp_path):
    own = log(tmp_path)
    evaluated(own, 1)
    own.commit(step=1, samples=4, status="running")
    record_stop(Store(tmp_path), ["t", "not begun"], "limits.usd = 1", fence=None)
    commit = last_commit(Store(tmp_path), "t")
    assert (commit["status"], commit["cause"], commit["step"], len(commit["segments"])) == (
        "stopped",
        "limits.usd = 1",
        1,
        1,
    )
    assert last_commit(Store(tmp_path), "not begun") is None
    record_failure(Store(tmp_path), ["t", "not begun"], "no room", fence=None)
    assert [last_commit(Store(tmp_path), k)["status"] for k in ("t", "not begun")] == ["failed", "failed"]


def test_a_worker_that_ends_the_trial_between_the_look_and_the_commit_has_the_last_word(tmp_path, monkeypatch):
    own = log(tmp_path)
    evaluated(own, 1)
    own.commit(step=1, samples=4, status="running")
    real, looked = commit_files, []

    def look(store, key):
        found = real(store, key)
        if not looked:
            looked.append(key)
            evaluated(own, 2)
            own.commit(step=2, samples=8, status="limit")
        return found

    monkeypatch.setattr(restating, "commit_files", look)
    record_stop(Store(tmp_path), ["t"], "limits.usd = 1", fence=None)
    commit = last_commit(Store(tmp_path), "t")
    assert (commit["status"], commit["step"], commit["number"]) == ("limit", 2, 3), "told twice, and nothing after it"


def test_a_trial_that_ended_in_an_earlier_run_and_was_to_go_further_fails_where_it_stands(tmp_path):
    """A limit that was raised since makes it unfinished: that its process died is no success."""
    own = log(tmp_path, fence=1)
    own.commit(step=1, samples=4, status="limit")
    record_failure(Store(tmp_path), ["t"], "no room", fence=1)
    assert last_commit(Store(tmp_path), "t")["status"] == "limit", "it ended in this run"
    record_failure(Store(tmp_path), ["t"], "no room", fence=2)
    commit = last_commit(Store(tmp_path), "t")
    assert (commit["status"], commit["cause"], commit["fence"], commit["step"]) == ("failed", "no room", 2, 1)
