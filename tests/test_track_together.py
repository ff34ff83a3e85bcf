"""A tracked script of two processes that does things at moments of its own: nothing of its log is lost or halved."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import analysis.read
import scaleexp
from scaleexp import schema
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


def main(root):
    torch.set_num_threads(1)
    begun_before_the_process_group(f"{root}/before")
    evaluated_at_its_own_cadence(f"{root}/cadence")
    dist.barrier()
    os._exit(0)  # threads of gloo that DDP's cycles keep may abort when Python is gone


# -- what came of it ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.test_track_together", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
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


if __name__ == "__main__":
    main(sys.argv[1])
