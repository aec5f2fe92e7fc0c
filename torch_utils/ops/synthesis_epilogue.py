"""synthesis_epilogue: everything between two convolutions of StyleGAN2's synthesis
(arXiv:1912.04958, section 2.2).

The pure-PyTorch reference. Shape letters: N batch, C H W activation.
"""

from torch import Tensor

from torch_utils.ops.bias_act import bias_act


def synthesis_epilogue(
    x: Tensor,
    demodulation: Tensor,
    noise: Tensor,
    strength: Tensor,
    bias: Tensor,
    *,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """leaky_relu(x * demodulation + strength * noise + bias) * gain, clamped.

    x [N, C, H, W], demodulation [N, C], noise [N or 1, 1, H, W], strength scalar, bias [C]; the
    dtype of x throughout.
    """
    x = x * demodulation.to(x.dtype)[:, :, None, None]
    x = x + (noise * strength).to(x.dtype)
    return bias_act(x, bias, activation="leaky_relu", gain=gain, clamp=clamp)
