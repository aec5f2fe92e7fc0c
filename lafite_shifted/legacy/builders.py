"""What a pickle of an older checkpoint may name, and what our reader makes of it.

Every builder checks what it is given: it raises `Refused`, or ValueError for what is damaged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lafite_shifted.legacy.storage import Storage, read_storage

_MAX_DIMS = 16  # of a tensor; a convolution's weight has 4


class Refused(Exception):
    """The stream asks for what is not allowed."""


def shown(value: Any) -> str:
    """What a message may tell of a value of the stream: a number, a string's beginning, otherwise
    the type. (The text of containers that share their parts may be endless, that of deep ones ends
    the process.)
    """
    if isinstance(value, str):
        return repr(value[:50])
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"a {type(value).__name__}"


@dataclass(eq=False)
class Record:
    """An object whose class stays unknown: the name of the class, and its attributes."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class NumpyType:
    """numpy.dtype of a number."""

    code: str
    order: str = "<"

    def set_state(self, state: Any) -> None:
        """`__setstate__` of a plain dtype: version, byte order, then what only others have."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not (isinstance(order, str) and order in ("<", ">", "|", "=")):
            raise ValueError("not the state of a numpy.dtype")
        self.order = order

    def number(self, data: bytes) -> bool | int | float:
        """The one number that `data` holds."""
        return np.frombuffer(data, np.dtype(self.order + self.code)).item()


def _numpy_type(code: Any, *_: Any) -> NumpyType:
    known = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}
    if not isinstance(code, str) or code not in known:
        raise Refused(f"it holds numbers of the type {shown(code)}")
    return NumpyType(code)


def _numpy_scalar(dtype: Any, data: Any) -> bool | int | float:
    if not isinstance(dtype, NumpyType) or not isinstance(data, bytes):
        raise ValueError("a number without a type")
    return dtype.number(data)


def _persistent(meta: Any) -> Record:
    """An object of a class that travels as source text, which nobody looks at."""
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise Refused("it holds a persistent object that is not of a class")
    kind, name = meta.get("type"), meta.get("class_name")
    if not (isinstance(kind, str) and kind == "class" and isinstance(name, str)):
        raise Refused("it holds a persistent object that is not of a class")
    return Record(name, meta["state"])


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor without a shape")
    whole = [offset, *size, *stride]
    fits = len(size) == len(stride) <= _MAX_DIMS
    if not fits or not all(type(n) is int and 0 <= n < 2**63 for n in whole):
        raise ValueError("a tensor of an impossible shape")
    data = storage.numbers
    numbers = 1
    for length in size:
        numbers *= length
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if numbers and (numbers > len(data) or last >= len(data)):
        raise ValueError("a tensor beyond its storage")
    return data.as_strided(tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter that is no tensor")
    return data


def plain(values: Sequence[Any]) -> Sequence[Any]:
    """`values`, none of which is more than a number or a string: keys, and members of a set. (To
    hash a tuple of a million levels ends the process.)
    """
    if not all(value is None or isinstance(value, str | bytes | int | float) for value in values):
        raise Refused("it holds a key that is neither a number nor a string")
    return values


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in _several(pairs)):
        raise ValueError("a dictionary that is not of pairs")
    plain([key for key, _ in pairs])
    return dict(pairs)


def _several(values: Any) -> Sequence[Any]:
    if not isinstance(values, tuple | list):
        raise ValueError(f"a {type(values).__name__} where a list should be")
    return values


def _set(values: Any = ()) -> set[Any]:
    return set(plain(_several(values)))


def _device(*parts: Any) -> str:
    if not all(isinstance(part, str | int) for part in parts):
        raise ValueError("not the name of a device")
    return ":".join(map(str, parts))


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """How bytes travel in protocol 2."""
    if not isinstance(text, str):
        raise ValueError("bytes that are not of a text")
    if not isinstance(encoding, str) or encoding != "latin1":
        raise Refused(f"it holds bytes as {shown(encoding)}")
    return text.encode("latin1")


def _never(*_: Any) -> Any:
    raise Refused("it calls a type")


BUILDERS: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "dnnlib.util.EasyDict": _ordered,
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "_codecs.encode": _encoded,
    "builtins.bytes": lambda: b"",
    "__builtin__.bytes": lambda: b"",
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": read_storage,
    "torch.Size": lambda values=(): tuple(_several(values)),
    "torch.device": _device,
    **{f"torch.{name}": _never for name in ("float16", "bfloat16", "float32", "float64", "int64")},
}
RECORD_PREFIXES = ("torch.nn.modules.",)  # become a Record, without arguments
