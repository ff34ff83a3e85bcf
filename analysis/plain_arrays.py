"""Columns of Arrow as arrays of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def plain(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The numbers of a column, in memory of their own; nan for a null.

    Without nulls they go by DLPack: `to_numpy` imports pandas wherever that is installed, which takes as long as
    reading a thousand small files.

    >>> plain(pa.chunked_array([[1, 2], [3]])).tolist()
    [1, 2, 3]
    """
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if column.null_count or not chunks:
        return np.array(column.to_numpy())
    return np.concatenate([np.from_dlpack(chunk) for chunk in chunks])
