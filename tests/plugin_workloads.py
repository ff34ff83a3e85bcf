"""Workloads of somebody else's, named in a study as "tests.plugin_workloads:Class"."""

from __future__ import annotations

from scaleexp.workloads.classifier import Classifier
from scaleexp.workloads.quadratic import Quadratic


class Broken(Quadratic):
    """Raises after a few samples."""

    def batch(self, data_seed, start, stop):
        if stop > 100:
            raise RuntimeError("the data went missing")
        return super().batch(data_seed, start, stop)


class BrokenOnOne(Quadratic):
    """Raises in one of two processes, after a few samples, what cannot be pickled; its neighbour waits for it."""

    def batch(self, data_seed, start, stop):
        import torch.distributed as dist

        class MissingPixels(Exception):  # noqa: N818
            """Of a class that no other process can find."""

        if stop > 100 and dist.get_rank() == 1:
            raise MissingPixels("the data went missing")
        return super().batch(data_seed, start, stop)


class Dying(Quadratic):
    """Kills its process after a few samples."""

    def batch(self, data_seed, start, stop):
        import os

        if stop > 100:
            os._exit(9)
        return super().batch(data_seed, start, stop)


class Forgetful(Quadratic):
    """Asks for a sample that its data do not have."""

    def batch(self, data_seed, start, stop):
        raise KeyError("pixels")


class Dropping(Quadratic):
    """Draws at random where no layer shows it."""

    def loss(self, forward, batch, gather):
        import torch.nn.functional as F

        return super().loss(forward, (F.dropout(batch[0]),), gather)


class Contrastive(Classifier):
    """Every example against all others of the global batch: a supervised contrastive loss on the model's outputs."""

    couples_examples = True

    def loss(self, forward, batch, gather):
        import torch
        import torch.nn.functional as F

        x, y = batch
        z = F.normalize(gather(forward(x)), dim=-1)
        labels = gather(y)
        others = 1.0 - torch.eye(len(z), dtype=z.dtype)
        alike = (labels[:, None] == labels[None, :]).to(z.dtype) * others
        log_p = z @ z.T / 0.5
        log_p = log_p - ((log_p.exp() * others).sum(1, keepdim=True)).log()
        return -((alike * log_p).sum(1) / alike.sum(1).clamp(min=1.0)).mean()


class NoMetrics:
    """Not a workload."""

    def __init__(self, *, dtype):
        self.dtype = dtype


def with_batch_norm(hidden, *, shape, classes):
    from torch import nn

    return nn.Sequential(nn.Linear(*shape, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


def with_frozen_and_random_features(hidden, *, shape, classes):
    """Random features in a buffer, a frozen layer, a trained one."""
    import torch
    from torch import nn

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weights", torch.randn(shape[0], 12) / shape[0] ** 0.5)
            self.frozen = nn.Linear(12, 12)
            self.frozen.requires_grad_(False)
            self.trained = nn.Linear(12, classes)

        def forward(self, x):
            return self.trained(torch.tanh(self.frozen(x.to(self.weights.dtype) @ self.weights)))

    return Features()


def misfit(hidden, *, shape, classes):
    from torch import nn

    return nn.Linear(3, classes)


def no_arguments(hidden):
    raise AssertionError("never called")


def that_looks_at_values(hidden, *, shape, classes):
    """The mlp, with a branch that depends on its input: no batching rule can take it."""
    from torch import nn

    from scaleexp.workloads.classifier import mlp

    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() < 1e9 else -x)

    return Branching(*mlp(hidden, shape=shape, classes=classes))


def with_a_part_that_evaluates(hidden, *, shape, classes):
    """A dropout layer that is switched off in training, as in a frozen backbone."""
    from torch import nn

    return nn.Sequential(nn.Linear(*shape, 8), nn.Dropout(0.5).eval(), nn.Tanh(), nn.Linear(8, classes))


def that_counts(hidden, *, shape, classes):
    """A buffer that every forward pass changes."""
    import torch
    from torch import nn

    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(*shape, classes)
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            self.passes += 1
            return super().forward(x)

    return Counting()


class _Starved:
    """Runs out of memory where more samples than `SCALEEXP_TEST_FITS` pass at once, from this sample of the order on.

    On real workers only the second process does. With `SCALEEXP_TEST_HOLDS` it holds so many bytes until it is killed.
    """

    def __init__(self, *, after=0, **options):
        super().__init__(**options)
        self._after, self._at = after, 0

    def batch(self, data_seed, start, stop):
        self._at = start
        return super().batch(data_seed, start, stop)

    def loss(self, forward, batch, gather):
        import os

        import torch
        import torch.distributed as dist

        starved = not dist.is_initialized() or dist.get_rank() == 1
        fits = int(os.environ.get("SCALEEXP_TEST_FITS", "1000000"))
        if starved and self._at >= self._after and len(batch[0]) > fits:
            _hold(int(os.environ.get("SCALEEXP_TEST_HOLDS", "0")))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().loss(forward, batch, gather)


def _hold(size):
    import time

    held = []
    while size > 0:
        held.append(b"1" * min(size, 2**27))
        size -= 2**27
        if size <= 0:
            time.sleep(60)
            raise AssertionError("nobody has killed it")


class Hungry(_Starved, Classifier):
    """A classifier that does."""


class HungryContrastive(_Starved, Contrastive):
    """Another, with a loss that couples the examples."""


class Noting(Classifier):
    """A classifier in whose process every trial that is taken up is noted: at which step, and its last commit's."""

    def __init__(self, **options):
        import os
        from pathlib import Path

        from scaleexp import execute

        super().__init__(**options)
        if "SCALEEXP_TEST_NOTE" in os.environ and execute.train_pack.__name__ == "train_pack":
            execute.train_pack = _noted(execute.train_pack, Path(os.environ["SCALEEXP_TEST_NOTE"]))


def _noted(train_pack, note):
    import json
    import os

    from scaleexp.runlog import last_commit
    from scaleexp.storage import Store

    def noted(engine, lrs, logs, recipe, clock, start):
        for log in logs:
            if log:  # another process writes
                commit = last_commit(Store(note.parent), log.key)
                line = {"key": log.key, "step": start.step, "committed": commit["step"] if commit else 0}
                with note.open("a") as file:
                    file.write(json.dumps(line | {"pid": os.getpid()}) + "\n")
        train_pack(engine, lrs, logs, recipe, clock, start)

    return noted
