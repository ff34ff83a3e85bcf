"""Training scripts of somebody else's, recorded by a few lines, for the tests of `scaleexp.track`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import scaleexp

STATED = {
    "batch_size": 32,
    "unit": "example",
    "workers": 1,
    "lr": 0.05,
    "seed": 0,
    "accumulation_steps": 2,
    "targets": ["val_loss <= 0.05"],
    "limit_samples": 6400,
    "evaluate_every": 320,
    "name": "mine",
}


def network() -> nn.Module:
    """Small, the same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def samples(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A stream: sample i is a function of i."""
    x = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(i)) for i in range(start, stop)])
    return x, x[:, :1] - x[:, 1:2] * 0.5


def loss_of(model: nn.Module, start: int, stop: int) -> torch.Tensor:
    """Mean over these samples."""
    x, y = samples(start, stop)
    return nn.functional.mse_loss(model(x), y)


def train(storage, *, watch=True, until=10**9, before_step: Callable[[int], None] = lambda n: None, **more):
    """A raw loop with accumulation, clipping and its own optimizer, from step `resume_step`; the run."""
    stated = {**STATED, **more}
    model, n = network(), stated.get("resume_step") or 0
    optimizer = torch.optim.SGD(model.parameters(), lr=stated["lr"], momentum=0.9)
    half = stated["batch_size"] // 2
    with scaleexp.track(storage=str(storage), optimizer=optimizer, **stated) as run:
        if watch:
            run.watch(model, every=4)
        if run.should_evaluate:
            run.evaluate(val_loss=loss_of(model, 10**6, 10**6 + 16))
        while not run.should_stop and n < until:
            before_step(n)
            total = torch.zeros(())
            for at in (n * 2 * half, n * 2 * half + half):
                loss = loss_of(model, at, at + half) / 2
                loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            n += 1
            run.step(loss=total, batch_size=2 * half)
            if run.should_evaluate:
                run.evaluate(val_loss=loss_of(model, 10**6, 10**6 + 16))
    return run


def checkpointing(storage: str, checkpoint: str) -> None:
    """A script that goes on from a checkpoint of its own every 20 steps, where there is one; killed by who runs it."""
    path = Path(checkpoint)
    held = torch.load(path, weights_only=True) if path.exists() else None
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if held:
        model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
    n = held["step"] if held else 0
    stated = {**STATED, "targets": [], "limit_samples": 32 * 400}
    with scaleexp.track(storage=storage, resume_step=n or None, optimizer=optimizer, **stated) as run:
        run.watch(model, every=4)
        print(json.dumps({"began": n}), flush=True)
        while not run.should_stop:
            total = torch.zeros(())
            for at in (n * 32, n * 32 + 16):
                loss = loss_of(model, at, at + 16) / 2
                loss.backward()
                total += loss.detach()
            optimizer.step()
            optimizer.zero_grad()
            n += 1
            run.step(loss=total, batch_size=32)
            if run.should_evaluate:
                run.evaluate(val_loss=loss_of(model, 10**6, 10**6 + 16))
            if n % 20 == 0:
                run.commit()
                state = {"step": n, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, f"{path}.new")
                Path(f"{path}.new").replace(path)
                print(n, flush=True)
    print("ended", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpointing(*sys.argv[1:3])
