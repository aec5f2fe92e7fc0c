"""philox: random numbers from a counter, so that they depend on nothing but key, index and place.

Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): integers are
the same on every device, normal numbers equal to rounding. Shape letters: N rows, C numbers of a
row, B = ceil(C / 4) counters of a row.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from ops_cuda.library import DISTRIBUTIONS
from torch_utils.ops import native

Distribution = Literal["bits", "uniform", "normal"]
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def philox(indices: Tensor, count: int, *, key: int, distribution: Distribution) -> Tensor:
    """Numbers [N, C] float32 on the device of `indices` [N] int64, uniform in [0, 1) or standard
    normal; or 32 bits as int32. Row i depends on `key`, 64 bits, and `indices[i]` alone; more
    numbers continue those of a smaller `count`.
    """
    if indices.dtype != torch.int64 or indices.ndim != 1 or count < 0:
        raise ValueError(f"indices must be [N] int64, not {list(indices.shape)} {indices.dtype}")
    if native.mode() != "reference" and native.has("ls_philox", indices):
        key = key if key < 2**63 else key - 2**64  # as an operator's integers are
        operator = torch.ops.lafite.philox
        found = native.run(operator, _forward, indices, count, key, distribution)
    else:
        found = reference(indices, count, key=key, distribution=distribution)
    return found.view(torch.int32) if distribution == "bits" else found


def reference(indices: Tensor, count: int, *, key: int, distribution: Distribution) -> Tensor:
    """philox in pure PyTorch; bits in the memory of float32."""
    num_blocks = -(-count // 4)
    blocks = torch.arange(num_blocks, device=indices.device).expand(len(indices), -1)  # [N, B]
    rows = indices[:, None].expand(-1, num_blocks)
    counter = [part for x in (blocks, rows) for part in (x & _LOW, (x >> 32) & _LOW)]
    x = torch.stack(philox_4x32(counter, key), dim=2)  # [N, B, 4], in [0, 2^32)
    if distribution == "bits":
        y = torch.where(x >= 2**31, x - 2**32, x).int().view(torch.float32)
    elif distribution == "uniform":
        y = (x >> 8).float() * 2.0**-24
    else:
        y = _normal(x[:, :, 0::2], x[:, :, 1::2])
    return y.flatten(1)[:, :count].contiguous()


def philox_4x32(counter: list[Tensor], key: int) -> list[Tensor]:
    """Ten rounds of four words each, int64 in [0, 2^32)."""
    c0, c1, c2, c3 = counter
    keys = [key & _LOW, (key >> 32) & _LOW]
    for _ in range(10):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # the low 64 bits are right
        high_a, high_b = (a >> 32) & _LOW, (b >> 32) & _LOW
        c0, c1, c2, c3 = high_b ^ c1 ^ keys[0], b & _LOW, high_a ^ c3 ^ keys[1], a & _LOW
        keys = [(k + step) & _LOW for k, step in zip(keys, _KEY_STEPS, strict=True)]
    return [c0, c1, c2, c3]


def _normal(x: Tensor, y: Tensor) -> Tensor:
    """Pairs of Box and Muller, [N, B, 2] each -> [N, B, 4]; rounded to float32 as the kernels do
    first.
    """
    uniform = (x.float() + 0.5) * 2.0**-32  # (0, 1]
    radius = (-2 * uniform.log()).sqrt()
    signed = torch.where(y >= 2**31, y - 2**32, y)
    angle = signed.float() * (math.pi * 2.0**-31)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=3).flatten(2)


# --- the compiled operator

torch.library.define(
    "lafite::philox", "(Tensor indices, int count, int key, str distribution) -> Tensor"
)


def _forward(indices: Tensor, count: int, key: int, distribution: str) -> Tensor:
    indices = indices.contiguous()
    out = indices.new_empty(len(indices), count, dtype=torch.float32)
    pointers = indices.data_ptr(), out.data_ptr()
    number = DISTRIBUTIONS[distribution]
    native.call("ls_philox", out, *pointers, *out.shape, key % 2**64, number)
    return out


torch.library.impl("lafite::philox", ("cpu", "cuda"), _forward)


@torch.library.register_fake("lafite::philox")
def _shape(indices: Tensor, count: int, _key: int, _distribution: str) -> Tensor:
    return indices.new_empty(len(indices), count, dtype=torch.float32)
