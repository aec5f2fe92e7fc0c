"""Checkpoints of a run: a directory `checkpoints/samples-N` of state.safetensors (all tensors) and
state.json (counters), written under a temporary name, fsynced, read again and renamed whole.
"""

import errno
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import (
    atomic_directory,
    check_format,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from torch_utils.host_reads import HostRead, on_host

FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stood: the images or pairs seen, all tensors by dotted name, and the counters."""

    samples: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def checkpoint_paths(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    return sorted((run / "checkpoints").glob("samples-*"))


def write_checkpoint(run: Path, checkpoint: Checkpoint, *, encoder: object, keep: int) -> None:
    """Write a checkpoint into a run folder, read it again, then remove the oldest beyond `keep`.

    `encoder` is the JSON of the run's encoder id, None without one. OSError leaves the checkpoints
    before it.
    """
    target = run / "checkpoints" / f"samples-{checkpoint.samples:010d}"
    tensors = {name: on_host(tensor, HostRead.STATE) for name, tensor in checkpoint.tensors.items()}
    with atomic_directory(target) as folder:
        state = folder / "state.safetensors"
        save_tensors(state, tensors, {"kind": "checkpoint", "format": FORMAT, "encoder": encoder})
        head = {"format": FORMAT, "samples": checkpoint.samples}
        write_json(folder / "state.json", head | checkpoint.state)
        _verify(state, tensors)
    for old in checkpoint_paths(run)[:-keep]:
        shutil.rmtree(old)


def read_checkpoint(run: Path, *, encoder: object) -> Checkpoint | None:
    """The newest checkpoint of a run folder, or None for a new run; InputError if it is damaged, of
    another format or of another `encoder`.
    """
    paths = checkpoint_paths(run)
    if not paths:
        return None
    path = paths[-1] / "state.safetensors"
    tensors, metadata = load_tensors(
        path, remedy=f"Delete {paths[-1]}: the run then resumes from the checkpoint before it."
    )
    check_format(metadata, kind="checkpoint", version=FORMAT, path=path)
    if metadata["encoder"] != encoder:
        raise InputError(
            f"{path} belongs to a run with another CLIP than {run / 'config.json'} "
            "names. Put that run's own checkpoints back, or choose another --out."
        )
    state = read_json(paths[-1] / "state.json")
    state.pop("format")
    return Checkpoint(state.pop("samples"), tensors, state)


def _verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """OSError unless the file gives back what was written, bit for bit."""
    found, _ = load_tensors(path)
    wrong = [name for name, tensor in tensors.items() if not _same(found.get(name), tensor)]
    if wrong:
        raise OSError(errno.EIO, f"{wrong[0]} reads otherwise than it was written", str(path))


def _same(found: Tensor | None, written: Tensor) -> bool:
    if found is None or found.shape != written.shape or found.dtype != written.dtype:
        return False
    pairs = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (found, written))
    return torch.equal(*pairs)


def flatten_state(parts: Mapping[str, nn.Module | Optimizer]) -> dict[str, Tensor]:
    """Tensors of modules and optimizers under dotted names, ready for safetensors."""
    tensors = {}
    for name, part in parts.items():
        state = part.state_dict()
        if isinstance(part, Optimizer):
            for index, values in state["state"].items():
                for key, value in values.items():
                    tensors[f"{name}.{index}.{key}"] = torch.as_tensor(value)
        else:
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
    return tensors


def restore_state(
    parts: Mapping[str, nn.Module | Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of `flatten_state`, in place."""
    for name, part in parts.items():
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        if isinstance(part, Optimizer):
            parameters = [p for group in part.param_groups for p in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in own.items():
                index, _, field = key.partition(".")
                state.setdefault(int(index), {})[field] = _laid_out_as(
                    parameters[int(index)], value
                )
            part.load_state_dict(
                {"state": state, "param_groups": part.state_dict()["param_groups"]}
            )
        else:
            part.load_state_dict(own)


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` with the strides of `parameter`: fused optimizers take both for flat memory in one
    order, and a checkpoint does not keep channels-last.
    """
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
