"""A tracked script of two processes that does things at moments of its own: nothing of its log is lost or halved."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import analysis.read
import scaleexp
from scaleexp import ranks, schema
from scaleexp.runlog import last_commit
from scaleexp.storage import Store

STATED = {"batch_size": 4, "unit": "example", "workers": 2, "lr": 0.1, "seed": 0}


class Branches(nn.Module):
    """Each rank trains the trunk and a head of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.heads = nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])

    def forward(self, x, head):
        return self.heads[head](self.trunk(x))


def samples(rank):
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(rank))


def gradient_of(head):
    """The gradient of one rank's loss by itself, by parameter."""
    model = Branches()
    model(samples(head), head).mean().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


# -- what every process does -------------------------------------------------------------------------------------------


def begun_before_the_process_group(storage):
    with scaleexp.track(storage=storage, **STATED, limit_samples=12) as run:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        model = DistributedDataParallel(Branches(), find_unused_parameters=True)
        run.watch(model, every=1, per_layer=True)
        while not run.should_stop:
            model.zero_grad()
            loss = model(samples(rank), rank).mean()
            loss.backward()
            run.step(loss=10.0 + rank, batch_size=4)


def evaluated_at_its_own_cadence(storage):
    with scaleexp.track(storage=storage, **STATED, targets=["val_loss <= 1"], limit_samples=40_000) as run:
        while not run.should_stop:
            run.step(loss=1.0, batch_size=4)
            if run.steps % 50 == 0 and dist.get_rank() == 0:
                run.evaluate(val_loss=2.0 if run.steps < 300 else 0.5)


def called_on_rank_0_alone(storage, call):
    """Step or commit where only rank 0 does, as scripts might that log and write their checkpoints there."""
    ranks.ARRIVE_S = 3.0
    dist.init_process_group("gloo")
    model, alone = DistributedDataParallel(nn.Linear(3, 1)), dist.get_rank() == 0
    with scaleexp.track(storage=storage, **STATED, limit_samples=4000) as run:
        while not run.should_stop:
            loss = model(samples(0)).mean()
            loss.backward()
            if alone or call != "run.step":
                run.step(loss=loss, batch_size=4)
            if call == "run.commit" and (run.steps == 20 or (run.steps == 30 and alone)):
                run.commit()


def committing_together(storage):
    """Whenever rank 0 likes to, once the others have come; they come late the first time."""
    ranks.ARRIVE_S = 30.0
    with scaleexp.track(storage=storage, **STATED, limit_samples=40) as run:
        while not run.should_stop:
            run.step(loss=1.0, batch_size=4)
            if run.steps == 3 and dist.get_rank() == 1:
                time.sleep(1.0)
            if run.steps in (3, 4, 9):
                run.commit()
                if dist.get_rank() == 0:
                    assert commit(storage)["step"] == run.steps


def main(root, call=""):
    torch.set_num_threads(1)
    if call:
        called_on_rank_0_alone(root, call)
        return
    begun_before_the_process_group(f"{root}/before")
    evaluated_at_its_own_cadence(f"{root}/cadence")
    committing_together(f"{root}/committing")
    dist.barrier()
    os._exit(0)  # threads of gloo that DDP's cycles keep may abort when Python is gone


# -- what came of it ---------------------------------------------------------------------------------------------------


def two_processes(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return subprocess.run(
        [*command, "-m", "tests.test_track_together", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("together")
    done = two_processes(path)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def rows(root, table):
    log = analysis.read.load(root)
    assert log.problems == ()
    return analysis.read.read_table(log, table, [c.name for c in schema.TABLES[table]], None).to_pylist()


def commit(root):
    (key,) = Store(root).names("trials")
    return last_commit(Store(root), key)


def test_a_process_group_that_is_set_up_after_the_run_began_counts(root):
    found = rows(root / "before", "steps")
    assert [row["loss"] for row in found] == [10.5] * 3  # the mean of both processes
    realisation = commit(root / "before")["realisation"]
    assert (realisation["processes"], realisation["nodes"]) == (2, 1)
    grads = [gradient_of(rank) for rank in (0, 1)]
    small = sum(float(g.square().sum()) for own in grads for g in own.values()) / 2
    big = sum(float(((a + b) / 2).square().sum()) for a, b in zip(*(g.values() for g in grads), strict=True))
    for row in found:
        assert (row["shards"], row["workers"]) == (2, 2)
        assert row["grad_sq_small"] == pytest.approx(small, rel=1e-6)
        assert row["grad_sq_big"] == pytest.approx(big, rel=1e-6)


def test_a_parameter_that_only_one_process_uses_has_its_norms(root):
    grads = [gradient_of(rank) for rank in (0, 1)]
    found = {(row["step"], row["layer"]): row for row in rows(root / "before", "layers")}
    for name in grads[0]:
        a, b = (g[name].double() for g in grads)
        row = found[1, f"module.{name}"]
        assert row["grad_sq_small"] == pytest.approx(float(a.square().sum() + b.square().sum()) / 2, rel=1e-6)
        assert row["grad_sq_big"] == pytest.approx(float(((a + b) / 2).square().sum()), rel=1e-6)


def test_steps_before_an_evaluation_at_a_moment_of_the_scripts_own_are_logged(root):
    ended = commit(root / "cadence")
    assert (ended["status"], ended["step"]) == ("reached", 350)
    assert [row["step"] for row in rows(root / "cadence", "steps")] == list(range(1, 351))
    assert [row["step"] for row in rows(root / "cadence", "evals")] == [50, 100, 150, 200, 250, 300, 350]


def test_a_commit_binds_every_step_so_far_on_however_many_processes(root):
    ended = commit(root / "committing")
    assert (ended["status"], ended["step"]) == ("limit", 10)
    assert [row["step"] for row in rows(root / "committing", "steps")] == list(range(1, 11))


@pytest.mark.parametrize(("call", "step"), [("run.step", 0), ("run.commit", 30)])
def test_what_every_process_has_to_call_and_rank_0_calls_alone_ends_the_script_with_that_sentence(tmp_path, call, step):
    done = two_processes(tmp_path, call)
    assert done.returncode != 0
    said = (
        f"{call} came after step {step} on rank 0 and, 3 s later, not on 1 of 2 processes: call it on every process, "
        "outside of `if rank == 0:`."
    )
    assert said in done.stderr
    assert said in commit(tmp_path)["cause"]


if __name__ == "__main__":
    main(*sys.argv[1:])
