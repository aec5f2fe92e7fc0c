"""A projection on disk: latents.safetensors, which other edits take, and state.safetensors, from
which it is resumed.
"""

from pathlib import Path

import torch

from lafite_shifted.editing.projection import Projection
from lafite_shifted.errors import InputError
from lafite_shifted.io.check_tensors import check_like
from lafite_shifted.io.files import check_format, load_tensors, save_tensors

KIND, FORMAT = "projection", 1
STATE, LATENTS = "state.safetensors", "latents.safetensors"


def check_own_projection(folder: Path) -> None:
    """InputError where a file of these names is another program's."""
    for name, kind in ((STATE, KIND), (LATENTS, "latents")):
        if (path := folder / name).exists():
            try:
                found = load_tensors(path, only=())[1].get("kind")
            except InputError:
                found = None
            if found != kind:
                raise InputError(
                    f"{path} was not written by lafite-shifted, or is damaged, and stays as it is. "
                    "Choose another --out, or move it away."
                )


def save(folder: Path, projection: Projection, *, model: str) -> None:
    """Both files, each atomically."""
    metadata = {"kind": KIND, "format": FORMAT, "config": projection.record(), "model": model}
    save_tensors(folder / STATE, projection.state(), metadata)
    encoder_id = projection.generator.encoder_id
    projection.latents.save(folder / LATENTS, encoder_id=encoder_id, model=model)


def resume(folder: Path, projection: Projection, *, model: str) -> int:
    """Continue what lies in `folder`; the step at which, 0 where there is none. InputError where it
    is of another image, model or configuration.
    """
    path = folder / STATE
    if not path.exists():
        return 0
    tensors, metadata = load_tensors(path)
    check_format(metadata, kind=KIND, version=FORMAT, path=path)
    wanted, found = projection.record() | {"model": model}, metadata["config"]
    found = found | {"model": metadata["model"]}
    changed = [name for name, value in wanted.items() if found.get(name) != value]
    same_image = torch.equal(tensors["target"], projection.target_uint8)
    if changed or not same_image:
        what = f"with another {' and another '.join(changed)}" if same_image else "of another image"
        raise InputError(
            f"{folder} holds a projection {what}. Choose another --out, or give the same as before."
        )
    check_like(tensors, projection.state(), path)
    projection.load_state(tensors)
    return projection.step
