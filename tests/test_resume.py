"""Interrupted trials: they go on from their last commits, and end as those do that nothing interrupted."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from scaleexp import checkpoint, schema
from scaleexp.config import load_study
from scaleexp.engines.packed import PackedEngine
from scaleexp.errors import ConfigError, CorruptError
from scaleexp.execute import run_packed, run_real
from scaleexp.launch.runner import open_study, prepare
from scaleexp.loop import Signal
from scaleexp.resume import standing, together, unfinished
from scaleexp.runlog import last_commit
from scaleexp.storage import Store, json_bytes
from tests.without_ray import assigned

SETS = [
    "workers=[4]",
    "base={batch_size: 32, lr: 0.1}",
    "worker_batch=8",
    "seeds=[0, 1]",
    "lr_multipliers=[0.25, 1, 2]",
    "lr_rules=[none]",
    "limits.samples=1600",
    "evaluation.every_samples=100",
    "targets=[{metric: val_loss, values: [2.0, 1.2]}]",
    "noise.every_samples=96",
    "realisations=[]",
    "workload.hidden=[8]",
    "deterministic=true",
]
SGD = ("optimizer={name: sgd, momentum: 0.9}", "base={batch_size: 32, lr: 0.05}")
ADAMW = ("optimizer={name: adamw, weight_decay: 0.1}", "base={batch_size: 32, lr: 0.005}")


class Killed(BaseException):
    """What no code of ours catches: as good as SIGKILL, but for what the writing thread has in hand."""


def assignment(root, *more):
    prepared = prepare(load_study("quickstart", [*SETS, *more]))
    work = assigned(prepared, root)
    return prepared.plan.trials, work


def rows(root, key, table):
    """Deterministic columns of what the last commit binds."""
    found = []
    for segment in last_commit(Store(root), key)["segments"]:
        if segment["table"] == table:
            file = root / "trials" / key / segment["file"]
            found += pq.read_table(file, columns=schema.deterministic_columns(table)).to_pylist()
    return found


def final_state(root, key):
    commit = last_commit(Store(root), key)
    return checkpoint.decode((root / "trials" / key / commit["checkpoint"]["file"]).read_bytes())


def assert_same(root, other, trials):
    """The same rows, endings and final states, bit for bit."""
    for trial in trials:
        ends = [last_commit(Store(r), trial.key) for r in (root, other)]
        assert ends[0]["status"] == ends[1]["status"]
        for table in ("steps", "evals"):
            assert rows(root, trial.key, table) == rows(other, trial.key, table)
        states = [final_state(r, trial.key) for r in (root, other)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def kill_at(patch, step, *, commit_after=()):
    """Commit after these calls of the clock, and kill in the engine's step of this number."""
    real, taken, asked = PackedEngine.step, count(), count(1)

    def dies(self, start, stop, lr, *, measure):
        if next(taken) == step:
            raise Killed
        return real(self, start, stop, lr, measure=measure)

    patch.setattr(PackedEngine, "step", dies)
    patch.setattr("scaleexp.execute._Clock.__call__", lambda self: Signal("", next(asked) in commit_after))


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", params=[SGD, ADAMW], ids=["sgd", "adamw"])
def undisturbed(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    trials, work = assignment(root, *request.param)
    run_packed(work, trials, threads=1)
    assert {last_commit(Store(root), t.key)["status"] for t in trials} == {"reached", "limit"}
    return root, request.param, trials


def test_the_choices_are_committed_before_step_0(tmp_path, monkeypatch):
    trials, work = assignment(tmp_path, "deterministic=false")
    with monkeypatch.context() as patch:
        kill_at(patch, 0)
        with pytest.raises(Killed):
            run_packed(work, trials, threads=1)
    first = [Store(tmp_path).read_json(f"trials/{t.key}/commits/0001.json") for t in trials]
    assert {(c["step"], c["status"], c["checkpoint"]) for c in first} == {(0, "running", None)}
    assert {c["realisation"]["kernel"] for c in first} <= {"vmap", "one by one"}
    assert all(c["segments"] == [] for c in first)
    # Whatever is faster by then, they go on as they began.
    other = {"vmap": "one by one", "one by one": "vmap"}[first[0]["realisation"]["kernel"]]
    for trial, commit in zip(trials, first, strict=True):
        commit["realisation"] |= {"kernel": other, "padded_to": {"vmap": 2, "one by one": 1}[other]}
        (tmp_path / f"trials/{trial.key}/commits/0001.json").write_bytes(json_bytes(commit))
    built = []
    real = PackedEngine.__init__
    monkeypatch.setattr(PackedEngine, "__init__", lambda self, *a, **k: (real(self, *a, **k), built.append(self))[0])
    run_packed(work, trials, threads=1)
    assert [engine.realisation["kernel"] for engine in built] == [other]
    assert {last_commit(Store(tmp_path), t.key)["realisation"]["kernel"] for t in trials} == {other}


@pytest.mark.parametrize(("dies_at", "commit_after"), [(0, ()), (3, ()), (17, (5, 9)), (30, (30,)), (49, (1, 48))])
def test_a_killed_pack_ends_as_if_nothing_had_happened(undisturbed, tmp_path, monkeypatch, dies_at, commit_after):
    root, optimizer, trials = undisturbed
    _, work = assignment(tmp_path, *optimizer)
    with monkeypatch.context() as patch:
        kill_at(patch, dies_at, commit_after=commit_after)
        with pytest.raises(Killed):
            run_packed(work, trials, threads=1)
    committed = {t.key: last_commit(Store(tmp_path), t.key) for t in trials}
    going = [c for c in committed.values() if c["status"] == "running"]
    assert {c["step"] for c in going} == {max((n for n in commit_after if n <= dies_at), default=0)}
    run_packed(work, trials, threads=1)
    assert_same(root, tmp_path, trials)
    for trial in trials:
        steps = [r["step"] for r in rows(tmp_path, trial.key, "steps")]
        assert steps == list(range(1, len(steps) + 1))
        held = list((tmp_path / "trials" / trial.key / "checkpoints").iterdir())
        assert len(held) == 1, "a finished trial keeps the state that it ended with and no other"


def test_a_pack_killed_among_its_commits_goes_on_in_groups(undisturbed, tmp_path, monkeypatch):
    root, optimizer, trials = undisturbed
    _, work = assignment(tmp_path, *optimizer)
    with monkeypatch.context() as patch:
        kill_at(patch, 8, commit_after=(3, 7))
        with pytest.raises(Killed):
            run_packed(work, trials, threads=1)
    for trial, number in zip(trials, (3, 3, 2, 1, 0, 3), strict=True):  # as if killed between these
        for commit in sorted((tmp_path / "trials" / trial.key / "commits").iterdir())[number:]:
            commit.unlink()
    groups = together([standing(Store(tmp_path), t) for t in trials])
    assert [(g[0].step, len(g), g[0].commit is None) for g in groups] == [
        (7, 3, False),
        (3, 1, False),
        (0, 1, True),
        (0, 1, False),
    ]
    run_packed(work, trials, threads=1)
    assert_same(root, tmp_path, trials)
    assert unfinished(Store(tmp_path), trials, work.targets) == []


def test_a_failed_trial_stands_where_it_was_committed_and_goes_on_from_there(undisturbed, tmp_path, monkeypatch):
    root, optimizer, trials = undisturbed
    _, work = assignment(tmp_path, *optimizer)
    with monkeypatch.context() as patch:
        kill_at(patch, 12, commit_after=(10,))
        patch.setattr("tests.test_resume.Killed", RuntimeError)
        with pytest.raises(RuntimeError):
            run_packed(work, trials, threads=1)
    commits = [last_commit(Store(tmp_path), t.key) for t in trials]
    assert {(c["status"], c["step"], c["number"]) for c in commits} == {("failed", 10, 3)}
    assert all(len(rows(tmp_path, t.key, "steps")) == 10 for t in trials)
    run_packed(work, trials, threads=1)
    assert_same(root, tmp_path, trials)


def test_states_of_finished_trials_are_dropped_on_request(tmp_path):
    trials, work = assignment(tmp_path, "checkpoint.keep_finished=false")
    run_packed(work, trials, threads=1)
    assert {last_commit(Store(tmp_path), t.key)["checkpoint"] for t in trials} == {None}
    assert not [f for t in trials for f in (tmp_path / "trials" / t.key).glob("checkpoints/*")]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:], None])
