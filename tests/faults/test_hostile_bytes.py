"""Bytes in the place of a checkpoint or a segment run nothing and allocate nothing, and no code of ours lets them."""

from __future__ import annotations

import ast
import hashlib
import io
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from scaleexp import schema, segment
from scaleexp.checkpoint import decode
from scaleexp.errors import CorruptError
from scaleexp.resume import standing
from scaleexp.storage import Store
from tests.faults.small_study import rewritten
from tests.test_layers import MODULES


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


class Pickled:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def bound_anew(root: Path, key: str, content: bytes) -> None:
    """Another checkpoint, with the sha256 that it then has."""
    commit = Store(root).read_json(f"trials/{key}/commits/0002.json")
    (root / "trials" / key / commit["checkpoint"]["file"]).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewritten(root, f"trials/{key}/commits/0002.json", lambda c: c["checkpoint"].update(sha256=digest))


@pytest.mark.parametrize("how", ["pickle", "torch", "sha256"])
def test_a_pickle_in_a_checkpoints_place_runs_nothing(interrupted, tmp_path, how):
    root, trial = interrupted
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"x": Pickled(mark)}, buffer)
    content = buffer.getvalue() if how == "torch" else pickle.dumps(Pickled(mark))
    if how == "sha256":  # not even looked at
        (root / "trials" / trial.key / "checkpoints" / "a000-0002.pt").write_bytes(content)
        assert standing(Store(root), trial).step == 0
    else:
        bound_anew(root, trial.key, content)
        with pytest.raises(CorruptError, match="a checkpoint cannot be read"):
            standing(Store(root), trial).decoded()
        with pytest.raises(CorruptError):
            decode(content)
    assert not mark.exists()


def varint(value: int) -> bytes:
    """A 64-bit integer as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    value, out = value << 1, b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def with_declared_rows(content: bytes, rows: int, declared: int) -> bytes:
    """A Parquet file whose footer claims another number of rows, wherever it says it."""
    (size,) = struct.unpack("<I", content[-8:-4])
    footer = content[-8 - size : -8]
    assert footer.count(varint(rows)) >= 2
    footer = footer.replace(varint(rows), varint(declared))
    return content[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def absurd_segment() -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"value": [0.5] * 12345, "metric": ["x"] * 12345}), sink)
    return with_declared_rows(sink.getvalue().to_pybytes(), 12345, 10**12)


def test_a_parquet_file_that_declares_a_million_million_rows_allocates_nothing(tmp_path):
    content = absurd_segment()
    assert pq.read_metadata(io.BytesIO(content)).num_rows == 10**12
    (tmp_path / "x.parquet").write_bytes(content)
    code = (
        "import sys, pathlib, pyarrow as pa\nfrom scaleexp import segment\nfrom scaleexp.errors import CorruptError\n"
        "content = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "for rows in (10**12, 12345):\n"
        "    try: segment.rows(content, {'file': 'x', 'table': 'evals', 'sha256': '', 'rows': rows}, ['value'], 'x')\n"
        "    except CorruptError as error: print(error)\n"
        "print(pa.default_memory_pool().max_memory())\n"
    )
    limit = 8 * 2**30  # of addresses: what Python and Arrow take for themselves, and far from 10^12 rows

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.parquet")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=limited,
    )
    first, second, allocated = done.stdout.splitlines()
    assert "declares 1,000,000,000,000 rows" in first
    assert "and its commit 12,345" in second
    assert int(allocated) < 2**20


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 9, b"PAR1\xff\xff\xff\x7fPAR1", bytes(range(256)) * 40])
def test_what_is_no_parquet_file_is_refused(content):
    reference: schema.SegmentRef = {"file": "x", "table": "evals", "sha256": "", "rows": 1}
    with pytest.raises(CorruptError, match="no readable Parquet"):
        segment.rows(content, reference, ["value"], "x")


def test_a_segment_of_another_length_than_its_commit_says_is_refused():
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"value": [0.5, 0.25]}), sink)
    content = sink.getvalue().to_pybytes()
    reference: schema.SegmentRef = {"file": "x", "table": "evals", "sha256": "", "rows": 2}
    assert segment.rows(content, reference, ["value"], "x")["value"].to_pylist() == [0.5, 0.25]
    with pytest.raises(CorruptError, match="declares 2 rows"):
        segment.rows(content, {**reference, "rows": 1}, ["value"], "x")


# Code


def risky(tree: ast.AST):
    """Calls that could run what they read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in ("pickle", "dill", "cloudpickle", "shelve"))
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        last = called.rpartition(".")[2]
        if called in ("eval", "exec", "compile", "__import__") or last in (
            "unsafe_load",
            "full_load",
            "unsafe_load_all",
        ):
            yield called
        if called.startswith("yaml.") and last in ("load", "load_all") and keywords.get("Loader") != "_StrictLoader":
            yield called
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield called
        if last in ("load", "loads", "Unpickler") and "pickle" in called:
            yield called
        if (
            last in ("load", "read_array")
            and called.startswith(("np.", "numpy."))
            and keywords.get("allow_pickle") == "True"
        ):
            yield called


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_that_is_read_is_run(module):
    assert list(risky(ast.parse(MODULES[module].read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "yaml.load(x)",
        "yaml.load(x, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(x)",
        "eval(x)",
        "exec(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_a_planted_risk_is_seen(line):
    assert list(risky(ast.parse(line)))
    assert not list(risky(ast.parse("torch.load(x, weights_only=True)\nyaml.load(x, Loader=_StrictLoader)")))
