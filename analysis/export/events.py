"""TensorBoard's event files: scalars as protocol buffers in TFRecord frames, many at a time.

A frame is: length (8 bytes, little-endian), masked CRC-32C of these, the record, masked CRC-32C of the record. A record
is an `Event` of tensorflow/core/util/event.proto; of it we write wall_time = 1 (double), step = 2 (varint),
file_version = 3 and summary = 5, whose values have tag = 1 and simple_value = 2 (32-bit float).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

ByteRows = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK = 0xA282EAD8


def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_CRC = _crc_table()


def crc32c(rows: ByteRows) -> npt.NDArray[np.uint32]:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) of each row of bytes, shape (N, L) -> (N,).

    >>> hex(crc32c(np.frombuffer(b"123456789", np.uint8)[None])[0])
    '0xe3069283'
    """
    crc = np.full(len(rows), 0xFFFFFFFF, dtype=np.uint32)
    for byte in rows.T:
        crc = _CRC[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return ~crc


def masked_crc(rows: ByteRows) -> ByteRows:
    """The CRC of each row as TFRecord stores it, rotated and offset, shape (N, L) -> (N, 4)."""
    crc = crc32c(rows)
    turned = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(_MASK)
    return turned.astype("<u4").view(np.uint8).reshape(-1, 4)


def frames(records: ByteRows) -> bytes:
    """Records of one length, shape (N, L), each in its frame."""
    length = np.array([records.shape[1]], dtype="<u8").view(np.uint8)[None]
    head = np.hstack([length, masked_crc(length)])
    return np.hstack([np.repeat(head, len(records), axis=0), records, masked_crc(records)]).tobytes()


def version_frame(wall_s: float) -> bytes:
    """The frame that an event file begins with."""
    version = b"brain.Event:2"
    record = b"\x09" + np.float64(wall_s).astype("<f8").tobytes() + b"\x1a" + varint(len(version)) + version
    return frames(np.frombuffer(record, np.uint8)[None])


def scalar_frames(step: IntArray, wall_s: FloatArray, values: Mapping[str, FloatArray]) -> Iterator[bytes]:
    """One event per step with every scalar of it.

    Args:
        step: optimizer steps, ascending, shape (N,).
        wall_s: Unix time [seconds], shape (N,).
        values: tag -> values, shape (N,); stored as 32-bit floats, as TensorBoard has them.

    Yields:
        Frames of events whose step numbers take equally many bytes.
    """
    edges = [0, *np.flatnonzero(np.diff([_varint_bytes(s) for s in step])) + 1, len(step)]
    for begin, end in pairwise(edges):
        at = slice(begin, end)
        summary, offsets = _summary(list(values))
        clock = wall_s[at].astype("<f8").view(np.uint8).reshape(-1, 8)
        parts = [_repeated(b"\x09", len(clock)), clock, _repeated(b"\x10", len(clock)), _varints(step[at])]
        body = _repeated(summary, len(clock)).copy()
        for offset, column in zip(offsets, values.values(), strict=True):
            with np.errstate(over="ignore"):  # beyond a 32-bit float it is infinite
                body[:, offset : offset + 4] = column[at].astype("<f4").view(np.uint8).reshape(-1, 4)
        yield frames(np.hstack([*parts, _repeated(b"\x2a" + varint(len(summary)), len(clock)), body]))


def _summary(tags: list[str]) -> tuple[bytes, list[int]]:
    """A summary with a zero for every value, and where the values go."""
    content, offsets = b"", []
    for tag in tags:
        name = tag.encode()
        value = b"\x0a" + varint(len(name)) + name + b"\x15" + bytes(4)
        content += b"\x0a" + varint(len(value)) + value
        offsets.append(len(content) - 4)
    return content, offsets


def varint(n: int) -> bytes:
    """A number in base 128, the low digits first.

    >>> varint(300).hex()
    'ac02'
    """
    digits = []
    while n > 0x7F:
        digits.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*digits, n])


def _varint_bytes(n: int) -> int:
    return max(1, (int(n).bit_length() + 6) // 7)


def _varints(numbers: IntArray) -> ByteRows:
    """Numbers of equally many base-128 digits, shape (N,) -> (N, digits)."""
    digits = _varint_bytes(int(numbers[0]))
    shifted = numbers[:, None] >> (7 * np.arange(digits))
    more = np.where(np.arange(digits) < digits - 1, 0x80, 0)
    return np.asarray((shifted & 0x7F) | more, dtype=np.uint8)


def _repeated(content: bytes, times: int) -> ByteRows:
    return np.broadcast_to(np.frombuffer(content, np.uint8), (times, len(content)))
