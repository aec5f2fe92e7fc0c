"""The generator in a snapshot of StyleGAN2-ADA or Lafite: its state as flat tensors, and the
arguments that it was built with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.legacy.builders import Record, shown
from lafite_shifted.legacy.pickle_reader import PROTO, read_pickle

MAX_MODULES = 10_000  # a generator of 1024 pixels has about 150
MAX_TENSORS = 100_000  # and about 200 of these
MAX_NAME = 1000  # characters of a dotted name


@dataclass(frozen=True)
class Snapshot:
    """A generator's state by name ("synthesis.b4.const"), and its arguments."""

    tensors: dict[str, Tensor]
    arguments: dict[str, Any]


def read_snapshot(path: Path) -> Snapshot:
    """The `G_ema` of a snapshot; InputError if it cannot be used."""
    with path.open("rb") as file:
        data = file.read(2)
        if data[:1] == PROTO:  # a file of another kind may be larger than the memory
            data += file.read()
    if data[:2] == b"PK":
        raise InputError(
            "it is an archive of torch.save, not a snapshot of StyleGAN2-ADA or Lafite. Give "
            "their network-snapshot-*.pkl."
        )
    return _generator(read_pickle(data))


def _generator(content: Any) -> Snapshot:
    network = content.get("G_ema") if isinstance(content, dict) else None
    if not isinstance(network, Record):
        raise InputError(
            "it holds no generator under the name G_ema. Give a network-snapshot-*.pkl of "
            "StyleGAN2-ADA (PyTorch) or Lafite."
        )
    return Snapshot(_collect(network), _arguments(network))


def _arguments(network: Record) -> dict[str, Any]:
    """`_init_kwargs`, those of the two networks within laid beside the others."""
    found = network.attributes.get("_init_kwargs")
    arguments = dict(found) if isinstance(found, dict) else {}
    for inner in ("mapping_kwargs", "synthesis_kwargs"):
        part = arguments.pop(inner, None)
        arguments |= part if isinstance(part, dict) else {}
    return arguments


def _collect(network: Record) -> dict[str, Tensor]:
    """Parameters and buffers of `network` and the modules in it, by their dotted names."""
    tensors = dict[str, Tensor]()
    left = [("", network)]
    for _ in range(MAX_MODULES):
        if not left:
            return tensors
        prefix, module = left.pop()
        if len(prefix) > MAX_NAME or len(tensors) > MAX_TENSORS:
            raise InputError("it holds more than any generator does. Copy the file again.")
        for kind in ("_parameters", "_buffers"):
            for name, value in _members(module, kind).items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value.detach()
                elif value is not None:
                    raise InputError(f"{shown(prefix + name)} is no tensor. Copy the file again.")
        for name, value in _members(module, "_modules").items():
            if isinstance(value, Record):
                left.append((f"{prefix}{name}.", value))
            elif value is not None:
                raise InputError(f"{shown(prefix + name)} is no module. Copy the file again.")
    raise InputError(f"it holds more than {MAX_MODULES} modules, or one within itself.")


def _members(module: Record, kind: str) -> Mapping[str, Any]:
    found = module.attributes.get(kind, {})
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InputError(f"{kind} of a {shown(module.name)} is damaged. Copy the file again.")
    return found
