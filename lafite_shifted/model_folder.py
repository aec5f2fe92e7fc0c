"""Model folders, which `pack` writes and `generate` reads: saving and loading their parts.

    generator/      config.json, weights.safetensors, stats.safetensors
    prior/          the same, with clusters.safetensors where it has several Gaussians; optional
    discriminator/  what training the generator on begins with; optional
    README.md       model card

Generator and prior keep the statistics of their own training images and the id of the CLIP that
made their embeddings. Weights may be stored in float16; all are loaded into float32.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from lafite_shifted.decoder.inference import freeze_for_inference
from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.encoders.encoder_id import EncoderId, TextEncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.check_tensors import check_like
from lafite_shifted.io.files import (
    atomic_directory,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from lafite_shifted.io.half import in_float
from lafite_shifted.prior.diffusion import ScheduleConfig
from lafite_shifted.prior.network import PriorConfig
from lafite_shifted.prior.prior import Prior
from torch_utils.device import DtypeName, pick_dtype

FORMAT = 4
PARTS = ("generator", "prior")  # on which images depend


@dataclass(frozen=True)
class LoadedPrior:
    """A prior ready to use."""

    prior: Prior
    encoder_id: EncoderId
    training: dict[str, Any]


def _save_part(
    folder: Path,
    kind: str,
    config: Any,
    network: nn.Module,
    stats: EmbeddingStats,
    training: dict[str, Any],
    *,
    clusters: ClusterStats | None = None,
    **fields: Any,
) -> None:
    if stats.encoder_id is None:
        raise ValueError("statistics without an encoder id cannot be part of a model")
    with atomic_directory(folder) as target:
        record = {
            "kind": kind,
            "format": FORMAT,
            "config": dataclasses.asdict(config),
            "encoder": stats.encoder_id.to_json(),
            "training": training,
            **fields,
        }
        write_json(target / "config.json", record)
        save_tensors(
            target / "weights.safetensors", network.state_dict(), {"kind": kind, "format": FORMAT}
        )
        stats.save(target / "stats.safetensors")
        if clusters is not None:
            clusters.save(target / "clusters.safetensors")


def save_generator(
    folder: Path, network: Generator, stats: EmbeddingStats, *, training: dict[str, Any]
) -> None:
    """Write a generator part, atomically."""
    _save_part(folder, "generator", network.config, network, stats, training)


def save_prior(folder: Path, prior: Prior, *, training: dict[str, Any]) -> None:
    """Write a prior part, atomically."""
    _save_part(
        folder,
        "prior",
        prior.config,
        prior.network,
        prior.stats,
        training,
        clusters=prior.cluster_stats,
        threshold_quantile=prior.threshold_quantile,
    )


def _load_part(
    folder: Path, kind: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor], EmbeddingStats]:
    record = read_json(folder / "config.json")
    if not isinstance(record, dict) or record.get("kind") != kind or record.get("format") != FORMAT:
        raise InputError(
            f"{folder} holds no {kind} of format {FORMAT}. Make it again with `lafite-shifted "
            "pack`."
        )
    tensors, _ = load_tensors(folder / "weights.safetensors")
    return record, tensors, EmbeddingStats.load(folder / "stats.safetensors")


def _fill(network: nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    path, own = folder / "weights.safetensors", network.state_dict()
    check_like(tensors, own, path)
    if others := sorted(tensors.keys() - own.keys()):
        raise InputError(
            f"{path} holds {others[0]!r}, for which config.json has no place: the weights are of "
            "another network. Pack the model again."
        )
    network.load_state_dict(tensors)


def _check_dims(
    folder: Path, dim: int, encoder_id: EncoderId, *found: EmbeddingStats | ClusterStats
) -> None:
    """InputError unless network, encoder and statistics are of one size."""
    dims = [dim, encoder_id.dim, *(stats.dim for stats in found)]
    if len(set(dims)) > 1:
        raise InputError(
            f"{folder}: its network, CLIP and statistics are of {', '.join(map(str, dims))} "
            "dimensions: they are not of one model. Pack it again, or download it again."
        )


@contextmanager
def _wrong_config_is_input(folder: Path) -> Iterator[None]:
    """What a config.json raises that was edited, or written by another version."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / 'config.json'} does not describe a part of this version ({error}). Pack "
            "the model again."
        ) from error


