"""What a snapshot says that its generator was built with; the weights do not tell all of it."""

from collections.abc import Mapping
from typing import Any

from lafite_shifted.decoder.generator import GeneratorConfig
from lafite_shifted.errors import InputError
from lafite_shifted.legacy.builders import shown
from torch_utils.ops.upfirdn2d import TAPS

_KIND = {  # what both programs default to, and we have
    "architecture": "skip",
    "activation": "lrelu",
    "img_channels": 3,
    "lr_multiplier": 0.01,
    "kernel_size": 3,
}
_WITHOUT_EFFECT = {  # on the images of weights that are there
    "c_dim",
    "channel_base",
    "channel_max",
    "conv_clamp",  # read where it is used
    "embed_features",
    "fp16_channels_last",
    "layer_features",
    "num_fp16_res",
    "num_ws",
    "resample_filter",
    "w_avg_beta",
}


def check_kind(arguments: Mapping[str, Any]) -> None:
    """InputError for a network that was built otherwise than with what both programs default to."""
    for name, value in _KIND.items():
        found = arguments.get(name, value)
        if not _is_number_or_text(found) or found != value:
            raise InputError(f"its {name} is {shown(found)}: only {value!r} can be imported.")
    clamp = arguments.get("conv_clamp")
    if clamp is not None and not (_is_number_or_text(clamp, int, float) and 0 < clamp < 1e30):
        raise InputError(f"its conv_clamp is {shown(clamp)}, not a number above 0.")
    taps = arguments.get("resample_filter")
    if taps is not None and not _is_ours(taps):
        raise InputError("its resample_filter is not [1, 3, 3, 1], the only one known.")


def _is_number_or_text(value: Any, *types: type) -> bool:
    return isinstance(value, types or (str, int, float)) and not isinstance(value, bool)


def _is_ours(taps: Any) -> bool:
    if not isinstance(taps, list | tuple) or len(taps) != len(TAPS):
        return False
    if not all(_is_number_or_text(tap, int, float) for tap in taps):
        return False
    return list(taps) == [tap / TAPS[0] for tap in TAPS]


def doubts(arguments: Mapping[str, Any], config: GeneratorConfig, *, noise: bool) -> list[str]:
    """What may make images differ from those of the program that wrote it: sizes that contradict
    `config`, which is that of the weights, and arguments that are not known. `noise`: whether the
    weights have any.
    """
    weights = {
        "img_resolution": config.resolution,
        "z_dim": config.z_dim,
        "w_dim": config.w_dim,
        "num_layers": config.mapping_layers,
        "use_noise": noise,
    }
    found = [
        f"{name} is {shown(arguments[name])}, that of its weights {value}"
        for name, value in weights.items()
        if name in arguments
        and not (type(arguments[name]) is type(value) and arguments[name] == value)
    ]
    unknown = set(arguments) - set(_KIND) - set(weights) - _WITHOUT_EFFECT
    return found + sorted(f"{shown(name)} is not known here" for name in unknown)
