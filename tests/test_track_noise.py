"""Gradient norms of any loop against brute force: every shard's gradient by itself, on one process."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import analysis.read
import scaleexp
from scaleexp import schema
from scaleexp.errors import ConfigError

MICRO, STEPS = 6, 3


class Tied(nn.Module):
    """Output weights are the embedding's, and one parameter takes no part in the loss."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.out = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.out(torch.relu(self.hidden(self.embed(x))))


def model_at_start():
    torch.manual_seed(0)
    return Tied()


def micro_batch(step, rank, k):
    draw = torch.Generator().manual_seed(1000 * step + 100 * rank + k)
    return tuple(torch.randint(0, 11, (MICRO,), generator=draw) for _ in range(2))


def loss_of(model, batch, precision):
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
        logits = model(batch[0])
    return nn.functional.cross_entropy(logits.float(), batch[1])


def train(storage, *, accumulation, precision="float32", wrap="ddp", every=1, per_layer=False, sync=True):
    """What every process of a script does; the model moves, clipped to norm 0.1."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = model_at_start()
    if wrap == "ddp":
        model = DistributedDataParallel(model, find_unused_parameters=True)
    elif wrap == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        fully_shard(model.hidden, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if precision == "scaled" else None
    batch_size = MICRO * accumulation * world
    with scaleexp.track(
        storage=storage,
        batch_size=batch_size,
        unit="example",
        workers=world,
        lr=0.5,
        seed=0,
        accumulation_steps=accumulation,
    ) as run:
        run.watch(model, every=every, scaler=scaler, per_layer=per_layer, distance=wrap == "fsdp")
        for step in range(STEPS):
            total = 0.0
            for k in range(accumulation):
                last = k == accumulation - 1
                if wrap == "fsdp":
                    model.set_requires_gradient_sync(sync or last)
                with model.no_sync() if wrap == "ddp" and not last else nullcontext():
                    loss = loss_of(model, micro_batch(step, rank, k), precision) / accumulation
                    (scaler.scale(loss) if scaler else loss).backward()
                total += loss.detach()
            if scaler:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer) if scaler else optimizer.step()
            if scaler:
                scaler.update()
            optimizer.zero_grad()
            run.step(loss=total, batch_size=batch_size)


def brute_force(*, accumulation, world, precision="float32", wrap="ddp"):
    """(loss, m, M, {layer: (m, M)}) of every step, from the gradient of every shard by itself."""
    model, found = model_at_start(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    names = [n for n, _ in model.named_parameters()]
    for step in range(STEPS):
        cells = [[micro_batch(step, rank, k) for k in range(accumulation)] for rank in range(world)]
        shards = [cell for row in cells for cell in row]
        if wrap == "fsdp":  # a shard is a micro-batch of all workers together
            shards = [tuple(torch.cat([row[k][j] for row in cells]) for j in (0, 1)) for k in range(accumulation)]
        grads, losses = [], []
        for shard in shards:
            model.zero_grad()
            loss = loss_of(model, shard, precision)
            loss.backward()
            losses.append(loss.item())
            grads.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
        mean = [torch.stack(parts).mean(0) for parts in zip(*grads, strict=True)]
        layers = {
            n: (
                sum(float(g[i].double().pow(2).sum()) for g in grads) / len(grads),
                float(mean[i].double().pow(2).sum()),
            )
            for i, n in enumerate(names)
        }
        small, big = (sum(pair[i] for pair in layers.values()) for i in (0, 1))
        found.append((sum(losses) / len(losses), small, big, layers))
        for p, g in zip(model.parameters(), mean, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    return found


def processes(storage, world=2, **options):
    """Run `train` on so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.test_track_noise", str(storage), json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done


def rows(storage, table="steps"):
    log = analysis.read.load(storage)
    return analysis.read.read_table(log, table, [c.name for c in schema.TABLES[table]], None).to_pylist()


def check(storage, truth, shards, rel):
    found = rows(storage)
    assert len(found) == STEPS
    for row, (loss, small, big, _) in zip(found, truth, strict=True):
        assert row["shards"] == shards
        assert row["loss"] == pytest.approx(loss, rel=rel)
        assert row["grad_sq_small"] == pytest.approx(small, rel=rel)
        assert row["grad_sq_big"] == pytest.approx(big, rel=rel)


@pytest.mark.parametrize(("precision", "rel"), [("float32", 1e-6), ("bf16", 1e-2), ("scaled", 1e-6)])
def test_accumulated_micro_batches_of_one_process_are_shards(tmp_path, precision, rel):
    train(str(tmp_path), accumulation=4, precision=precision, wrap="")
    check(tmp_path, brute_force(accumulation=4, world=1, precision=precision), 4, rel)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(("precision", "rel"), [("float32", 1e-6), ("bf16", 1e-2)])
def test_under_ddp_each_micro_batch_of_each_worker_is_a_shard(tmp_path, accumulation, precision, rel):
    done = processes(tmp_path, accumulation=accumulation, precision=precision, per_layer=True)
    assert done.returncode == 0, done.stderr[-3000:]
    truth = brute_force(accumulation=accumulation, world=2, precision=precision)
    check(tmp_path, truth, 2 * accumulation, rel)
    layers = {(row["step"], row["layer"]): row for row in rows(tmp_path, "layers")}
    for step, (*_, expected) in enumerate(truth, 1):
        for name, (small, big) in expected.items():
            if name != "idle":
                assert layers[step, f"module.{name}"]["grad_sq_small"] == pytest.approx(small, rel=rel)
                assert layers[step, f"module.{name}"]["grad_sq_big"] == pytest.approx(big, rel=rel)


