"""The CUDA kernels on a CUDA device: `pytest -m gpu`."""

import pytest
import torch

from tests.operators import using
from tests.torch_utils.ops.on_images import (
    DTYPES,
    OPERATORS,
    SHAPES,
    assert_close_as_a_whole,
    normal,
)
from torch_utils.ops import (
    SynthesisTail,
    bias_act,
    native,
    synthesis_epilogue,
    to_rgb,
    upfirdn2d,
)

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def compiled():
    """Where the build fails, these tests must too."""
    assert native.status(CUDA).startswith("compiled"), native.status(CUDA)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_on_the_device_is_at_most_twice_that_of_plain_pytorch(
    dtype: torch.dtype, layout: torch.memory_format
):
    for shape in SHAPES:
        x = normal(*shape).to(dtype).contiguous(memory_format=layout)
        runs = {
            "bias_act": lambda x: bias_act(x, activation="leaky_relu", clamp=1.5),
            "up 2": OPERATORS["up 2"],
            "down 2": OPERATORS["down 2"],
            "filter": OPERATORS["filter"],
            "any": OPERATORS["any"],
            "to_rgb": lambda x: to_rgb(
                x,
                normal(len(x), 3, x.shape[1], seed=1).to(x.device),
                normal(3, seed=2).to(x.device),
            ),
        }
        for name, run in runs.items():
            found = run(x.to(CUDA)).cpu()
            with using(None):
                exact, plain = run(x.double()), run(x)
            unit = 8 * torch.finfo(dtype).eps * exact.abs().max().clamp(min=1)
            bound = 2 * (plain.double() - exact).abs().max() + unit
            assert (found.double() - exact).abs().max() <= bound, (name, shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 16, 264])
def test_what_lies_between_two_convolutions_is_one_call(
    dtype: torch.dtype, channels: int, monkeypatch: pytest.MonkeyPatch
):
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    sides = [normal(2, channels, seed=1), normal(1, 1, 8, 8, seed=2), normal(), normal(channels)]
    more = [normal(2, 3, channels, seed=3), normal(3, seed=4), normal(2, channels, seed=5)]
    x, lower = normal(2, channels, 9, 9).to(dtype), normal(2, 3, 4, 4, seed=6).to(kind)
    x = x.contiguous(memory_format=torch.channels_last)

    def run(device: torch.device, to: torch.dtype) -> list[torch.Tensor]:
        numbers = [side.to(device, kind) for side in (*sides, *more)]
        options = {"rgb": tuple(numbers[4:6]), "after": numbers[6], "dtype": to}
        tail = SynthesisTail(*numbers[:4], filtered=True, **options)
        return [y.cpu().double() for y in tail(x.to(device, to), lower.to(device))]

    called: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda *given: (called.append(given[0]), call(*given)))
    found = run(CUDA, dtype)
    assert called == ["ls_synthesis_tail"]
    with using(None):
        exact, plain = (run(torch.device("cpu"), to) for to in (torch.float64, dtype))
    for one, other, simple in zip(found, exact, plain, strict=True):
        unit = 8 * torch.finfo(dtype).eps * other.abs().max().clamp(min=1)
        assert (one - other).abs().max() <= 2 * (simple - other).abs().max() + unit


def test_derivatives_on_the_device_match_the_reference():
    x = normal(2, 16, 8, 8).float()
    sides = [normal(2, 16, seed=1).float(), normal(2, 1, 8, 8, seed=2).float()]
    sides += [torch.tensor(0.3), normal(16, seed=3).float()]

    def run(device: torch.device) -> list[torch.Tensor]:
        leaves = [t.detach().to(device).requires_grad_() for t in (x, *sides)]
        y = upfirdn2d(synthesis_epilogue(*leaves), (0.5, -1.0, 2.0, 0.25), down=2, padding=(1, 1))
        (slope,) = torch.autograd.grad(y.square().sum(), leaves[0], create_graph=True)
        return [t.cpu() for t in torch.autograd.grad(slope.square().sum(), leaves)]

    found = run(CUDA)
    with using(None):
        expected = run(torch.device("cpu"))
    assert_close_as_a_whole(found, expected)
