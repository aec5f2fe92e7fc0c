"""Outputs that the CPU kernels write past the caches."""

import pytest
import torch

from ops_cuda import targets
from ops_cuda.library import Library
from tests.operators import using
from torch_utils.ops import bias_act, synthesis_epilogue


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.of(targets.cpu_target())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 32, 520, 520), (3, 33, 420, 421)])
def test_large_outputs_are_right(
    library: Library, shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
):
    """Above 16 MiB they are written past the caches, where rows can be; the first image is left
    out, so that the second does not begin where memory was given.
    """
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = whole.contiguous(memory_format=layout)[1:]
    assert x.numel() * x.element_size() >= 2**24
    bias = torch.linspace(-1, 1, shape[1])
    n, channels, height, width = x.shape
    sides = [torch.rand(n, channels) + 0.5, torch.randn(1, 1, height, width), torch.tensor(0.2)]
    runs = {
        "bias_act": lambda: bias_act(x, bias, activation="leaky_relu"),
        "synthesis_epilogue": lambda: synthesis_epilogue(x, *sides, bias),
    }
    for name, run in runs.items():
        with using(library):
            found = run()
        with using(None):
            expected = run()
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            found, expected, rtol=tolerance, atol=4 * tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