def test_under_fsdp_each_micro_batch_of_all_workers_is_a_shard(tmp_path):
    done = processes(tmp_path, accumulation=2, wrap="fsdp")
    assert done.returncode == 0, done.stderr[-3000:]
    check(tmp_path, brute_force(accumulation=2, world=2, wrap="fsdp"), 2, 1e-6)
    assert "no distance_from_init is logged: under FSDP each process holds a part of the parameters" in done.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"accumulation": 1}, "FSDP shows the mean over workers only, so a batch has no parts to compare"),
        ({"accumulation": 2, "sync": False}, "FSDP accumulates without reducing"),
    ],
)
def test_what_fsdp_does_not_show_is_said_to_be_unresolved(tmp_path, options, reason):
    done = processes(tmp_path, wrap="fsdp", **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(row["grad_sq_small"] is None for row in rows(tmp_path))
    assert reason in done.stderr


def test_a_step_that_is_one_micro_batch_has_no_noise_scale_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(str(tmp_path), accumulation=1, wrap="")
    assert all(row["grad_sq_small"] is None for row in rows(tmp_path))
    assert "set accumulation_steps to 2 or more" in caplog.text
    assert "set accumulation_steps" in analysis.read.load(tmp_path).trials[0].commit["realisation"]["noise_unresolved"]


def test_more_backward_passes_than_stated_leave_a_step_unmeasured(tmp_path, caplog):
    model = model_at_start()
    with scaleexp.track(
        storage=str(tmp_path), batch_size=4, unit="example", workers=1, lr=1.0, seed=0, accumulation_steps=2
    ) as run:
        run.watch(model, every=1)
        for passes in (2, 3, 2):
            for k in range(passes):
                loss_of(model, micro_batch(0, 0, k), "float32").backward()
            run.step(loss=1.0, batch_size=4)
    assert [row["grad_sq_small"] is None for row in rows(tmp_path)] == [False, True, False]
    assert "a step had 3 backward passes through the model, and accumulation_steps is 2" in caplog.text


def test_hooks_are_there_only_in_the_steps_that_are_measured(tmp_path):
    model = model_at_start()
    with scaleexp.track(
        storage=str(tmp_path), batch_size=4, unit="example", workers=1, lr=1.0, seed=0, accumulation_steps=2
    ) as run:
        run.watch(model, every=2)
        seen = []
        for _ in range(4):
            seen.append(bool(model.hidden.weight._backward_hooks))
            for k in range(2):
                loss_of(model, micro_batch(0, 0, k), "float32").backward()
            run.step(loss=1.0, batch_size=4)
    assert seen == [True, False, True, False]
    assert not model.hidden.weight._backward_hooks
    assert [row["grad_sq_small"] is not None for row in rows(tmp_path)] == seen


def test_a_cadence_that_nobody_states_is_timed_once_and_kept_when_the_script_goes_on(tmp_path):
    def some_steps(number, **more):
        model = model_at_start()
        stated = {"batch_size": 12, "unit": "example", "workers": 1, "lr": 1.0, "seed": 0, "accumulation_steps": 2}
        with scaleexp.track(storage=str(tmp_path), limit_samples=12 * 500, **stated, **more) as run:
            run.watch(model)
            for _ in range(number):
                for k in range(2):
                    loss_of(model, micro_batch(0, 0, k), "float32").backward()
                run.step(loss=1.0, batch_size=12)
        return analysis.read.load(tmp_path).trials[0].commit

    first = some_steps(300)
    every, cost = first["realisation"]["noise_every_steps"], first["timings"]["noise_cost"]
    assert cost <= 0.05
    measured = [row["step"] for row in rows(tmp_path) if row["grad_sq_small"] is not None]
    assert measured == [s for s in range(7, 301) if (s - 1) % every == 0]
    second = some_steps(20, resume_step=300)
    assert second["realisation"]["noise_every_steps"] == every


def test_watching_before_wrapping_is_refused(tmp_path):
    done = processes(tmp_path, accumulation=1, wrap="not yet")
    assert done.returncode != 0
    assert "call it after DistributedDataParallel(model) or fully_shard(model), with the wrapped model" in done.stderr


def test_watching_on_one_process_only_is_refused(tmp_path):
    done = processes(tmp_path, accumulation=1, wrap="rank 0 only")
    assert done.returncode != 0
    assert "run.watch(model) was called on 1 of 2 processes" in done.stderr


def test_ddp_over_another_number_of_workers_than_stated_is_refused(tmp_path):
    done = processes(tmp_path, accumulation=1, wrap="four workers")
    assert done.returncode != 0
    assert "averages over 2 processes and workers is 4" in done.stderr


def test_a_model_without_trained_parameters_is_refused(tmp_path):
    model = model_at_start().requires_grad_(False)
    with (
        scaleexp.track(storage=str(tmp_path), batch_size=4, unit="example", workers=1, lr=1.0, seed=0) as run,
    ):
        with pytest.raises(ConfigError, match="found no parameter that requires a gradient"):
            run.watch(model)
        run.step(loss=1.0, batch_size=4)


def misuse(storage, wrap):
    model = DistributedDataParallel(model_at_start(), find_unused_parameters=True)
    workers = 4 if wrap == "four workers" else 2
    stated = {"batch_size": 4, "unit": "example", "workers": workers, "lr": 1.0, "seed": 0}
    with scaleexp.track(storage=storage, **stated) as run:
        if wrap == "four workers" or dist.get_rank() == 0:
            run.watch(model)
        loss_of(model, micro_batch(0, 0, 0), "float32").backward()
        run.step(loss=1.0, batch_size=4)


def main(storage, options):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if options.get("wrap") in ("rank 0 only", "four workers"):
        misuse(storage, options["wrap"])
    else:
        train(storage, **options)
    gc.collect()  # DDP's cycles keep the process group in use, whose threads abort when Python is gone
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