def load_generator(
    folder: Path, *, device: torch.device, dtype: DtypeName = "auto"
) -> LoadedGenerator:
    """Read a generator part; InputError if it is missing, damaged or of another format. `dtype` is
    of activations, by default the one that training chooses on `device`.
    """
    record, tensors, stats = _load_part(folder, "generator")
    with _wrong_config_is_input(folder):
        network = Generator(GeneratorConfig(**record["config"]))
        encoder_id = EncoderId.from_json(record["encoder"])
    _check_dims(folder, network.config.condition_dim, encoder_id, stats)
    _fill(network, tensors, folder)
    return LoadedGenerator(
        freeze_for_inference(network.to(device), dtype=pick_dtype(dtype, device)),
        Gaussian.from_stats(stats, covariance_type="diagonal").to(device),
        encoder_id,
        record.get("training", {}),
        stats,
    )


def load_prior(folder: Path, *, device: torch.device, dtype: DtypeName = "auto") -> LoadedPrior:
    """Read a prior part; InputError if it is missing, damaged or of another format. `dtype` as in
    `load_generator`.
    """
    record, tensors, stats = _load_part(folder, "prior")
    with _wrong_config_is_input(folder):
        encoder_id = EncoderId.from_json(record["encoder"])
        config = record["config"] | {"schedule": ScheduleConfig(**record["config"]["schedule"])}
        if config["text_encoder"] is not None:
            config["text_encoder"] = TextEncoderId(**config["text_encoder"])
        found = folder / "clusters.safetensors"
        clusters = ClusterStats.load(found) if config["process"] == "clusters" else None
        shape = PriorConfig(**config)
    _check_dims(folder, shape.embed_dim, encoder_id, stats, *([clusters] if clusters else []))
    with _wrong_config_is_input(folder):
        prior = Prior(shape, stats, clusters, threshold_quantile=record["threshold_quantile"])
    _fill(prior.network, tensors, folder)
    prior.compute_dtype = pick_dtype(dtype, device)
    prior.eval().requires_grad_(False)
    return LoadedPrior(prior.to_device(device), encoder_id, record.get("training", {}))


def best_metric(
    part: Path, name: str, *, reference: Mapping[str, int | str] | None = None
) -> float:
    """The metric `name` recorded of a part's training, such as the best one's so far; infinite
    before there is one that was measured against the same `reference`.
    """
    record = part / "config.json"
    training = read_json(record)["training"] if record.is_file() else {}
    return (
        training[name] if name in training and training.get("reference") == reference else math.inf
    )


def model_hash(folder: Path) -> str:
    """First 16 hexadecimal digits over the weights, as loaded, of the parts that make images (not
    over the files, whose headers have no fixed order).
    """
    digest = hashlib.sha256()
    for part in PARTS:
        file = folder / part / "weights.safetensors"
        tensors = in_float(load_tensors(file)[0]) if file.is_file() else {}
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{part}/{name}".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def find_part(path: Path, kind: str) -> Path:
    """The `kind` part of a run folder, a model folder, or a part itself; InputError if there is
    none.
    """
    for candidate in (path / kind, path):
        record = candidate / "config.json"
        found = read_json(record) if (candidate / "weights.safetensors").is_file() else None
        if isinstance(found, dict) and found.get("kind") == kind:
            return candidate
    if not path.exists():
        raise InputError(
            f"{path} does not exist. Give the --out of "
            f"`train-{'gan' if kind == 'generator' else kind}`."
        )
    raise InputError(
        f"{path} holds no {kind} yet. Let the training reach its first evaluation, or check the "
        "path."
    )
