"""The header of a GGUF file, checked before the gguf package reads it.

    magic u32, version u32, tensors u64, fields u64
    each field    key, type u32, value     (a string is its length u64 and its bytes,
                                            an array its type u32, its length u64 and its elements)
    each tensor   name, dimensions u32, shape u64..., type u32, offset u64
    padding to the alignment, then the tensors

The package believes every length that it reads: a damaged one can keep it busy for ever. Here no
step goes past the end of the file, and no tensor lies outside it or in another one.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type
DEEPEST = 8  # arrays in arrays
DIMENSIONS = 4


def one_line(text: str) -> str:
    """Text from a file, fit for a message."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, within its header")
        self.at += size

    def number(self, form: str) -> int:
        at = self.at
        self.skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self.data, at)[0])

    def u32(self) -> int:
        return self.number("<I")

    def u64(self) -> int:
        return self.number("<Q")

    def string(self) -> bytes:
        length = self.u64()
        at = self.at
        self.skip(length)
        return self.data[at : self.at]

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in SCALARS:
            self.skip(SCALARS[kind])
        elif kind == STRING:
            self.skip(self.u64())
        elif kind == ARRAY and depth < DEEPEST:
            element, length = self.u32(), self.u64()
            if element in SCALARS:
                self.skip(SCALARS[element] * length)
            else:
                for _ in range(length):  # each takes bytes or ends it
                    self.value(element, depth + 1)
        else:
            raise ValueError(f"a field of type {kind} at byte {self.at}")


def _tensor(cursor: _Cursor, sizes: dict[int, tuple[int, int]]) -> tuple[int, int, str]:
    """Offset in the data, bytes, and name of the next tensor."""
    name = ascii(cursor.string().decode())
    dimensions = cursor.u32()
    if not 1 <= dimensions <= DIMENSIONS:
        raise ValueError(f"{dimensions} dimensions of {name}")
    shape = [cursor.u64() for _ in range(dimensions)]
    if not all(shape):
        raise ValueError(f"no values in {name}")
    kind = cursor.u32()
    if kind not in sizes:
        raise ValueError(f"type {kind} of {name}")
    block, size = sizes[kind]
    if shape[0] % block:
        raise ValueError(f"rows of {shape[0]} values, blocks of {block} in {name}")
    return cursor.u64(), math.prod(shape) // block * size, name


def check_header(path: Path, sizes: dict[int, tuple[int, int]]) -> bool:
    """False where the file is big-endian; ValueError says what is wrong with it.

    Args:
        sizes: values and bytes in a block, by the number of a tensor's type.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        cursor = _Cursor(data)
        cursor.skip(4)
        version = cursor.u32()
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            return False
        if version not in VERSIONS:
            raise ValueError(f"version {version}")
        tensors, fields = cursor.u64(), cursor.u64()
        alignment = 32
        for _ in range(fields):
            key, kind = cursor.string(), cursor.u32()
            at = cursor.at
            cursor.value(kind)
            if key == b"general.alignment":
                alignment = struct.unpack_from("<I", data, at)[0] if kind == 4 else 0
        if alignment == 0 or alignment & (alignment - 1):
            raise ValueError("an alignment that is no power of two")
        places = sorted(_tensor(cursor, sizes) for _ in range(tensors))
        start = -(-cursor.at // alignment) * alignment
        free = 0
        for offset, size, name in places:
            if offset % alignment or offset < free:
                raise ValueError(f"{name} not aligned, or in another tensor")
            free = offset + size
            if start + free > len(data):
                raise ValueError(f"{name} ends at byte {start + free} of {len(data)}")
    return True
