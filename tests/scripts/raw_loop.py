"""A training loop of your own: the next character of a text from the eight before it, with plain SGD.

python raw_loop.py --lr 0.5                                              alone, recorded in runs/
torchrun --standalone --nproc_per_node 2 raw_loop.py --lr 0.5            on two workers
"""

import argparse
import os
from pathlib import Path
from pydoc_data.topics import topics  # real text that every Python carries: its language reference

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import scaleexp

TEXT = torch.from_numpy(np.frombuffer("".join(topics[name] for name in sorted(topics)).encode(), dtype=np.uint8).copy())
TRAIN, HELD_OUT = TEXT[:400_000].long() % 128, TEXT[400_000:].long() % 128


def batch(text, positions):
    return torch.stack([text[positions + i] for i in range(8)], dim=1), text[positions + 8]


def main(worker_batch, lr, seed, steps, out):
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(128, 16), nn.Flatten(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 128))
    checkpoint, done = Path(out) / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        done = state["step"]
    trained = DistributedDataParallel(model) if workers > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    B = worker_batch * workers
    with scaleexp.track(  # under a study the first line is not needed, and what is stated is checked
        storage="runs", unit="example", workers=workers, limit_samples=steps * B, evaluate_every=3200,
        batch_size=B, lr=lr, seed=seed, optimizer=optimizer, resume_step=done,
    ) as run:  # fmt: skip
        run.watch(trained)  # for the noise scale
        while not run.should_stop:
            drawn = np.random.default_rng([seed, done]).integers(len(TRAIN) - 8, size=B)
            own = torch.from_numpy(drawn[rank * worker_batch : (rank + 1) * worker_batch])
            x, y = batch(TRAIN, own)
            loss = nn.functional.cross_entropy(trained(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            run.step(loss=loss, batch_size=B)
            if run.should_evaluate:
                with torch.no_grad():
                    x, y = batch(HELD_OUT, torch.arange(0, 40_000, 20))
                    run.evaluate(val_loss=nn.functional.cross_entropy(model(x), y))
                run.commit()  # what the checkpoint has behind it is recorded
                if rank == 0:
                    checkpoint.parent.mkdir(parents=True, exist_ok=True)
                    torch.save({"model": model.state_dict(), "step": done}, checkpoint.with_suffix(".new"))
                    checkpoint.with_suffix(".new").rename(checkpoint)


def train(trial):
    """The entrypoint of a study: the process group is there."""
    torch.set_num_threads(1)
    main(trial.worker_batch, trial.lr, trial.seed, trial.limit_steps, trial.state_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker-batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", default="out")
    options = parser.parse_args()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    main(options.worker_batch, options.lr, options.seed, options.steps, options.out)
    if dist.is_initialized():
        dist.destroy_process_group()