def test_a_damaged_checkpoint_is_never_gone_on_from(tmp_path, monkeypatch, caplog, damage):
    trials, work = assignment(tmp_path)
    with monkeypatch.context() as patch:
        kill_at(patch, 8, commit_after=(3,))
        with pytest.raises(Killed):
            run_packed(work, trials[:1], threads=1)
    (held,) = (tmp_path / "trials" / trials[0].key / "checkpoints").iterdir()
    if damage:
        held.write_bytes(damage(held.read_bytes()))
    else:
        held.unlink()
    stands = standing(Store(tmp_path), trials[0])
    assert (stands.step, stands.commit["number"], stands.state) == (0, 1, None)
    (said,) = caplog.messages
    assert str(held) in said
    before = held.read_bytes() if damage else None
    run_packed(work, trials[:1], threads=1)
    numbers = sorted(int(f.stem) for f in (tmp_path / "trials" / trials[0].key / "commits").iterdir())
    assert numbers == [1, 2, 3, 4], "the end goes past the commit that is not whole, and is told twice"
    steps = [r["step"] for r in rows(tmp_path, trials[0].key, "steps")]
    assert steps == list(range(1, len(steps) + 1)), "rows of a commit that is not gone on from are not bound again"
    assert (held.read_bytes() if damage else None) == before, "what is corrupt stays as it is"


