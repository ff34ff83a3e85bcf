"""Image classification with a multi-layer perceptron or a small convolutional network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleexp.data import mnist5k
from scaleexp.data.arrays import LabelledArrays
from scaleexp.errors import ConfigError
from scaleexp.plugins import checked_options, resolve
from scaleexp.sampling import SampleOrder
from scaleexp.workloads.base import Batch, Direction, Forward, Gather

DATA: Mapping[str, Callable[..., LabelledArrays]] = {"mnist5k": mnist5k.load}


ModelFactory = Callable[..., nn.Module]
"""(hidden, *, shape, classes) -> a freshly initialised network; `shape` is that of one input."""


def mlp(hidden: Sequence[int], *, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Fully connected layers with ReLU between them."""
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def cnn(hidden: Sequence[int], *, shape: tuple[int, ...], classes: int) -> nn.Module:
    """3 x 3 convolutions of stride 2 with ReLU on square images of one channel, then one linear layer."""
    side, before = math.isqrt(math.prod(shape)), 1
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, (1, side, side))]
    for after in hidden:
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        before, side = after, (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, classes))


MODELS: Mapping[str, ModelFactory] = {"mlp": mlp, "cnn": cnn}


class Classifier:
    """Cross-entropy on labelled images.

    Args:
        data: built-in data set or "module:function" that returns `LabelledArrays`.
        model: `mlp`, `cnn` or "module:function", called as `function(hidden, shape=..., classes=...)`.
        hidden: widths of the hidden layers (mlp) or channels of the convolutions (cnn).
        options: keyword arguments of the data set's function, such as `held_out` and `shuffle_labels` of mnist5k.

    Raises:
        ConfigError: an unknown data set or model, or a width that is not a positive whole number.
    """

    unit: Literal["example", "token"] = "example"
    metrics: Mapping[str, Direction] = {"val_loss": "min", "val_error": "min", "val_accuracy": "max"}
    couples_examples = False
    random = False

    def __init__(
        self,
        *,
        data: str = "mnist5k",
        model: str = "mlp",
        hidden: Sequence[int] = (64,),
        dtype: torch.dtype = torch.float32,
        **options: Any,  # noqa: ANN401  # checked against the data set's function
    ) -> None:
        if not isinstance(hidden, Sequence) or not all(isinstance(w, int) and w > 0 for w in hidden):
            raise ConfigError(f"workload.hidden is {hidden!r}: give a list of positive widths, such as [64]")
        load = resolve(data, DATA, kind="data set")
        own = ("data", "model", "hidden")
        arrays = load(**checked_options(f"data set {data!r}", load, options, elsewhere=own))
        self._factory, self._hidden = resolve(model, MODELS, kind="model"), tuple(hidden)
        self._classes, self._dtype = arrays.classes, dtype
        self._x = torch.from_numpy(arrays.x_train).to(dtype)
        self._y = torch.from_numpy(arrays.y_train)
        self._x_eval = torch.from_numpy(arrays.x_eval).to(dtype)
        self._y_eval = torch.from_numpy(arrays.y_eval)
        self.n_train: int | None = len(self._x)
        self.n_eval = len(self._x_eval)
        self.data_sha256 = arrays.sha256
        self._orders: dict[int, SampleOrder] = {}

    def model(self, init_seed: int) -> nn.Module:
        """The network with torch's default initialisation under this seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            net = self._factory(self._hidden, shape=tuple(self._x.shape[1:]), classes=self._classes)
        return net.to(self._dtype)

    def batch(self, data_seed: int, start: int, stop: int) -> Batch:
        """(inputs, class numbers), shapes (B, ...) and (B,)."""
        assert self.n_train is not None
        order = self._orders.setdefault(data_seed, SampleOrder(seed=data_seed, size=self.n_train))
        where = torch.from_numpy(order(start, stop))
        return self._x[where], self._y[where]

    def loss(self, forward: Forward, batch: Batch, gather: Gather) -> Tensor:
        """Mean cross-entropy."""
        x, y = batch
        return F.cross_entropy(forward(x), y)

    def eval_batch(self, start: int, stop: int) -> Batch:
        """Held-out (inputs, class numbers)."""
        return self._x_eval[start:stop], self._y_eval[start:stop]

    def metric_sums(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Summed cross-entropy, wrong and right answers."""
        x, y = batch
        logits = forward(x).double()
        right = (logits.argmax(-1) == y).double().sum()
        # With the classes first the sum over them runs along vectors of samples: 3x faster for 10 classes.
        by_class = logits.T.contiguous()[None]
        return {
            "val_loss": F.cross_entropy(by_class, y[None], reduction="sum"),
            "val_error": len(y) - right,
            "val_accuracy": right,
        }
