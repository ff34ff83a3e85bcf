"""The storage seam on object stores: what it does, what passes, what does not, and what an address may say."""

from __future__ import annotations

import base64
import itertools
import os
import sys
import threading
import time
from datetime import timedelta

import obstore
import pytest
from obstore.store import AzureStore, GCSStore, S3Store

from scaleexp import bucket as bucket_module
from scaleexp import clocks
from scaleexp.bucket import bucket
from scaleexp.errors import StorageError
from scaleexp.storage import Store

# The seam


def test_of_many_writers_of_one_name_one_wins_and_its_bytes_stay(address):
    def write(writer):
        try:
            Store(address).write("x", b"%d" % writer)
            won.append(writer)
        except FileExistsError:
            lost.append(writer)

    won, lost = [], []
    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert Store(address).read("x") == b"%d" % won[0]


def test_the_same_bytes_of_another_are_taken_too(address):
    Store(address).write("x", b"1")
    with pytest.raises(FileExistsError):
        Store(address).write("x", b"1")


def test_a_directory_is_listed_one_level_deep(address):
    store = Store(address)
    for name in ("trials/b@ddp/trial.json", "trials/a/commits/0002.json", "trials/a/commits/0001.json", "top"):
        store.write(name, b"")
    assert store.names("") == ["top", "trials"]
    assert store.names("trials") == ["a", "b@ddp"]
    assert store.names("trials/a/commits") == ["0001.json", "0002.json"]
    assert store.names("nowhere") == []
    assert Store(f"{address}-other").names("") == [], "a prefix is a directory, not the beginning of a name"


def test_what_was_written_is_read_until_it_is_removed(address):
    store, content = Store(address), bytes(range(256)) * 40_000  # 10 MB: still one request
    store.write("trials/a/x.bin", content)
    assert store.read("trials/a/x.bin") == content
    store.remove("trials/a/x.bin")
    store.remove("trials/a/x.bin")
    with pytest.raises(FileNotFoundError, match=f"{address}/trials/a/x.bin"):
        store.read("trials/a/x.bin")


def test_json_carries_its_checksum_there_too(address):
    Store(address).write_json("x.json", {"a": 1})
    assert Store(address).read_json("x.json") == {"a": 1}


def test_when_a_file_was_put_is_told_by_the_store(address):
    store = Store(address)
    store.write("lease/0001.json", b"")
    assert store.modified("lease/0001.json") == pytest.approx(time.time(), abs=60)
    with pytest.raises(FileNotFoundError, match=f"{address}/lease/0002.json"):
        store.modified("lease/0002.json")
    assert abs(clocks.ahead_s(store)) <= 2
    assert clocks.now(store, "lease") == pytest.approx(time.time(), abs=60)
    assert store.names("lease") == ["0001.json"]
    assert store.names("") == ["lease"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "trials/../../x"])
def test_names_do_not_lead_out_of_the_study(address, name):
    with pytest.raises(StorageError, match="leads out"):
        Store(address).write(name, b"")


# What passes, and what does not


@pytest.mark.parametrize("fault", ["drop", "swallow", 500, 503, 429, (400, "RequestTimeout")])
def test_a_put_whose_end_nobody_knows_is_done_once(broken, fault, caplog):
    store, proxy = broken([fault, fault])
    store.write("x", b"mine")
    assert store.read("x") == b"mine"
    assert proxy.seen.count("PUT") == 3
    assert "try 3 in" in caplog.text
    assert "done at try 3" in caplog.text


@pytest.mark.parametrize("fault", ["drop", "swallow", 503])
def test_a_retry_never_takes_the_file_of_another_for_its_own(broken, address, fault):
    Store(address).write("x", b"theirs")
    store, _ = broken([fault])
    with pytest.raises(FileExistsError):
        store.write("x", b"mine")
    assert store.read("x") == b"theirs"


def test_two_at_once_that_s3_refuses_both_try_again(broken):
    store, proxy = broken([(409, "ConditionalRequestConflict")])
    store.write("x", b"mine")
    assert proxy.seen == ["PUT", "GET", "PUT"]


@pytest.mark.parametrize("fault", ["drop", "swallow", 500, 503, 429])
def test_reading_listing_and_removing_try_again(broken, fault):
    store, _ = broken([None, fault, None, fault, None, fault, None])
    store.write("a/x", b"1")
    assert store.read("a/x") == b"1"
    assert store.names("a") == ["x"]
    store.remove("a/x")
    assert store.names("a") == []


def test_patience_ends(broken):
    store, proxy = broken(itertools.repeat(503), patience_s=0.3)
    with pytest.raises(StorageError, match=r"could not write s3://.*503( InternalError)?, and did not get better"):
        store.write("x", b"")
    assert len(proxy.seen) > 3


