"""TensorBoard's event files: records with checksums, each a protocol buffer `Event`, of which scalars are read.

A record is its length (8 bytes, little endian), the masked CRC-32C of these 8 bytes (4 bytes), the data, and the masked
CRC-32C of the data (4 bytes). The fields of `Event`, `Summary` and `TensorProto` have the numbers of TensorFlow's
event.proto, summary.proto and tensor.proto, in which a number is never used again for another field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_LONG = 1 << 16  # bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
"""TensorFlow's number of a type -> NumPy's name of it."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value: `tag`, the `step` it was logged with, `value`."""

    tag: str
    step: int
    value: float


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4) with TensorFlow's mask: turned right by 15 bits, plus 0xa282ead8.

    >>> hex(masked_crc32c(bytes(32)))  # the RFC gives 0x8a9136aa before the mask
    '0xfd7fffa'
    """
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def begins_as_events(content: bytes) -> bool:
    """Whether the file begins with the length of a record and its checksum."""
    if len(content) < _HEADER.size:
        return False
    return masked_crc32c(content[:8]) == int(_HEADER.unpack_from(content)[1])


def scalars(content: bytes) -> tuple[list[Scalar], int, list[str]]:
    """(every scalar of every whole record in order, the number of whole records, what is damaged)."""
    found: list[Scalar] = []
    problems: list[str] = []
    at = records = damaged = 0
    while at < len(content):
        if at + _HEADER.size > len(content):
            problems.append(f"its last record, at byte {at}, is cut and left out")
            break
        length, checksum = _HEADER.unpack_from(content, at)
        if masked_crc32c(content[at : at + 8]) != checksum:
            problems.append(f"what follows byte {at} of {len(content)} is damaged and left out")
            break
        start, end = at + _HEADER.size, at + _HEADER.size + length
        if end + _CHECKSUM.size > len(content):
            problems.append(f"its last record, at byte {at}, is cut and left out")
            break
        here = _of_record(content[start:end], _CHECKSUM.unpack_from(content, end)[0])
        if here is None:
            damaged += 1
        else:
            found += here
            records += 1
        at = end + _CHECKSUM.size
    if damaged:
        problems.append(f"{damaged} of its records are damaged and left out")
    return found, records, problems


def _of_record(event: bytes, checksum: int) -> list[Scalar] | None:
    """The scalars of a record; None for a damaged one."""
    short = len(event) <= _LONG
    if short and masked_crc32c(event) != checksum:
        return None
    try:
        here = list(_of_event(event))
    except (ValueError, IndexError, struct.error):
        return None
    # Images and graphs are long and hold no scalar: their checksum would be computed for nothing.
    return here if short or not here or masked_crc32c(event) == checksum else None


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(number, wire type, value) of each field of a protocol buffer message.

    Raises:
        ValueError, IndexError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if length < 0 or at + length > len(message):
            raise ValueError("a field that is longer than its message")
        yield number, wire, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def _of_event(event: bytes) -> Iterator[Scalar]:
    """Event: step = 2, summary = 5; Summary: value = 1."""
    step, summaries = 0, []
    for number, _, value in _fields(event):
        if number == 2 and isinstance(value, int):
            step = _signed(value)
        elif number == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, _, value in _fields(summary):
            if number == 1 and isinstance(value, bytes):
                yield from _of_value(value, step)


def _of_value(message: bytes, step: int) -> Iterator[Scalar]:
    """Summary.Value: tag = 1, simple_value = 2, tensor = 8."""
    tag, number_there = "", None
    for number, wire, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode("utf-8", errors="replace")
        elif number == 2 and wire == _FIXED32 and isinstance(value, bytes):
            number_there = float(struct.unpack("<f", value)[0])
        elif number == 8 and isinstance(value, bytes):
            number_there = _of_tensor(value)
    if number_there is not None:
        yield Scalar(tag, step, number_there)


def _of_tensor(message: bytes) -> float | None:
    """The one element of a tensor; None for more than one, and for text.

    TensorProto: dtype = 1, tensor_content = 4, float_val = 5, double_val = 6, int_val = 7, int64_val = 10.
    """
    dtype, elements = 0, []
    for number, _, value in _fields(message):
        if number == 1 and isinstance(value, int):
            dtype = value
        elif number in (4, 5, 6) and isinstance(value, bytes):
            kind = {5: "<f4", 6: "<f8"}.get(number) or _DTYPES.get(dtype)
            if kind is None or len(value) % np.dtype(kind).itemsize:
                return None
            elements += np.frombuffer(value, kind).tolist()
        elif number in (7, 10) and dtype in (3, 9):
            elements.append(_signed(value if isinstance(value, int) else _varint(value, 0)[0]))
    return float(elements[0]) if len(elements) == 1 else None
