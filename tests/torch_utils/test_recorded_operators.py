"""What the operators hand to a GPU's library, seen by a recorder in its place: device, stream,
pointers, dtype codes and sizes. Tensors are the CPU's, and say that they are on a GPU.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ops_cuda import library
from ops_cuda.library import Activation, EpilogueShape, Place
from torch_utils.ops import (
    SynthesisTail,
    bias_act,
    native,
    synthesis_epilogue,
    to_rgb,
    upfirdn2d,
)
from torch_utils.ops.philox import philox

CUDA = torch.device("cuda", 3)
STREAM = 77
DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


class Recorder:
    """A library that does nothing."""

    path = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.guarded: list[torch.device] = []

    def has(self, name: str) -> bool:
        return name in library._SIGNATURES

    def call(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, arguments))

    def only_call(self, name: str, *, dtype: int) -> list[Any]:
        """The arguments after place and dtype code; all three are checked here."""
        ((found, (place, code, *arguments)),) = self.calls
        assert (found, code) == (name, dtype)
        assert isinstance(place, Place)
        assert (place.device, place.stream) == (CUDA.index, STREAM)
        assert self.guarded == [CUDA]
        assert len(arguments) == len(library._SIGNATURES[name]) - 2
        return arguments


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    found = Recorder()

    class Guard:
        def __init__(self, device: torch.device):
            found.guarded.append(device)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    class Stream:
        def __init__(self, device: torch.device):
            assert device == CUDA
            self.cuda_stream = STREAM

    monkeypatch.setattr(native, "_choice", native._Choice("compiled", {CUDA: found}))  # type: ignore
    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    empty = torch.empty

    def anywhere(*size: Any, device: torch.device | None = None, **options: Any) -> Tensor:
        made = empty(*size, device="cpu", **options)
        return made.as_subclass(OnGpu) if device == CUDA else made

    monkeypatch.setattr(torch, "empty", anywhere)
    with torch.no_grad():
        yield found


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    x = torch.randn(shape).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    return x.as_subclass(OnGpu)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("last", [False, True])
def test_bias_act(recorder: Recorder, name: str, last: bool):
    dtype = getattr(torch, name)
    side = torch.float64 if name == "float64" else torch.float32
    x, bias = on_gpu(2, 5, 3, 4, dtype=dtype, last=last), on_gpu(5, dtype=side)
    y = bias_act(x, bias, activation="leaky_relu", gain=1.5)
    *pointers, outer, channels, inner, function = recorder.only_call(
        "ls_bias_act", dtype=DTYPES[name]
    )
    assert pointers == [x.data_ptr(), bias.data_ptr(), y.data_ptr()]
    assert (outer, channels, inner) == ((24, 5, 1) if last else (2, 5, 12))
    assert isinstance(function, Activation)
    assert (function.kind, function.gain, function.clamp) == (1, 1.5, -1.0)


@pytest.mark.parametrize("last", [False, True])
def test_synthesis_epilogue(recorder: Recorder, last: bool):
    x = on_gpu(2, 5, 3, 4, dtype=torch.bfloat16, last=last)
    sides = [on_gpu(2, 5), on_gpu(1, 1, 3, 4), on_gpu(), on_gpu(5)]
    y = synthesis_epilogue(x, *sides)
    *pointers, shape, _ = recorder.only_call("ls_synthesis_epilogue", dtype=DTYPES["bfloat16"])
    expected = [x.data_ptr(), *(side.data_ptr() for side in sides), None, y.data_ptr()]
    assert pointers == expected
    assert isinstance(shape, EpilogueShape)
    found = (shape.n, shape.channels, shape.pixels, shape.noise_n, shape.layout)
    assert found == (2, 5, 12, 1, int(last))


def test_to_rgb(recorder: Recorder):
    x, weight, bias = on_gpu(2, 5, 3, 4, dtype=torch.float16), on_gpu(2, 3, 5), on_gpu(3)
    y = to_rgb(x, weight, bias)
    *pointers, n, channels, pixels, layout = recorder.only_call("ls_to_rgb", dtype=2)
    assert pointers == [t.data_ptr() for t in (x, weight, bias, y)]
    assert (n, channels, pixels, layout) == (2, 5, 12, 0)
    assert (y.dtype, tuple(y.shape)) == (torch.float32, (2, 3, 3, 4))


def test_upfirdn2d(recorder: Recorder):
    x = on_gpu(2, 5, 6, 8)
    y = upfirdn2d(x, (1.0, 2.0, 3.0, 4.0), down=2, padding=(1, 1))
    *pointers, shape = recorder.only_call("ls_upfirdn2d", dtype=0)
    assert pointers == [x.data_ptr(), None, y.data_ptr()]
    shape = shape._obj
    sizes = (shape.n, shape.channels, shape.in_height, shape.in_width)
    assert (*sizes, shape.out_height, shape.out_width) == (2, 5, 6, 8, *y.shape[2:])
    assert (shape.up_y, shape.up_x, shape.down_y, shape.down_x, shape.num_taps_y) == (1, 1, 2, 2, 4)


def test_synthesis_tail(recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    plain = native._tensor_keys(on_gpu(1))
    monkeypatch.setitem(native._PLAIN_TENSORS, "cuda", plain)
    x = on_gpu(2, 5, 9, 9, dtype=torch.bfloat16, last=True)
    sides = [on_gpu(2, 5), on_gpu(1, 1, 8, 8), on_gpu(), on_gpu(5)]
    rgb, after, lower = (on_gpu(2, 3, 5), on_gpu(3)), on_gpu(2, 5), on_gpu(2, 3, 4, 4)
    options = {"dtype": torch.bfloat16, "filtered": True, "rgb": rgb, "after": after}
    y, image = SynthesisTail(*sides, **options)(x, lower)
    *pointers, taps, up, shape, _ = recorder.only_call("ls_synthesis_tail", dtype=3)
    given = [x, *sides, after, *rgb, lower, y]
    assert pointers == [*(t.data_ptr() for t in given), None, image.data_ptr()]
    assert (taps._obj.in_width, taps._obj.out_width, up._obj.in_width) == (9, 8, 4)
    assert (shape.n, shape.channels, shape.pixels, shape.noise_n) == (2, 5, 64, 1)
    assert (y.dtype, image.dtype) == (torch.bfloat16, torch.float32)


def test_philox(recorder: Recorder):
    indices = torch.tensor([3, 4]).as_subclass(OnGpu)
    y = philox(indices, 7, key=2**64 - 1, distribution="normal")
    arguments = recorder.only_call("ls_philox", dtype=0)
    assert arguments == [indices.data_ptr(), y.data_ptr(), 2, 7, 2**64 - 1, 2]


def test_a_side_input_on_another_device_is_refused(recorder: Recorder):
    with pytest.raises(ValueError, match=r"activations are on cuda:3, a side input on cpu"):
        bias_act(on_gpu(2, 5, 3, 4), torch.zeros(5))
    with pytest.raises(ValueError, match=r"activations are on cuda:3, what is added on cpu"):
        upfirdn2d(on_gpu(2, 5, 3, 4), (1.0,), add=torch.zeros(2, 5, 3, 4))
    assert recorder.calls == []