def test_a_store_that_never_answered_is_given_up_sooner(broken, monkeypatch):
    monkeypatch.setattr(bucket_module, "FIRST_PATIENCE_S", 0.2)
    store, _ = broken(itertools.repeat("drop"))
    with pytest.raises(StorageError, match="no answer, and did not get better"):
        store.names("")
    store, _ = broken(itertools.chain([None], itertools.repeat("drop", 12)))
    store.names("")
    store.names("")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((403, "AccessDenied"), r"access was denied \(403 AccessDenied\)"),
        ((403, "SignatureDoesNotMatch"), "access was denied"),
        ((401, "Unauthorized"), "access was denied"),
        ((403, "RequestTimeTooSkewed"), "this machine's clock is too far from the store's"),
        ((400, "ExpiredToken"), "access was denied"),
        ((404, "NoSuchBucket"), "there is no bucket 'studies'"),
        ((301, "PermanentRedirect"), "set AWS_REGION"),
        ((501, "NotImplemented"), "use another"),
        ((400, "Whatever"), "400 Whatever: check the address"),
    ],
)
def test_what_does_not_pass_is_told_at_once_and_without_secrets(broken, caplog, fault, said):
    for act in (lambda s: s.write("x", b""), lambda s: s.read("x"), lambda s: s.names(""), lambda s: s.remove("x")):
        store, proxy = broken([fault])
        with pytest.raises(StorageError, match=said) as caught:
            act(store)
        assert len(proxy.seen) == 1
        assert caught.value.__suppress_context__
        for secret in (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], "f00dfeed", "http://127"):
            assert secret not in str(caught.value) + caplog.text


def test_no_bucket_is_told_by_a_real_store():
    for act in (lambda s: s.write("x", b""), lambda s: s.read("x"), lambda s: s.names(""), lambda s: s.remove("x")):
        with pytest.raises(StorageError, match="there is no bucket 'nowhere-at-all'"):
            act(Store("s3://nowhere-at-all/x"))


def test_no_credentials_are_told_at_once():
    text = (
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1s - HTTP error: timed out"
    )
    own = bucket("s3://studies/never-asked")
    assert own._passing(Exception(text)) is None
    assert "no credentials were found" in own._cause(Exception(text), 0, "")
    own._answered = True
    assert own._passing(Exception(text)), "they were there before"


def test_an_address_over_http_that_was_not_allowed_is_told(monkeypatch, address):
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageError, match="check the address and the settings"):
        Store(address).names("")


# Addresses


@pytest.mark.parametrize(
    "root",
    ["http://host/study", "ftp://h/x", "hdfs://h/x", "https://me:hunter2@h/x?sig=hunter2", "memory://x", "s3a://b/x"],
)
def test_other_schemes_are_refused_in_one_sentence(root):
    with pytest.raises(StorageError, match="which this version cannot write safely") as caught:
        Store(root)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "root",
    ["s3://KEY:hunter2@b/x", "s3://b/x?sig=hunter2", "s3://b/x#hunter2", "s3:///x", "s3://b/../x", "s3://b:80/x"],
)
def test_an_address_holds_a_bucket_and_a_prefix_alone(root):
    with pytest.raises(StorageError, match="BUCKET/PREFIX and nothing more") as caught:
        Store(root)
    assert "hunter2" not in str(caught.value)


def test_slashes_of_an_address_do_not_matter(address):
    Store(f"{address}//sub/").write("x", b"1")
    assert Store(f"{address}/sub").read("x") == b"1"
    assert Store(f"{address}//sub/").root == f"{address}/sub"


def test_each_scheme_has_its_own_client_with_the_settings_of_the_environment(monkeypatch, server):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(bytes(32)).decode())
    found = {s: Store(f"{s}://place/team/x")._bucket._store for s in ("s3", "gs", "az")}
    assert {s: type(f) for s, f in found.items()} == {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    assert {f.prefix for f in found.values()} == {"team/x"}
    assert obstore.sign(found["s3"], "GET", "y", timedelta(seconds=1)).startswith(
        f"http://127.0.0.1:{server._port}/place/team/x/y?"
    )
    assert "place" in repr(found["gs"])
    signed = obstore.sign(found["az"], "GET", "x.json", timedelta(seconds=1))
    assert signed.startswith("https://account.blob.core.windows.net/place/team/x/x.json?")
    assert all(f.retry_config["max_retries"] == 0 for f in found.values()), "one place tries again"


def test_azure_without_an_account_is_told(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StorageError, match=r"az://nobody/x cannot be opened: .*ccount"):
        Store("az://nobody/x")


def test_a_missing_obstore_is_told_with_what_installs_it(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StorageError, match=r"pip install 'scaleexp\[cloud\]'"):
        Store(address)