@pytest.mark.parametrize("file", ["trial.json", "commits/*.json"])
def test_a_trial_of_which_nothing_is_whole_waits_for_its_owner(tmp_path, monkeypatch, file):
    trials, work = assignment(tmp_path)
    with monkeypatch.context() as patch:
        kill_at(patch, 8, commit_after=(3,))
        with pytest.raises(Killed):
            run_packed(work, trials[:1], threads=1)
    for path in (tmp_path / "trials" / trials[0].key).glob(file):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptError, match="restore it from a copy"):
        run_packed(work, trials[:1], threads=1)


def test_a_trial_begun_on_virtual_workers_ends_on_real_ones(undisturbed, tmp_path, monkeypatch, tmp_path_factory):
    import torch.distributed as dist

    root, optimizer, trials = undisturbed
    trial = trials[0]
    _, work = assignment(tmp_path, *optimizer)
    with monkeypatch.context() as patch:
        kill_at(patch, 8, commit_after=(6,))
        with pytest.raises(Killed):
            run_packed(work, [trial], threads=1)
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        run_real(work, [trial], device=torch.device("cpu"))
    finally:
        dist.destroy_process_group()
    end = last_commit(Store(tmp_path), trial.key)
    assert end["realisation"]["engine"] == "ddp"
    assert end["status"] == last_commit(Store(root), trial.key)["status"]
    a, b = (rows(r, trial.key, "evals") for r in (root, tmp_path))
    np.testing.assert_allclose([r["value"] for r in b], [r["value"] for r in a], rtol=1e-4)
    assert [r["step"] for r in b] == [r["step"] for r in a]


# A study that grows


def root_after(tmp_path, *sets):
    """A study run in steps, each with more overrides than the last; its trials at the end."""
    for more in sets:
        trials, work = assignment(tmp_path, *SGD, *more)
        open_study(prepare(load_study("quickstart", [*SETS, *SGD, *more])), tmp_path)
        run_packed(work, trials, threads=1)
    return trials


