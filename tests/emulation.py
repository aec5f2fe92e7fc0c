"""CUDA kernels on the host: every case with guard bytes around each buffer and poisoned outputs.

A case calls one function of the C interface and compares all that it wrote with float64. Its blocks
are also run one at a time, to see that no element is written by two of them, and each is by one.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ops_cuda import library
from ops_cuda.library import Library, Place
from tests.operators import using

GUARD = 64  # bytes
GUARD_BYTE, POISON = 0xA5, 0xFF
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ORDERS = ((0, 0, 0), (1, 1, 0), (2, 2, 7))  # threads, blocks, seed
HOST = Place(0, None)


class Guarded:
    """The bytes of a tensor, in memory order, between guards; `shift` elements off 16 bytes."""

    def __init__(self, like: Tensor, *, shift: int = 0, poisoned: bool = False):
        self.dtype, self.size = like.dtype, like.numel() * like.element_size()
        self.offset = GUARD + shift * like.element_size()
        self.bytes = torch.full((self.offset + self.size + GUARD,), GUARD_BYTE, dtype=torch.uint8)
        if poisoned:
            self.poison()
        elif self.size:
            self.inside.copy_(in_memory_order(like).view(torch.uint8))
        self.original = self.bytes.clone()

    @property
    def inside(self) -> Tensor:
        return self.bytes[self.offset : self.offset + self.size]

    @property
    def pointer(self) -> int:
        return self.bytes.data_ptr() + self.offset

    def poison(self) -> None:
        self.inside.fill_(POISON)

    def values(self) -> Tensor:
        return self.inside.clone().view(self.dtype)

    def written(self) -> Tensor:
        """Which elements are no longer poison."""
        size = self.dtype.itemsize
        return (self.inside.view(-1, size) != POISON).any(dim=1)

    def guards_hold(self) -> bool:
        outside = torch.cat([self.bytes[: self.offset], self.bytes[self.offset + self.size :]])
        return bool((outside == GUARD_BYTE).all())


def in_memory_order(x: Tensor) -> Tensor:
    """A dense tensor's elements as they lie."""
    if x.ndim == 4 and not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.contiguous().flatten()


@dataclass
class Case:
    """One call: `outputs` give shapes and dtypes, `expected` computes them from float64 inputs by
    the reference; `plain` does the same in the case's dtype.
    """

    name: str
    function: str
    dtype: torch.dtype
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    arguments: list[Any]
    reference: Callable[[torch.dtype], list[Tensor]]
    order: list[int] = field(default_factory=list)  # of pointers: inputs, then outputs
    shift: int = 0

    def run(self, lib: Library) -> tuple[list[Guarded], list[Guarded]]:
        inputs = [None if x is None else Guarded(x, shift=self.shift) for x in self.inputs]
        outputs = [Guarded(x, shift=self.shift, poisoned=True) for x in self.outputs]
        self.call(lib, inputs, outputs)
        return [x for x in inputs if x], outputs

    def call(self, lib: Library, inputs: list[Guarded | None], outputs: list[Guarded]) -> None:
        pointers = [None if x is None else x.pointer for x in (*inputs, *outputs)]
        if self.order:
            pointers = [pointers[i] for i in self.order]
        number = library.DTYPES[str(self.dtype).removeprefix("torch.")]
        lib.call(self.function, HOST, number, *pointers, *self.arguments)


def configure(
    lib: Library, order: tuple[int, int, int] = (0, 0, 0), first: int = 0, last: int = 2**62
) -> None:
    threads, blocks, seed = order
    numbers = (ctypes.c_uint64(seed), ctypes.c_int64(first), ctypes.c_int64(last))
    lib._functions.ls_emulation_configure(threads, blocks, *numbers)


def num_blocks(lib: Library) -> int:
    lib._functions.ls_emulation_blocks.restype = ctypes.c_int64
    return lib._functions.ls_emulation_blocks()


def check(case: Case, lib: Library) -> None:
    """AssertionError says what is wrong."""
    with using(None):
        exact = case.reference(torch.float64)
        plain = case.reference(case.dtype)
    for order in ORDERS:
        configure(lib, order)
        inputs, outputs = case.run(lib)
        for number, (found, wanted, simple) in enumerate(zip(outputs, exact, plain, strict=True)):
            where = f"{case.name}, order {order}, output {number}"
            assert found.guards_hold(), f"{where}: written outside its buffer"
            values = found.values().double()
            wanted, simple = in_memory_order(wanted), in_memory_order(simple).double()
            # at most twice plain PyTorch's error, plus one unit in the last place
            unit = torch.finfo(case.dtype).eps * wanted.abs().max().clamp(min=1)
            if case.dtype == torch.float64:  # its own reference, which adds up in another order
                unit *= 8
            bound = 2 * (simple - wanted).abs().max() + unit
            error = (values - wanted).abs().max() if len(values) else torch.tensor(0.0)
            assert error <= bound, f"{where}: off by {float(error):.3g}, {float(bound):.3g} allowed"
        for buffer in inputs:
            assert buffer.bytes.equal(buffer.original), f"{case.name}: an input was written"
    configure(lib)
    blocks_write_once(case, lib)


def blocks_write_once(case: Case, lib: Library) -> None:
    """Each block alone, over fresh poison."""
    inputs = [None if x is None else Guarded(x, shift=case.shift) for x in case.inputs]
    outputs = [Guarded(x, shift=case.shift, poisoned=True) for x in case.outputs]
    case.call(lib, inputs, outputs)
    writers = [torch.zeros(out.numel(), dtype=torch.int32) for out in case.outputs]
    for block in range(num_blocks(lib)):
        configure(lib, first=block, last=block + 1)
        for out in outputs:
            out.poison()
        case.call(lib, inputs, outputs)
        for count, out in zip(writers, outputs, strict=True):
            count += out.written()
    configure(lib)
    for count in writers:
        assert int(count.max()) <= 1, f"{case.name}: an element is written by two blocks"
        assert int(count.min()) == 1, f"{case.name}: an element is written by no block"
