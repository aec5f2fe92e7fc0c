"""Reads a pickle without running anything that it names: a machine for the stream's opcodes that
builds numbers, strings, containers, tensors and inert records, and nothing else.

Python's own unpickler calls whatever the stream names; here a name is a `Name`, and the few that
older checkpoints need have a builder each, by an allow-list. All other names are refused.
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from lafite_shifted.errors import InputError
from lafite_shifted.legacy.builders import (
    BUILDERS,
    RECORD_PREFIXES,
    NumpyType,
    Record,
    Refused,
    plain,
    shown,
)

PROTO = b"\x80"  # the operation with which all begin since protocol 2
MAX_OPCODES = 1_000_000  # of a stream; a checkpoint of 1024 pixels has some 10,000
# bytes that builders are given, in all: each of a checkpoint's tensors is given once
MAX_GIVEN, FREE_GIVEN = 2, 2**24  # times the stream's length, and more than that of small ones
_MARK = object()
_DAMAGED = (  # what a builder, or pickletools, raises for content that it cannot be
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, MemoryError, RuntimeError),
)

# Opcodes that push what pickletools has read already.
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """A class or function that the stream names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def read_pickle(data: bytes) -> Any:
    """What the pickle `data` holds; InputError for a damaged stream, or one that names what is not
    allowed.
    """
    if data[:1] != PROTO:
        raise InputError("it is no pickle. Check the path, or copy the file again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools, of damaged texts
            return _run(data)
    except Refused as error:
        raise InputError(f"{error}. Nothing of it was run.") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"it is damaged, or no pickle ({reason}). Copy it again.") from error


def _run(data: bytes) -> Any:
    machine = _Machine(MAX_GIVEN * len(data) + FREE_GIVEN)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(BytesIO(data))):
        if number > MAX_OPCODES:
            raise Refused(f"it has more than {MAX_OPCODES} operations")
        if opcode.name == "STOP":
            return machine.pop()
        machine.run(opcode.name, argument)
    raise AssertionError("pickletools lets no stream end without a STOP")


class _Machine:
    """The stack and the memo."""

    def __init__(self, may_give: int) -> None:
        self.may_give = may_give  # bytes to builders, which may copy them
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """The top of the stack, which must be a value."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def pop_to_mark(self) -> list[Any]:
        """All above the last mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def run(self, opcode: str, argument: Any) -> None:
        """One opcode."""
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _EMPTY:
            self.stack.append(_EMPTY[opcode]())
        elif opcode in _TUPLES:
            values = [self.pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(values)))
        else:
            method = getattr(self, f"_{opcode.lower()}", None)
            if method is None:
                raise Refused(f"it uses the operation {opcode}, which no such file needs")
            method(argument)

    # --- stack and memo

    def _proto(self, version: int) -> None:
        if not 2 <= version <= 5:
            raise ValueError(f"protocol {version}")

    def _frame(self, _: Any) -> None:
        pass

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self._put(len(self.memo))

    def _put(self, key: int) -> None:
        value = self.pop()
        self.memo[key] = value
        self.stack.append(value)

    _binput = _long_binput = _put

    def _get(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError(f"nothing is stored under {shown(key)}")
        self.stack.append(self.memo[key])

    _binget = _long_binget = _get

    # --- containers

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def _dict(self, _: Any) -> None:
        self.stack.append(_pairs(self.pop_to_mark()))

    def _frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(plain(self.pop_to_mark())))

    def _append(self, _: Any) -> None:
        value = self.pop()
        _of_type(self.stack[-1], list).append(value)

    def _appends(self, _: Any) -> None:
        values = self.pop_to_mark()
        _of_type(self.stack[-1], list).extend(values)

    def _additems(self, _: Any) -> None:
        values = self.pop_to_mark()
        _of_type(self.stack[-1], set).update(plain(values))

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        _of_type(self.stack[-1], dict).update(_pairs([key, value]))

    def _setitems(self, _: Any) -> None:
        pairs = _pairs(self.pop_to_mark())
        _of_type(self.stack[-1], dict).update(pairs)

    # --- names and objects

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self._name(_of_type(module, str), _of_type(name, str))

    def _name(self, module: str, name: str) -> None:
        found = Name(module, name)
        if str(found) not in BUILDERS and not str(found).startswith(RECORD_PREFIXES):
            raise Refused(f"it names {shown(str(found))}, which no such file needs")
        self.stack.append(found)

    def _reduce(self, _: Any) -> None:
        arguments, name = _of_type(self.pop(), tuple), _of_type(self.pop(), Name)
        self.may_give -= sum(map(_size, arguments))
        if self.may_give < 0:
            raise Refused("it builds more than it holds")
        self.stack.append(_made(name, arguments))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state, top = self.pop(), self.stack[-1]
        if isinstance(top, NumpyType):
            top.set_state(state)
        elif isinstance(top, Record):
            top.attributes.update(_of_type(state, dict))
        elif not (state is None or state == {}):
            raise Refused(f"it sets attributes of a {type(top).__name__}")


def _made(name: Name, arguments: tuple[Any, ...]) -> Any:
    if str(name) in BUILDERS:
        return BUILDERS[str(name)](*arguments)
    if arguments:
        raise Refused(f"it calls {shown(str(name))}")
    return Record(str(name))


def _size(value: Any) -> int:
    """Bytes of a text or a container, roughly."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    return 8 * len(value) if isinstance(value, list | tuple | dict | set | frozenset) else 8


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} should be")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    return dict(zip(plain(values[::2]), values[1::2], strict=True))
