"""How many requests it takes to look at a study on an object store: what many trials cost is counted, not timed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

import analysis.read
from scaleexp.commits import last_commits
from scaleexp.errors import StorageError
from scaleexp.progress import Watch
from scaleexp.resume import unfinished
from scaleexp.status import status_of
from scaleexp.storage import Store
from tests.study_factory import write_study

LIST_A_FEW = 8
"""The plan and the leases, and the trials: not more with more trials, as long as a thousand files hold them."""


@pytest.fixture
def uploaded(tmp_path, broken):
    """uploaded(seeds) -> keys of the trials of a study with so many seeds, their store, and the proxy before it."""

    def put(seeds):
        root = write_study(tmp_path / f"{seeds}", batches=(16, 64), lrs_per_batch=1, seeds=seeds, diverged=False)
        store, proxy = broken([])
        behind = Store(f"{store.root}")
        for file in root.rglob("*"):
            if file.is_file():
                behind.write(str(file.relative_to(root)), file.read_bytes())
        proxy.seen.clear()
        return store.names("trials"), store, proxy

    return put


def requests(proxy, action):
    proxy.seen.clear()
    action()
    return len(proxy.seen)


def test_status_and_what_is_left_to_run_read_one_file_per_trial_and_list_the_study_once(uploaded):
    keys, store, proxy = uploaded(4)
    trials = [SimpleNamespace(key=key, batch_size=16, limit_samples=0) for key in keys]
    assert len(keys) >= 16
    assert requests(proxy, lambda: status_of(store)) <= len(keys) + LIST_A_FEW
    assert requests(proxy, lambda: unfinished(store, trials, ())) <= len(keys) + LIST_A_FEW


def test_a_look_at_trials_of_which_nothing_new_was_committed_reads_none_of_them(uploaded):
    keys, store, proxy = uploaded(4)
    watch = Watch.from_now(store, [SimpleNamespace(key=key) for key in keys])
    assert requests(proxy, watch.look) <= LIST_A_FEW


def test_reading_a_study_lists_it_once_and_asks_for_each_file_that_counts_once(uploaded):
    keys, store, proxy = uploaded(4)
    log = []
    files = sum(len(commit["segments"]) + 2 for commit in last_commits(store, keys).values())
    assert requests(proxy, lambda: log.append(analysis.read.load(store.root))) <= files + LIST_A_FEW
    evals = sum(s["table"] == "evals" for t in log[0].trials for s in t.commit["segments"])
    assert requests(proxy, lambda: analysis.read.read_evals(log[0])) <= evals


def test_of_a_few_trials_no_others_are_listed(uploaded):
    keys, store, proxy = uploaded(4)
    assert requests(proxy, lambda: last_commits(store, keys[:3])) == 6


def test_a_listing_of_more_than_a_thousand_files_is_whole(address):
    store = Store(address)
    threads = [
        threading.Thread(target=lambda k=k: [store.write(f"a/{k}/in/{i}", b"") for i in range(130)]) for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = store.listing("a", count=8 + 1)
    assert {len(names(f"a/{k}/in")) for k in range(8)} == {130}
    assert names("a/0") == []
    assert names("nowhere") == []


def test_where_one_of_many_files_cannot_be_read_that_is_told_and_the_rest_is_left(broken, uploaded):
    keys, store, proxy = uploaded(4)
    proxy.faults = iter([None] * (1 + len(keys) // 2) + [403] * 1000)
    with pytest.raises(StorageError, match="access was denied"):
        last_commits(store, keys)
