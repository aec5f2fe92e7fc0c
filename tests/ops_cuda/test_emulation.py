"""Every CUDA kernel, emulated: right, within its buffers, in any order of threads and blocks."""

import ctypes
import mmap
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ops_cuda import build, targets
from ops_cuda.library import Activation, EpilogueShape, Library, Upfirdn2dShape
from tests.emulation import DTYPES, HOST, check, configure, num_blocks
from tests.emulation_cases import CASES
from tests.operators import EMULATION, emulated_target
from torch_utils.ops.philox import philox_4x32


@pytest.fixture(scope="module")
def emulated() -> Library:
    return Library(build.build(emulated_target()))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("kernel", CASES)
def test_emulated_kernels_match_float64(kernel: str, dtype: torch.dtype, emulated: Library):
    cases = list(CASES[kernel](dtype))
    assert cases or (kernel, dtype) in {("philox", other) for other in DTYPES[1:]}
    for case in cases:
        check(case, emulated)


# --- more than 2^31 elements: the first and the last blocks, over memory that nothing else touches

HUGE = 2**31 + 2**20
BFLOAT16 = 3


class Untouched:
    """Zeros that take no memory until they are written."""

    def __init__(self, num_bytes: int):
        self.memory = mmap.mmap(-1, num_bytes)
        self.bytes = torch.frombuffer(self.memory, dtype=torch.uint8)
        self.values = self.bytes.view(torch.bfloat16)

    @property
    def pointer(self) -> int:
        return self.bytes.data_ptr()


@pytest.fixture(scope="module")
def huge() -> tuple[Untouched, Untouched]:
    x, y = Untouched(2 * HUGE), Untouched(2 * HUGE)
    x.values[:64] = torch.arange(64)
    x.values[-64:] = torch.arange(64) + 100
    return x, y


def ends(lib: Library, run) -> None:
    """The first block, then the last one."""
    run_blocks = ((0, 1), None)
    for blocks in run_blocks:
        if blocks is None:
            last = num_blocks(lib)
            configure(lib, first=last - 1, last=last)
        else:
            configure(lib, first=blocks[0], last=blocks[1])
        run()
    configure(lib)


