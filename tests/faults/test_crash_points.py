"""The machine stops at every operation of a run: what was committed is there, and the run ends as if nothing had been.

After each crash only what was synced is left. The reader sees every committed step once and no other; what a commit
call had returned for is committed; the same command goes on and ends bit-identical to an undisturbed run.
"""

from __future__ import annotations

import itertools

import pytest
import torch

import analysis.read
from scaleexp import disk, schema
from scaleexp.checkpoint import decode
from scaleexp.config import load_study
from scaleexp.execute import run_packed
from scaleexp.launch.runner import open_study, prepare
from scaleexp.loop import Signal
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.faults.faulty_disk import Crash, FaultyDisk
from tests.without_ray import assigned

SETS = [
    "workload={name: quadratic, dimensions: 4}",
    "optimizer={name: adamw}",
    "workers=[4]",
    "base={batch_size: 16, lr: 0.05}",
    "seeds=[0]",
    "lr_multipliers=[1, 2]",
    "lr_rules=[none]",
    "limits.samples=176",
    "evaluation.every_samples=32",
    "targets=[{metric: expected_loss, values: [0.00001]}]",
    "noise.every_samples=64",
    "deterministic=true",
]
COMMIT_AFTER = (2, 5, 6)
LAST_STEP = 11


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def prepared():
    return prepare(load_study("quadratic", SETS))


def run(prepared, root, patch, device=disk.LOCAL):
    """The study without Ray, on a disk whose operations come in the same order each time."""
    patch.setattr(disk, "LOCAL", device)
    patch.setattr("scaleexp.writer.LANES", 1)
    calls = itertools.count(1)
    patch.setattr("scaleexp.execute._Clock.__call__", lambda self: Signal("", next(calls) in COMMIT_AFTER))
    open_study(prepared, root)
    work = assigned(prepared, root)
    run_packed(work, prepared.plan.trials, threads=1)


def held(root, prepared):
    """Deterministic columns of every table, and the final states, as our reader sees them."""
    log = analysis.read.load(root)
    assert not [p for p in log.problems if "not begun" not in p]
    tables = {
        name: analysis.read.read_table(log, name, schema.deterministic_columns(name), None).to_pylist()
        for name in ("steps", "evals")
    }
    states = {}
    for trial in log.trials:
        checkpoint = trial.commit and trial.commit["checkpoint"]
        if checkpoint:
            states[trial.key] = decode((root / "trials" / trial.key / checkpoint["file"]).read_bytes())
    return tables, states


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    base = tmp_path_factory.mktemp("undisturbed")
    device = FaultyDisk(base)
    with pytest.MonkeyPatch.context() as patch:
        run(prepared, base / "study", patch, device)
    assert {last_commit(Store(base / "study"), t.key)["step"] for t in prepared.plan.trials} == {LAST_STEP}
    return device.operations, held(base / "study", prepared)


def commits_of(root, prepared):
    return {t.key: last_commit(Store(root), t.key) for t in prepared.plan.trials}


def check_crash(prepared, expected, base, point, *, skip=""):
    """Crash before one operation; look at what is left; go on from it."""
    live, left = base / "live", base / "left"
    live.mkdir(parents=True)
    device = FaultyDisk(live, crash_before=point, skip=skip)
    returned = []
    write = Store.write

    def tells(self, name, content):
        write(self, name, content)
        returned.append(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", tells)
        with pytest.raises(Crash):
            run(prepared, live / "study", patch, device)
    device.survivors(left)
    root = left / "study"
    for name in returned:
        if "checkpoints" not in name and "segments" not in name:  # a later commit may do without them
            assert (root / name).read_bytes(), name
    commits = commits_of(root, prepared)
    if any(commits.values()):
        tables, _ = held(root, prepared)
        for key, commit in commits.items():
            steps = [r["step"] for r in tables["steps"] if r["trial_id"] == key]
            assert steps == list(range(1, commit["step"] + 1 if commit else 1))
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        from scaleexp.engines.packed import PackedEngine

        step = PackedEngine.step
        patch.setattr(PackedEngine, "step", lambda self, a, b, *r, **k: (ran.append(a), step(self, a, b, *r, **k))[1])
        run(prepared, root, patch)
    going = [c["step"] if c else 0 for c in commits.values() if not c or c["status"] == "running"]
    assert not ran or min(ran) == 16 * min(going), "a step below the last commit ran again"
    tables, states = held(root, prepared)
    assert tables == expected[0]
    assert states.keys() == expected[1].keys()
    for key, state in states.items():
        assert all(torch.equal(state[n], expected[1][key][n]) for n in state), key


@pytest.mark.slow
def test_a_crash_at_any_operation_loses_nothing_that_was_committed(prepared, undisturbed, tmp_path):
    operations, expected = undisturbed
    assert len(operations) > 200
    for point in range(len(operations)):
        check_crash(prepared, expected, tmp_path / str(point), point)


@pytest.mark.parametrize("skip", ["file", "name", "directory"])
def test_without_any_one_sync_a_crash_loses_what_was_committed(prepared, undisturbed, tmp_path, skip):
    operations, expected = undisturbed
    late = range(len(operations) - 1, 0, -1)
    caught = 0
    for point in itertools.islice(late, 0, None, 9):
        try:
            check_crash(prepared, expected, tmp_path / str(point), point, skip=skip)
        except (AssertionError, OSError):
            caught += 1
            break
    assert caught, f"no crash showed that the sync of a {skip} is missing"
