"""Snapshots of StyleGAN2-ADA and Lafite with random weights: pickles of the structure that those
programs write.
"""

import collections
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LAFITE, PLAIN = "lafite", "plain"


class Persistent:
    """An object whose class travels as source text: pickled as such."""

    def __init__(self, class_name: str, state: dict[str, Any]):
        self.class_name, self.state = class_name, state


class EasyDict(dict):
    """A dict by another name."""


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("nothing that a snapshot names may be called")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Persistent):
            meta = EasyDict(
                type="class",
                version=6,
                module_src="raise SystemExit('the source text of a snapshot was run')",
                class_name=obj.class_name,
                state=obj.state,
            )
            return _reconstruct_persistent_obj, (meta,)
        return NotImplemented


@contextmanager
def _their_modules() -> Iterator[None]:
    """The modules that the pickler looks names up in."""
    modules = {name: types.ModuleType(name) for name in ("torch_utils.persistence", "dnnlib.util")}
    modules["dnnlib"] = types.ModuleType("dnnlib")
    modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = (  # type: ignore[attr-defined]
        _reconstruct_persistent_obj
    )
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def random_state(
    kind: str,
    *,
    resolution: int = 16,
    channel_base: int = 256,
    channel_max: int = 32,
    z_dim: int = 24,
    w_dim: int = 24,
    condition_dim: int = 24,
    classes: int = 0,
    layers: int = 3,
) -> dict[str, Tensor]:
    """A generator's state by name."""
    rng = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    state: dict[str, Tensor] = {}
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8

    def style(name: str, channels: int) -> None:
        if kind == LAFITE:
            hidden = (condition_dim + w_dim) // 2
            state[f"{name}.pre_0.weight"] = random(hidden, condition_dim) * 100
            state[f"{name}.pre_0.bias"] = random(hidden) * 10
            state[f"{name}.pre_1.weight"] = random(w_dim, hidden) * 100
            state[f"{name}.pre_1.bias"] = random(w_dim) * 10
            state[f"{name}.affine_0.weight"] = random(channels, 2 * w_dim)
            state[f"{name}.affine_0.bias"] = random(channels) * 0.1 + 1
        else:
            state[f"{name}.affine.weight"] = random(channels, w_dim)
            state[f"{name}.affine.bias"] = random(channels) * 0.1 + 1

    size, inputs = 4, min(channel_base // 4, channel_max)
    state["synthesis.b4.const"] = random(inputs, 4, 4)
    while size <= resolution:
        channels = min(channel_base // size, channel_max)
        block = f"synthesis.b{size}"
        state[f"{block}.resample_filter"] = torch.outer(taps, taps)
        for layer in ("conv0", "conv1") if size > 4 else ("conv1",):
            name = f"{block}.{layer}"
            state[f"{name}.weight"] = random(channels, inputs, 3, 3)
            state[f"{name}.noise_strength"] = random(1)[0]
            state[f"{name}.bias"] = random(channels)
            state[f"{name}.resample_filter"] = torch.outer(taps, taps)
            state[f"{name}.noise_const"] = random(size, size)
            style(name, inputs)
            inputs = channels
        state[f"{block}.torgb.weight"] = random(3, channels, 1, 1)
        state[f"{block}.torgb.bias"] = random(3)
        style(f"{block}.torgb", channels)
        size *= 2
    return state | _mapping_state(random, z_dim, w_dim, classes, layers)


def _mapping_state(
    random: Callable[..., Tensor], z_dim: int, w_dim: int, classes: int, layers: int
) -> dict[str, Tensor]:
    state = {"mapping.w_avg": random(w_dim)}
    if classes:
        state["mapping.embed.weight"] = random(w_dim, classes)
        state["mapping.embed.bias"] = random(w_dim)
    first = z_dim + (w_dim if classes else 0)
    for number in range(layers):
        state[f"mapping.fc{number}.weight"] = random(w_dim, first) * 100
        state[f"mapping.fc{number}.bias"] = random(w_dim) * 10
        first = w_dim
    return state


def module(state: Mapping[str, Tensor], class_name: str = "Generator", **more: Any) -> Persistent:
    """`state` as the objects of a network."""
    parameters, buffers = collections.OrderedDict(), collections.OrderedDict()
    inner = dict[str, dict[str, Tensor]]()
    for name, value in state.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        elif first in ("resample_filter", "noise_const", "w_avg"):
            buffers[first] = value.clone()
        else:
            parameters[first] = nn.Parameter(value.clone())
    modules = collections.OrderedDict((name, module(part, name)) for name, part in inner.items())
    attributes = {
        "training": False,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": collections.OrderedDict(),
        "_modules": modules,
    }
    return Persistent(class_name, attributes | more)


def arguments(**synthesis: Any) -> dict[str, Any]:
    """What a generator was built with."""
    return {
        "z_dim": 24,
        "c_dim": 0,
        "w_dim": 24,
        "img_resolution": 16,
        "img_channels": 3,
        "mapping_kwargs": EasyDict(num_layers=3),
        "synthesis_kwargs": EasyDict(channel_base=256, channel_max=32, **synthesis),
    }


def pickled(content: Any, *, protocol: int = 4) -> bytes:
    """`content`, any Persistent in it as those programs write it."""
    target = io.BytesIO()
    with _their_modules():
        _Pickler(target, protocol).dump(content)
    return target.getvalue()


def snapshot(state: Mapping[str, Tensor], *, protocol: int = 4, **synthesis: Any) -> bytes:
    """A whole snapshot whose G_ema has `state`."""
    network = module(state, _init_args=(), _init_kwargs=EasyDict(arguments(**synthesis)))
    content = {
        "G": None,
        "D": None,
        "G_ema": network,
        "training_set_kwargs": EasyDict(path="images.zip", max_size=np.int64(70_000)),
        "augment_pipe": module({"weight": torch.zeros(2)}, "AugmentPipe", p=np.float32(0.25)),
    }
    return pickled(content, protocol=protocol)
