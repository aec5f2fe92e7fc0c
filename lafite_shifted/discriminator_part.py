"""The discriminator of a model folder: with it, the generator beside it can be trained on, such as
on other images. No image that a model generates depends on it.

    discriminator/  config.json, weights.safetensors (discriminator.*, and heads.* on the features
                    of a frozen network)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.check_tensors import check_finite
from lafite_shifted.io.files import (
    atomic_directory,
    check_format,
    has_fields,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from lafite_shifted.io.half import in_float, in_half

KIND, FORMAT = "discriminator", 1
FOLDER, PREFIXES = "discriminator", ("discriminator.", "heads.")


@dataclass(frozen=True)
class DiscriminatorPart:
    """Weights in float32, and what a training has recorded of them."""

    weights: Mapping[str, Tensor]
    heads: Mapping[str, Tensor] | None  # on frozen features; None: there are none
    config: Mapping[str, Any]  # of the discriminator, as JSON
    feature_config: Mapping[str, Any]  # of the heads
    features: Mapping[str, Any] | None  # weights and stages of the frozen network

    @staticmethod
    def of(
        tensors: Mapping[str, Tensor],
        *,
        config: Mapping[str, Any],
        feature_config: Mapping[str, Any],
        features: Mapping[str, Any] | None,
    ) -> "DiscriminatorPart":
        """From the tensors of a part or of a checkpoint."""
        weights, heads = (
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            for prefix in PREFIXES
        )
        return DiscriminatorPart(weights, heads or None, config, feature_config, features)

    def save(self, model: Path, *, half: bool = False) -> None:
        """Write the part into a model folder, atomically; InputError as `in_half` raises it."""
        parts = zip(PREFIXES, (self.weights, self.heads or {}), strict=True)
        tensors = {f"{prefix}{name}": t for prefix, part in parts for name, t in part.items()}
        with atomic_directory(model / FOLDER) as folder:
            path = folder / "weights.safetensors"
            if half:
                tensors = in_half(tensors, path)
            save_tensors(path, tensors, {"kind": KIND, "format": FORMAT})
            record = {
                "kind": KIND,
                "format": FORMAT,
                "config": self.config,
                "feature_config": self.feature_config,
                "features": self.features,
            }
            write_json(folder / "config.json", record)

    @staticmethod
    def load(model: Path) -> "DiscriminatorPart | None":
        """That of a model folder, None where it has none; InputError if it is damaged or of
        another format.
        """
        folder = model / FOLDER
        if not folder.is_dir():
            return None
        record = read_json(folder / "config.json")
        fields = {"config": dict, "feature_config": dict}
        if not has_fields(record, fields):
            raise InputError(f"{folder} holds no discriminator. Pack the model again.")
        check_format(record, kind=KIND, version=FORMAT, path=folder / "config.json")
        tensors, _ = load_tensors(folder / "weights.safetensors")
        check_finite(tensors, folder / "weights.safetensors")
        names = {name: record.get(name) for name in ("config", "feature_config", "features")}
        return DiscriminatorPart.of(in_float(tensors), **names)  # pyright: ignore