def test_a_harder_target_goes_on_from_the_last_checkpoints(tmp_path, tmp_path_factory, monkeypatch):
    easy, hard = "targets=[{metric: val_loss, values: [2.0]}]", "targets=[{metric: val_loss, values: [2.0, 1.2]}]"
    at_once = tmp_path_factory.mktemp("at_once")
    root_after(at_once, [hard])
    ran = []
    real = PackedEngine.step
    monkeypatch.setattr(PackedEngine, "step", lambda self, a, *r, **k: (ran.append(a), real(self, a, *r, **k))[1])
    first = root_after(tmp_path, [easy])
    ends = {t.key: last_commit(Store(tmp_path), t.key)["samples"] for t in first}
    before = len(ran)
    trials = root_after(tmp_path, [hard])
    assert_same(at_once, tmp_path, trials)
    assert min(ran[before:]) == min(ends.values()), "what was trained was not trained again"
    assert [p.name for p in sorted((tmp_path / "plan").iterdir())] == ["0001.json", "0002.json"]


def test_a_larger_limit_extends_and_a_grown_grid_adds_only_what_is_new(tmp_path, monkeypatch):
    root_after(tmp_path, ["seeds=[0]", "limits.samples=800"])
    built = []
    real = PackedEngine.__init__

    def counted(self, workload, *, seeds, **options):
        built.append(seeds)
        real(self, workload, seeds=seeds, **options)

    monkeypatch.setattr(PackedEngine, "__init__", counted)
    trials = root_after(tmp_path, ["seeds=[0, 1]", "limits.samples=800"])
    assert built == [[1, 1, 1]]
    built.clear()
    root_after(tmp_path, ["seeds=[0, 1]", "limits.samples=1600"])
    for trial in trials:
        commit = last_commit(Store(tmp_path), trial.key)
        assert commit["status"] == "reached" or commit["samples"] == 1600
        assert [r["step"] for r in rows(tmp_path, trial.key, "steps")] == list(range(1, commit["step"] + 1))
    built.clear()
    root_after(tmp_path, ["seeds=[0, 1]", "limits.samples=1600"])
    assert built == []
    assert len(list((tmp_path / "plan").iterdir())) == 2, "a larger limit is no other plan"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seeds=[1]", "holds 3 trials that this grid leaves out, such as the one of batch size 32, LR 0.0125 and seed"),
        ("limits.samples=400", r"limits.samples \(1600 there, 400 here: it may grow\)"),
        ("targets=[{metric: val_loss, values: [1.2]}]", r"targets \(val_loss \[2.0\] there and not here"),
        ("evaluation.every_samples=50", r"evaluation.every_samples \(100 there, 50 here\)"),
        ("workload.hidden=[9]", r"workload.hidden \(\[8\] there, \[9\] here\)"),
        ("dtype=float64", r"dtype \('float32' there, 'float64' here\)"),
    ],
)
def test_what_was_trained_keeps_its_meaning(tmp_path, change, said):
    prepared = prepare(load_study("quickstart", [*SETS, *SGD]))
    open_study(prepared, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        open_study(prepare(load_study("quickstart", [*SETS, *SGD, change])), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_how_a_study_runs_may_change(tmp_path):
    open_study(prepare(load_study("quickstart", [*SETS, *SGD])), tmp_path)
    for change in (["compile=never"], ["checkpoint.every_s=5"], ["workers=[2]", "worker_batch=16"], ["question=Why?"]):
        open_study(prepare(load_study("quickstart", [*SETS, *SGD, *change])), tmp_path)


def test_a_trial_at_its_limit_does_not_train_past_it_for_a_harder_target(tmp_path, monkeypatch):
    """It reached the easy target with its very last step."""
    sets = ("seeds=[0]", "lr_multipliers=[1]", "targets=[{metric: val_loss, values: [2.0]}]")
    trials, work = assignment(tmp_path, *sets)
    run_packed(work, trials, threads=1)
    ended = last_commit(Store(tmp_path), trials[0].key)
    assert ended["status"] == "reached"
    harder = [{"metric": "val_loss", "values": [0.001], "direction": "min"}]
    at_limit = [replace(trials[0], limit_samples=ended["samples"])]
    assert unfinished(Store(tmp_path), trials, harder) == list(trials)
    assert unfinished(Store(tmp_path), at_limit, harder) == []
