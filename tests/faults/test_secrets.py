"""Nobody's secrets reach what a study writes, whatever a workload's author, an environment or an address says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from analysis.report import write_report
from analysis.study import analyse
from scaleexp.errors import StorageError
from scaleexp.redact import redact
from scaleexp.storage import Store
from scaleexp.workloads.quadratic import Quadratic
from tests.faults.small_study import prepared, run

CANARY = "canary-4f1d9a7be2"
OTHER_CANARY = "canary-77c05e31d8"


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


class Telling(Quadratic):
    """Raises in the middle of training, and tells all it knows."""

    def batch(self, data_seed, start, stop):
        if stop > 40:
            secrets = f"{os.environ['AWS_SECRET_ACCESS_KEY']} {os.environ['HF_TOKEN']}"
            raise RuntimeError(
                f"GET https://me:hunter2@host/data with {secrets} and password=s3cr3t-v4lue failed for {CANARY}"
            )
        return super().batch(data_seed, start, stop)


def everything_written(root: Path) -> bytes:
    return b"".join(f.read_bytes() + str(f).encode() for f in sorted(root.rglob("*")) if f.is_file())


def test_secrets_reach_no_file_that_a_study_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", OTHER_CANARY)
    workload = "workload={name: 'tests.faults.test_secrets:Telling', dimensions: 4}"
    question = f"question=Is https://me:{CANARY}@host/data of {OTHER_CANARY} enough?"
    study = prepared(workload, question)
    with pytest.raises(RuntimeError, match=CANARY):
        run(study, tmp_path / "study")
    key = study.plan.trials[0].key
    commit = Store(tmp_path / "study").read_json(f"trials/{key}/commits/0002.json")
    assert commit["status"] == "failed"
    assert "RuntimeError: GET https://***@host/data" in commit["cause"]
    assert "[HF_TOKEN]" in commit["cause"]
    monkeypatch.setattr("tests.faults.test_secrets.Telling.batch", Quadratic.batch)
    run(study, tmp_path / "study")
    page = write_report(analyse(tmp_path / "study"), tmp_path / "study" / "report.html").read_text()
    assert "https://***@host/data" in page
    written = everything_written(tmp_path / "study")
    assert CANARY.encode() not in written
    assert OTHER_CANARY.encode() not in written
    assert all(f"{name}" not in written.decode(errors="ignore") for name in ("hunter2", "s3cr3t-v4lue"))


def test_an_error_on_the_terminal_keeps_secrets_too(monkeypatch, capsys):
    from scaleexp.cli import _fail

    monkeypatch.setenv("HF_TOKEN", CANARY)
    with pytest.raises(SystemExit):
        _fail(StorageError(f"storage s3://me:{OTHER_CANARY}@bucket refused {CANARY}"))
    said = capsys.readouterr().err
    assert said == "error: storage s3://***@bucket refused [HF_TOKEN]\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB", None),
        ("KeyError: 'token' (after step 3)", None),
        ("the loss of 512 tokens=512 is nan", None),
        ("see https://example.org/a@b", None),
        ("mail me@example.org", None),
        ("postgres://u:p@ss@db/x", "postgres://***@db/x"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("api_key='abcdef123'", "api_key='***'"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
    ],
)
def test_what_is_no_secret_stays(text, kept):
    assert redact(text, {}) == (text if kept is None else kept)
    environment = {"HF_TOKEN": "short", "PATH": "/usr/bin", "MODEL_NAME": "quadratic", "KEY_FILE": "12345678"}
    assert redact(text, environment) == redact(text, {})


def test_redaction_takes_time_in_proportion_to_the_text():
    for text in ("a" * 10**5, "token" * 20000, "a://" * 25000, "x=" * 50000):
        assert len(re.findall(".", redact(text, {}))) <= 2 * len(text)
