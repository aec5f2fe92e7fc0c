"""A snapshot's generator as one of ours, with the same images.

The arithmetic of both formats is that of our layers (decoder/layers.py) with other names: weights
are stored as we store them, and where a product takes fewer or other inputs than ours, columns are
moved, scaled or zero.

Shape letters: Z latent, V w space, D embedding, L layers, C channels.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from lafite_shifted.errors import InputError
from lafite_shifted.io.check_tensors import check_finite
from lafite_shifted.legacy.arguments import check_kind, doubts
from lafite_shifted.legacy.builders import shown
from lafite_shifted.legacy.snapshot import Snapshot
from torch_utils.ops.upfirdn2d import TAPS

MULTIPLIER = 0.01  # learning-rate multiplier of both formats: mapping and condition layers


@dataclass(frozen=True)
class Imported:
    """A generator with the weights of a snapshot."""

    network: Generator
    source: str  # which program wrote the snapshot
    uses_condition: bool  # otherwise the condition has no effect before it is trained
    doubts: list[str]  # what may make its images differ from the program's that wrote it


class _State:
    """A snapshot's tensors, each taken once."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.left = dict(tensors)

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`, float32; InputError where it is missing or of another shape."""
        if name not in self.left:
            raise InputError(f"it lacks {name}, which a generator of this kind has.")
        found = self.left.pop(name)
        if tuple(found.shape) != shape:
            raise InputError(f"{name} is of shape {list(found.shape)}, not {list(shape)}.")
        if not found.is_floating_point():
            raise InputError(f"{name} is of {found.dtype}, not a floating-point type.")
        return found.float().contiguous()

    def width(self, name: str, dim: int) -> int:
        """Size of a dimension of the tensor `name`."""
        if name not in self.left or dim >= self.left[name].ndim:
            raise InputError(
                f"it lacks {name}: it is no generator of StyleGAN2-ADA or Lafite that is known."
            )
        return self.left[name].shape[dim]


def convert(snapshot: Snapshot, *, condition_dim: int, label: int | None = None) -> Imported:
    """`snapshot` with a condition of `condition_dim` (D) numbers. `label` is the class whose images
    the generator shall make, where it has several. InputError says what does not fit.
    """
    check_finite(snapshot.tensors, "the snapshot")
    check_kind(snapshot.arguments)
    state = _State(snapshot.tensors)
    conditional = "synthesis.b4.conv1.pre_0.weight" in state.left
    if conditional:
        _check_clip(state.width("synthesis.b4.conv1.pre_0.weight", 1), condition_dim)
    config = _config(state, snapshot.arguments, condition_dim)
    noise = "synthesis.b4.conv1.noise_strength" in state.left
    doubtful = doubts(snapshot.arguments, config, noise=noise)
    weights = _mapping(state, config, label)
    weights |= _synthesis(state, config, conditional=conditional)
    if state.left:
        names = ", ".join(shown(name)[1:-1] for name in sorted(state.left)[:4])
        raise InputError(f"it holds {names}, which our generator has no place for.")
    network = Generator(config)  # its sizes are now those of tensors that are there
    network.load_state_dict(dict(network.state_dict()) | weights)
    source = "Lafite" if conditional else "StyleGAN2-ADA"
    return Imported(network, source, conditional, doubtful)


def _check_clip(wanted: int, found: int) -> None:
    if wanted != found:
        raise InputError(
            f"it was trained with a CLIP of {wanted} dimensions, this one has {found}. Give --clip "
            "the one that it was trained with: Lafite's is ViT-B-32/openai."
        )


def _resolutions(config: GeneratorConfig) -> list[int]:
    return [2**level for level in range(2, int(math.log2(config.resolution)) + 1)]


def _config(state: _State, arguments: dict[str, Any], condition_dim: int) -> GeneratorConfig:
    names = [re.fullmatch(r"synthesis\.b([1-9][0-9]{0,4})\.conv1\.weight", n) for n in state.left]
    channels = {int(found[1]): state.width(found[0], 0) for found in names if found}
    resolution, most = max(channels, default=4), max(channels.values(), default=0)
    base = max((n * size for size, n in channels.items() if n < most), default=most * resolution)
    layers = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in state.left)
    clamp = arguments.get("conv_clamp")
    try:
        config = GeneratorConfig(
            resolution=resolution,
            condition_dim=condition_dim,
            channel_base=base,
            channel_max=most,
            z_dim=state.width("mapping.fc0.weight", 1) - _label_width(state),
            w_dim=state.width("mapping.w_avg", 0),
            mapping_layers=layers,
            mapping_lr_multiplier=MULTIPLIER,
            condition_lr_multiplier=MULTIPLIER,
            clamp=None if clamp is None else float(clamp),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"its sizes do not fit: {error}.") from error
    wrong = [size for size, number in channels.items() if config.channels(size) != number]
    if wrong or sorted(channels) != _resolutions(config):
        sizes = (wrong or sorted(channels))[:12]
        raise InputError(f"its channels at {sizes} pixels follow another rule.")
    return config


def _label_width(state: _State) -> int:
    return state.width("mapping.embed.bias", 0) if "mapping.embed.bias" in state.left else 0


def _mapping(state: _State, config: GeneratorConfig, label: int | None) -> dict[str, Tensor]:
    """The mapping network. A class is a constant input of its first layer: a part of its bias."""
    found = {"mapping.w_average": state.take("mapping.w_avg", config.w_dim)}
    extra = _label_width(state)
    embedding = _label_embedding(state, extra, label)
    for number in range(config.mapping_layers):
        inputs = config.w_dim if number else config.z_dim + extra
        weight = state.take(f"mapping.fc{number}.weight", config.w_dim, inputs)
        bias = state.take(f"mapping.fc{number}.bias", config.w_dim)
        if embedding is not None and number == 0:
            bias = bias + weight[:, config.z_dim :] @ embedding / math.sqrt(inputs)
            weight = weight[:, : config.z_dim] * math.sqrt(config.z_dim / inputs)
        found[f"mapping.layers.{number}.weight"] = weight
        found[f"mapping.layers.{number}.bias"] = bias
    return found


def _label_embedding(state: _State, width: int, label: int | None) -> Tensor | None:
    """What the mapping network takes of the class `label`, [V]; None where there are no classes."""
    if not width:
        if label is not None:
            raise InputError("it has no classes. Leave --class out.")
        return None
    number = state.width("mapping.embed.weight", 1)
    weight = state.take("mapping.embed.weight", width, number)
    bias = state.take("mapping.embed.bias", width)
    if label is None or not 0 <= label < number:
        raise InputError(
            f"it has {number} classes. Say whose images the model shall make: --class 0 to "
            f"{number - 1}."
        )
    embedding = weight[:, label] / math.sqrt(number) + bias
    return embedding * (embedding.square().mean() + 1e-8).rsqrt()


def _names(config: GeneratorConfig) -> Iterator[tuple[str, str, int, int, int]]:
    """(their name, ours, inputs, outputs, resolution) of each layer: those of the convolutions,
    then those of the to_rgbs, as `Styles` counts them.
    """
    sizes = _resolutions(config)
    number = 0
    for place, size in enumerate(sizes):
        outputs, lower = config.channels(size), config.channels(sizes[max(place - 1, 0)])
        if place:
            yield f"synthesis.b{size}.conv0.", f"layers.{number}.", lower, outputs, size
            number += 1
        yield f"synthesis.b{size}.conv1.", f"layers.{number}.", outputs, outputs, size
        number += 1
    for place, size in enumerate(sizes):
        channels = config.channels(size)
        yield f"synthesis.b{size}.torgb.", f"to_rgbs.{place}.", channels, 3, size


def _synthesis(state: _State, config: GeneratorConfig, *, conditional: bool) -> dict[str, Tensor]:
    found = dict[str, Tensor]()
    channels = config.channels(4)
    found["constant"] = state.take("synthesis.b4.const", channels, 4, 4)[None]
    for size in _resolutions(config):
        _check_filter(state, f"synthesis.b{size}.")
    first, second = [], []  # of each layer: the condition's two FC layers
    hidden = (config.condition_dim + config.w_dim) // 2
    for theirs, ours, inputs, outputs, size in _names(config):
        if ours.startswith("layers"):
            found |= _convolution(state, theirs, ours, inputs, outputs, size)
            scale = f"{ours}conv.to_scale."
        else:
            found[f"{ours}weight"] = state.take(f"{theirs}weight", 3, inputs, 1, 1)
            found[f"{ours}bias"] = state.take(f"{theirs}bias", 3)
            scale = f"{ours}to_scale."
        affine = f"{theirs}affine_0." if conditional else f"{theirs}affine."
        found[f"{scale}weight"] = _affine(state, affine, inputs, config, conditional=conditional)
        found[f"{scale}bias"] = state.take(f"{affine}bias", inputs)
        if conditional:
            first.append(_fully_connected(state, f"{theirs}pre_0.", config.condition_dim, hidden))
            second.append(_fully_connected(state, f"{theirs}pre_1.", hidden, config.w_dim))
    for name, layers in (("first", first), ("second", second)):
        for part in ("weight", "bias"):
            if layers:
                found[f"styles.{name}.{part}"] = torch.stack([layer[part] for layer in layers])
    return found


def _convolution(
    state: _State, theirs: str, ours: str, inputs: int, outputs: int, size: int
) -> dict[str, Tensor]:
    _check_filter(state, theirs)
    noise = torch.zeros(size, size)
    strength = torch.zeros(())
    if f"{theirs}noise_strength" in state.left:
        noise = state.take(f"{theirs}noise_const", size, size)
        strength = state.take(f"{theirs}noise_strength")
    return {
        f"{ours}conv.weight": state.take(f"{theirs}weight", outputs, inputs, 3, 3),
        f"{ours}bias": state.take(f"{theirs}bias", outputs),
        f"{ours}noise_strength": strength,
        f"{ours}noise_buffer": noise[None, None],
    }


def _check_filter(state: _State, prefix: str) -> None:
    """InputError unless the resampling filter is ours."""
    if f"{prefix}resample_filter" not in state.left:
        return
    taps = torch.tensor(TAPS)
    if not torch.allclose(state.take(f"{prefix}resample_filter", 4, 4), torch.outer(taps, taps)):
        raise InputError(f"{prefix}resample_filter is not [1, 3, 3, 1], the only one known.")


def _affine(
    state: _State, name: str, channels: int, config: GeneratorConfig, *, conditional: bool
) -> Tensor:
    """[C, 2 V] for our [w, view of the condition]: theirs is [view, w], or w alone."""
    width = config.w_dim
    if conditional:
        view, w = state.take(f"{name}weight", channels, 2 * width).split(width, dim=1)
        return torch.cat([w, view], dim=1)
    # Twice as many inputs: each weight counts 1 / sqrt(2) of what it did.
    return F.pad(state.take(f"{name}weight", channels, width) * math.sqrt(2), (0, width))


def _fully_connected(state: _State, name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    return {
        "weight": state.take(f"{name}weight", outputs, inputs),
        "bias": state.take(f"{name}bias", outputs),
    }