def test_bias_act_beyond_two_to_the_31(emulated: Library, huge: tuple[Untouched, Untouched]):
    x, y = huge
    bias = torch.tensor([1.0, 2.0])
    shape = (HUGE // 16, 2, 8)
    function = Activation(0, 1.0, -1.0)
    pointers = (x.pointer, bias.data_ptr(), y.pointer)
    ends(
        emulated, lambda: emulated.call("ls_bias_act", HOST, BFLOAT16, *pointers, *shape, function)
    )
    shift = bias.repeat_interleave(8).repeat(4)
    assert y.values[:64].float().equal(torch.arange(64) + shift)
    assert y.values[-64:].float().equal(torch.arange(64) + 100 + shift)


def test_bias_act_grad_beyond_two_to_the_31(emulated: Library, huge: tuple[Untouched, Untouched]):
    x, y = huge
    function = Activation(1, 2.0, -1.0)
    pointers = (x.pointer, x.pointer, y.pointer)
    ends(
        emulated,
        lambda: emulated.call("ls_bias_act_grad", HOST, BFLOAT16, *pointers, HUGE, function),
    )
    assert y.values[-64:].float().equal(2 * (torch.arange(64) + 100.0))


def test_philox_beyond_two_to_the_31(emulated: Library):
    index, count = torch.tensor([11]), HUGE
    y = Untouched(4 * count)
    call = ("ls_philox", HOST, 0, index.data_ptr(), y.pointer, 1, count, 77, 1)
    ends(emulated, lambda: emulated.call(*call))
    found = y.bytes.view(torch.float32)
    last = torch.arange(count // 4 - 4, count // 4)
    counter = [last, torch.zeros_like(last), torch.full_like(last, 11), torch.zeros_like(last)]
    expected = torch.stack(philox_4x32(counter, 77), dim=1).flatten()
    assert found[-16:].equal((expected >> 8).float() * 2.0**-24)


@pytest.mark.parametrize("layout", [0, 1])
def test_epilogue_beyond_two_to_the_31(
    layout: int, emulated: Library, huge: tuple[Untouched, Untouched]
):
    x, y = huge
    pixels = 64
    shape = EpilogueShape(HUGE // (8 * pixels), 8, pixels, 1, layout)
    scale = torch.ones(shape.n, 8)
    noise, strength, bias = torch.zeros(pixels), torch.zeros(()), torch.full((8,), 3.0)
    sides = [side.data_ptr() for side in (scale, noise, strength, bias)]
    function = Activation(0, 1.0, -1.0)
    pointers = (x.pointer, *sides, None, y.pointer)
    call = ("ls_synthesis_epilogue", HOST, BFLOAT16, *pointers, shape, function)
    ends(emulated, lambda: emulated.call(*call))
    assert y.values[-64:].float().equal(torch.arange(64) + 103.0)


@pytest.mark.parametrize("layout", [0, 1])
def test_to_rgb_beyond_two_to_the_31(
    layout: int, emulated: Library, huge: tuple[Untouched, Untouched]
):
    x, y = huge
    channels, pixels = 8, 64
    n = HUGE // (channels * pixels)
    weight, bias = torch.zeros(n, 3, channels), torch.tensor([1.0, 2.0, 3.0])
    weight[:, :, -1] = 1  # the last channel alone
    pointers = (x.pointer, weight.data_ptr(), bias.data_ptr(), y.pointer)
    shape = (n, channels, pixels, layout)
    ends(emulated, lambda: emulated.call("ls_to_rgb", HOST, BFLOAT16, *pointers, *shape))
    written = y.bytes.view(torch.float32)[: n * 3 * pixels].view(n, 3, pixels)
    values = x.values[-64:].float()  # the end of the last image
    expected = values if layout == 0 else values[channels - 1 :: channels]
    found = written[-1, :, -len(expected) :]
    assert found.equal(expected + bias[:, None])


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("num_taps", [1, 4])  # the general kernel, and the fast path
def test_upfirdn2d_beyond_two_to_the_31(
    num_taps: int, layout: int, emulated: Library, huge: tuple[Untouched, Untouched]
):
    x, y = huge
    taps = (ctypes.c_double * 64)(*[0.0] * (num_taps - 1), 1.0)  # the last tap alone: a copy
    size = 64
    n = HUGE // (8 * size * size)
    shape = Upfirdn2dShape(
        *(n, 8, size, size, size, size, layout, 1, 1, 1, 1, num_taps - 1, num_taps - 1),
        *(num_taps, num_taps, taps, taps),
    )
    call = (HOST, BFLOAT16, x.pointer, None, y.pointer, ctypes.byref(shape))
    ends(emulated, lambda: emulated.call("ls_upfirdn2d", *call))
    assert y.values[:64].float().equal(torch.arange(64.0))
    assert y.values[-64:].float().equal(torch.arange(64) + 100.0)


# --- planted faults: the harness must see each

FAULTS = {
    "a missing barrier": (
        "upfirdn2d",
        "upfirdn2d.cu",
        "    __syncthreads();\n    int64_t out_y",
        "    int64_t out_y",
        "off by",
    ),
    "a missing barrier before an image's sums are read": (
        "synthesis_tail",
        "synthesis_tail.cu",
        "    __syncthreads();\n    for (int i = threadIdx.x;",
        "    for (int i = threadIdx.x;",
        "off by",
    ),
    "an off-by-one load": (
        "upfirdn2d",
        "upfirdn2d.cu",
        "sample_x >= f.in_width) continue",
        "sample_x > f.in_width) continue",
        "off by",
    ),
    "flipped taps": (
        "upfirdn2d",
        "upfirdn2d.cu",
        "f.taps_y[sy.tap + i_y * up_y]",
        "f.taps_y[f.num_taps_y - 1 - sy.tap - i_y * up_y]",
        "off by",
    ),
    "an unwritten tail": (
        "bias_act_grad",
        "bias_act.cu",
        "for (; i < count; i++)",
        "for (; i + N <= count; i++)",
        "off by nan",
    ),
    "two blocks writing one element": (
        "bias_act",
        "bias_act.cu",
        "if (i >= count) return;",
        "if (i >= count) i = 0;",
        "written by two blocks",
    ),
    "a barrier that some threads left": (
        "upfirdn2d",
        "upfirdn2d.cu",
        "    __syncthreads();\n    int64_t out_y",
        "    if (threadIdx.x < 7) return;\n    __syncthreads();\n    int64_t out_y",
        "barrier",
    ),
    "a write beyond the buffer": (
        "bias_act_grad",
        "bias_act.cu",
        "if (i + N <= count) {",
        "if (i < count) {",
        "outside its buffer",
    ),
}


def planted(folder: Path, source: str, before: str, after: str) -> Library:
    """The emulated library of one file, with a fault in it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.py")
    copy = Path(shutil.copytree(targets.SOURCES, folder / "sources", ignore=ignored))
    text = (copy / source).read_text(encoding="utf-8")
    assert text.count(before) >= 1, "the fault no longer fits the source"
    (copy / source).write_text(text.replace(before, after), encoding="utf-8")
    kernel = source if source.endswith(".cu") else "bias_act.cu"
    target = replace(
        emulated_target(),
        name="planted",
        sources=(kernel, "library.cu", str(EMULATION / "emulation.cpp")),
        source_folder=copy,
    )
    return Library(build.build(target))


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_caught(fault: str, tmp_path: Path):
    kernel, source, before, after, complaint = FAULTS[fault]
    lib = planted(tmp_path, source, before, after)

    def check_all() -> None:
        for case in CASES[kernel](torch.float32):
            check(case, lib)

    with pytest.raises((AssertionError, RuntimeError), match=complaint):
        check_all()


def test_planted_overflow_of_32_bits_is_caught(tmp_path: Path, emulated: Library):
    """In a process of its own: a negative index may end it."""
    before = "return int64_t(blockIdx.x) * blockDim.x + threadIdx.x;"
    after = "return int32_t((blockIdx.x * blockDim.x + threadIdx.x) * 8) / 8;"
    lib = planted(tmp_path, "cuda.cuh", before, after)
    for case in CASES["bias_act"](torch.float32):
        check(case, lib)  # small tensors do not show it
    script = (
        "import sys; from pathlib import Path; from ops_cuda.library import Library\n"
        "from tests.ops_cuda import test_emulation as t\n"
        "huge = tuple(t.Untouched(2 * t.HUGE) for _ in range(2))\n"
        "huge[0].values[-64:] = t.torch.arange(64) + 100\n"
        "huge[0].values[:64] = t.torch.arange(64)\n"
        "t.test_bias_act_beyond_two_to_the_31(Library(Path(sys.argv[1])), huge)\n"
    )
    command = [sys.executable, "-c", script]
    right = subprocess.run([*command, str(emulated.path)], capture_output=True, check=False)
    wrong = subprocess.run([*command, str(lib.path)], capture_output=True, check=False)
    assert right.returncode == 0, right.stderr.decode()
    assert wrong.returncode != 0
