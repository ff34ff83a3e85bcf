"""An entrypoint that does, for each seed, another thing that a user's function may do."""

import sys

import torch.distributed as dist

import scaleexp


def record(trial, batch_size=None):
    with scaleexp.track(batch_size=batch_size, unit=trial.unit, lr=trial.lr) as run:
        while not run.should_stop:
            run.step(loss=1.0 + 1.0 / (1 + run.samples), batch_size=trial.batch_size)
            if run.should_evaluate:
                run.evaluate(val_loss=1.0 + 1.0 / (1 + run.samples))


def train(trial):
    assert dist.get_world_size() == trial.workers
    match trial.seed:
        case 0:
            record(trial)
        case 1 if dist.get_rank() == 1:
            raise ValueError("rank 1 does not like this seed")
        case 1:
            dist.barrier()  # of which the other never comes
        case 2:
            print("does nothing")
        case 3:
            record(trial, batch_size=trial.batch_size + 1)
        case 4:
            record(trial)
            dist.destroy_process_group()
        case 5:
            record(trial)
            sys.exit(0)
