"""Sample order and per-sample noise: pure functions of (seed, sample index).

Sample index i counts the samples a run has eaten. It belongs to epoch i // D and sits at position i % D of that
epoch's permutation of the D training samples. Nothing depends on the batch size, on the worker count or on the
samples drawn before, so a global batch is the same set of samples however it is split, and no loader state exists.

The permutation is a balanced Feistel network on the smallest even number of bits that holds D, with cycle walking
(Black & Rogaway 2002, "Ciphers with arbitrary finite domains"); the round function is the splitmix64 finaliser
(Steele et al. 2014). The order it gives is fixed by golden values in the tests.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_ROUNDS = 6  # four already make a pseudo-random permutation (Luby & Rackoff 1988); two more for the narrow domains
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CHUNK = 1 << 14


def derived_seed(seed: int, purpose: str) -> int:
    """An independent 63-bit seed for one purpose of a run ("data", "init", ...).

    Trials of one seed share it across learning rates and batch sizes.

    >>> derived_seed(0, "data") == derived_seed(0, "init")
    False
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mix64(x: UInt64Array) -> UInt64Array:
    """Splitmix64 finaliser: a bijection of 64-bit words that avalanches, elementwise."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(position: IntArray, epoch: IntArray, *, seed: int, size: int) -> IntArray:
    """Element at each position of each epoch's permutation of range(size).

    Args:
        position: positions in [0, size), any shape.
        epoch: epoch numbers, same shape.
        seed: seed of the order.
        size: D, the number of elements.

    >>> order = permute(np.arange(5), np.zeros(5, dtype=np.int64), seed=0, size=5)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    with np.errstate(over="ignore"):
        epoch_key = mix64(np.uint64(seed) * _GOLDEN + epoch.astype(np.uint64) + np.uint64(1))
        round_keys = [mix64(epoch_key + np.uint64(r + 1) * _GOLDEN) for r in range(_ROUNDS)]
        out = position.astype(np.uint64)
        outside = np.ones(out.shape, dtype=bool)
        while outside.any():
            left, right = out[outside] >> half, out[outside] & mask
            for key in round_keys:
                left, right = right, left ^ (mix64(right + key[outside]) & mask)
            out[outside] = (left << half) | right
            outside = out >= np.uint64(size)
    return out.astype(np.int64)


def sample_order(start: int, stop: int, *, seed: int, size: int) -> IntArray:
    """Training-set positions of sample indices [start, stop), shape (stop - start,).

    >>> a = sample_order(0, 10, seed=1, size=7)  # straddles an epoch of 7
    >>> sorted(a[:7].tolist())
    [0, 1, 2, 3, 4, 5, 6]
    >>> bool((a[3:6] == sample_order(3, 6, seed=1, size=7)).all())
    True
    """
    index = np.arange(start, stop, dtype=np.int64)
    return permute(index % size, index // size, seed=seed, size=size)


class SampleOrder:
    """`sample_order` of one seed, computed a chunk at a time because small batches ask for few indices at once."""

    def __init__(self, *, seed: int, size: int) -> None:
        self._seed = seed
        self._size = size
        self._start = 0
        self._chunk = np.empty(0, dtype=np.int64)

    def __call__(self, start: int, stop: int) -> IntArray:
        """Training-set positions of sample indices [start, stop)."""
        if start < self._start or stop > self._start + len(self._chunk):
            self._start = start
            self._chunk = sample_order(start, max(stop, start + _CHUNK), seed=self._seed, size=self._size)
        return self._chunk[start - self._start : stop - self._start]


def counter_normals(start: int, stop: int, count: int, *, seed: int) -> FloatArray:
    """Standard normals of sample indices [start, stop), shape (stop - start, count), by Box-Muller on hashed counters.

    Row i depends on (seed, i) alone.

    >>> a = counter_normals(0, 8, 3, seed=5)
    >>> bool((a[4:] == counter_normals(4, 8, 3, seed=5)).all())
    True
    """
    pairs = (count + 1) // 2
    with np.errstate(over="ignore"):
        sample_key = mix64(np.uint64(seed) * _GOLDEN + np.arange(start, stop, dtype=np.uint64) + np.uint64(1))
        counter = np.arange(2 * pairs, dtype=np.uint64) * _GOLDEN
        bits = mix64(mix64(sample_key[:, None] ^ counter[None, :]) + _GOLDEN)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, :pairs]))
    angle = 2.0 * np.pi * uniform[:, pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
