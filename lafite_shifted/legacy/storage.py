"""The numbers of a tensor, as torch.save has written them into a pickle: five small pickles (a
magic number, a version, facts of the machine, what is stored, its key), then how many numbers there
are, and they themselves.

Nothing of the pickles is built: their operations are compared with those that torch.save writes.
"""

import pickletools
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DTYPES = {
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch ComplexFloatStorage": torch.complex64,
    "torch BoolStorage": torch.bool,
    "torch ByteStorage": torch.uint8,
    "torch CharStorage": torch.int8,
    "torch ShortStorage": torch.int16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
}
_WITHOUT_MEANING = {"PROTO", "MARK", "TUPLE", "STOP", "BINPUT", "LONG_BINPUT"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"LONG1", "BININT", "BININT1", "BININT2", "BINUNICODE", "GLOBAL"}
_MAX_OPERATIONS = 100  # of a pickle; torch.save writes some 30


@dataclass(frozen=True, eq=False)
class Storage:
    """Numbers without a shape, [n]."""

    numbers: Tensor


def read_storage(data: Any) -> Storage:
    """The storage in `data`; ValueError for what is none."""
    if not isinstance(data, bytes):
        raise ValueError("a storage that is not of bytes")
    stream = BytesIO(data)
    if _operations(stream) != [_MAGIC] or _operations(stream) != [_VERSION]:
        raise ValueError("a storage of another format")
    machine = _operations(stream)
    place = machine.index("little_endian") if "little_endian" in machine else -2
    if machine[place + 1 : place + 2] != [True]:
        raise ValueError("a storage of another byte order")
    stored = _operations(stream)
    _operations(stream)  # the key, of this one storage
    if len(stored) != 7 or stored[0] != "storage" or stored[5:] != [None, "BINPERSID"]:
        raise ValueError("a storage of another structure")
    dtype, count = _DTYPES.get(str(stored[1])), stored[4]
    if dtype is None or not isinstance(count, int):
        raise ValueError(f"a storage of the type {str(stored[1])[:50]!r}")
    header, content = stream.read(8), stream.read()
    if header != struct.pack("<q", count) or len(content) < count * dtype.itemsize:
        raise ValueError("a storage that is cut short")
    if count == 0:
        return Storage(torch.empty(0, dtype=dtype))
    return Storage(torch.frombuffer(bytearray(content), dtype=dtype, count=count))


def _operations(stream: BytesIO) -> list[str | int | bool | None]:
    """What the next pickle pushes, in order; an operation that pushes no literal is its name."""
    found = list[str | int | bool | None]()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > _MAX_OPERATIONS:
            raise ValueError("a storage of another structure")
        if opcode.name in _LITERALS:
            found.append(argument)
        elif opcode.name in _CONSTANTS:
            found.append(_CONSTANTS[opcode.name])
        elif opcode.name not in _WITHOUT_MEANING:
            found.append(opcode.name)
    return found
