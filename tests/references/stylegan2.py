"""The generators of StyleGAN2-ADA and Lafite, layer by layer in float64, from what their numbers
mean (arXiv:1912.04958, arXiv:2111.13792).

`state` names tensors as those programs do; shape letters: N batch, Z latent, V w space, D
embedding.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def connected(state: State, name: str, x: Tensor, *, rate: float = 1.0) -> Tensor:
    weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
    return x @ (weight * rate / math.sqrt(weight.shape[1])).T + bias * rate


def leaky(x: Tensor) -> Tensor:
    return torch.where(x < 0, x * 0.2, x) * math.sqrt(2)


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def mapping(state: State, z: Tensor, labels: Tensor | None) -> Tensor:
    """w [N, V] of z [N, Z] and one-hot labels [N, K]."""
    x = unit(z.double())
    if labels is not None:
        x = torch.cat([x, unit(connected(state, "mapping.embed", labels.double()))], dim=1)
    layers = sum(name.startswith("mapping.fc") and name.endswith("weight") for name in state)
    for number in range(layers):
        x = leaky(connected(state, f"mapping.fc{number}", x, rate=0.01))
    return x


def filtered(x: Tensor) -> Tensor:
    """x after the filter [1, 3, 3, 1], with gain 4, 'full' but one row and column on each side."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = (4 * torch.outer(taps, taps)).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel, groups=x.shape[1])


def doubled(x: Tensor) -> Tensor:
    """x at twice the resolution: zeros between the samples, then the filter."""
    n, c, height, width = x.shape
    wide = torch.zeros(n, c, 2 * height, 2 * width, dtype=x.dtype)
    wide[:, :, ::2, ::2] = x
    return filtered(F.pad(wide, (1, 0, 1, 0)))


def style(state: State, name: str, w: Tensor, condition: Tensor | None) -> Tensor:
    if condition is None:
        return connected(state, f"{name}.affine", w)
    view = leaky(connected(state, f"{name}.pre_0", condition.double(), rate=0.01))
    view = leaky(connected(state, f"{name}.pre_1", view, rate=0.01))
    return connected(state, f"{name}.affine_0", torch.cat([view, w], dim=1))


def convolution(
    state: State, name: str, x: Tensor, scale: Tensor, *, up: bool, clamp: float | None
) -> Tensor:
    weight = state[f"{name}.weight"].double()
    weight = weight / math.sqrt(weight[0].numel())
    rows = []
    for image, factors in zip(x, scale, strict=True):
        modulated = weight * factors[None, :, None, None]
        modulated = modulated / (modulated.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            y = F.conv_transpose2d(image[None], modulated.transpose(0, 1), stride=2)
            rows.append(filtered(y))
        else:
            rows.append(F.conv2d(image[None], modulated, padding=1))
    y = torch.cat(rows)
    if f"{name}.noise_strength" in state:
        y = y + state[f"{name}.noise_const"].double() * state[f"{name}.noise_strength"].double()
    y = leaky(y + state[f"{name}.bias"].double()[None, :, None, None])
    return y if clamp is None else y.clamp(-clamp, clamp)


def images(
    state: State,
    z: Tensor,
    *,
    labels: Tensor | None = None,
    condition: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    """[N, 3, R, R] float64 of z [N, Z]; `condition` [N, D] for Lafite."""
    w = mapping(state, z, labels)
    x = state["synthesis.b4.const"].double()[None].expand(len(z), -1, -1, -1)
    rgb = torch.zeros(len(z), 3, 2, 2, dtype=torch.float64)
    size = 4
    while f"synthesis.b{size}.torgb.weight" in state:
        block = f"synthesis.b{size}"
        for layer in ("conv0", "conv1"):
            name = f"{block}.{layer}"
            if f"{name}.weight" in state:
                factors = style(state, name, w, condition)
                x = convolution(state, name, x, factors, up=layer == "conv0", clamp=clamp)
        name = f"{block}.torgb"
        weight = state[f"{name}.weight"].double().flatten(1)
        factors = style(state, name, w, condition) / math.sqrt(weight.shape[1])
        own = torch.einsum("nchw,oc,nc->nohw", x, weight, factors)
        own = own + state[f"{name}.bias"].double()[None, :, None, None]
        rgb = doubled(rgb) + (own if clamp is None else own.clamp(-clamp, clamp))
        size *= 2
    return rgb
