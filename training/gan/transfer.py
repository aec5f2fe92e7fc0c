"""Starting from another generator: other images, another CLIP, another size of condition.

What fits by name and shape is kept. Layers that read the condition are new where the CLIP is
another, whose dimensions mean something else; heads on features where the frozen network or its
stages are. Freezing keeps layers as they came: the first blocks
of the discriminator (Freeze-D, arXiv:2002.10964), the mapping or the synthesis network.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor, nn

from lafite_shifted.decoder.discriminator import Discriminator
from lafite_shifted.decoder.generator import Generator
from lafite_shifted.discriminator_part import DiscriminatorPart
from lafite_shifted.encoders.encoder_id import EncoderId, weights_digest
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors, read_json
from lafite_shifted.io.starter import model_name
from lafite_shifted.model_folder import LoadedGenerator, find_part, load_generator
from training.checkpoint import checkpoint_paths
from training.config import parse
from training.gan.config import GanTrainConfig
from training.gan.features.terms import FeatureTerms
from training.run_folder import recorded_start

# layers that read the condition
G_CONDITION, D_CONDITION = ("styles.",), ("to_feature.",)
NETWORKS = ("generator", "discriminator", "features")  # fields of GanTrainConfig


@dataclass(frozen=True)
class Start:
    """What a training begins with, and what config.json records of it."""

    record: Mapping[str, Any]  # its name, hash of the generator's weights, kimg in all
    generator: LoadedGenerator | None = None  # None: the run resumes from its own checkpoint
    discriminator: DiscriminatorPart | None = None  # with its heads; None: the model has none

    @staticmethod
    def of(init: Path, out: Path) -> "Start":
        """The weights in `init`: the EMA generator of a run or model folder, and its
        discriminator. Where the run in `out` has begun with it, only what it recorded.
        """
        recorded = recorded_start(out, init)
        if recorded:
            return Start(recorded)
        part = find_part(init, "generator")
        generator = load_generator(part, device=torch.device("cpu"))
        digest = weights_digest(generator.network.generator.state_dict())
        training = read_json(part / "config.json")["training"]
        kimg = training.get("kimg", 0.0) + training.get("kimg_before", 0.0)
        record = {"path": model_name(init), "weights": digest, "kimg": kimg}
        return Start(record, generator, discriminator_of(init))

    @property
    def origin(self) -> dict[str, Any]:
        """What the generator of the run tells of its beginning."""
        before = self.record.get("kimg")  # not recorded by runs of before
        name = PurePath(self.record["path"]).name  # a card shows no path of this machine
        return {"begun_from": name} | ({"kimg_before": before} if before else {})

    def apply(
        self, generator: Generator, discriminator: Discriminator, encoder_id: EncoderId
    ) -> list[str]:
        """Fill both networks in place; a line of what each has kept. InputError for a generator of
        another resolution.
        """
        if self.generator is None:
            return []
        found, wanted = self.generator.network.config.resolution, generator.config.resolution
        if found != wanted:
            raise InputError(
                f"--init {self.record['path']} makes images of {found} pixels, this run of "
                f"{wanted}. Give --resolution {found}."
            )
        same = self._same_encoder(encoder_id)
        tensors = self.generator.network.generator.state_dict()
        kept = _fill(generator, tensors, new=() if same else G_CONDITION)
        lines = [f"generator from {self.record['path']}: {kept}"]
        if self.discriminator is None:
            return [*lines, "discriminator: new, as there is none beside that generator"]
        new = () if same else D_CONDITION
        kept = _fill(discriminator, self.discriminator.weights, new=new)
        return [*lines, f"discriminator from {self.record['path']}: {kept}"]

    def apply_heads(self, terms: FeatureTerms, encoder_id: EncoderId) -> list[str]:
        """Fill the heads in place where they were trained on the same features; a line of what was
        kept.
        """
        if self.generator is None:
            return []
        found = self.discriminator
        if found is None or found.heads is None:
            return ["heads on features: new, as there are none beside that generator"]
        if found.features != terms.backbone.record:
            return ["heads on features: new, as those there are on another network or its stages"]
        names = [name for name in found.heads if D_CONDITION[0] in name]
        new = () if self._same_encoder(encoder_id) else tuple(names)
        return [f"heads from {self.record['path']}: {_fill(terms.heads, found.heads, new=new)}"]

    def _same_encoder(self, encoder_id: EncoderId) -> bool:
        assert self.generator is not None
        pinned = [[b.pinned for b in i.blocks] for i in (self.generator.encoder_id, encoder_id)]
        return pinned[0] == pinned[1]


def discriminator_of(path: Path) -> DiscriminatorPart | None:
    """That of a run's newest checkpoint, or of a model folder; None where there is none."""
    checkpoints = checkpoint_paths(path)
    if not checkpoints:
        return DiscriminatorPart.load(path)
    tensors, _ = load_tensors(checkpoints[-1] / "state.safetensors")
    record = read_json(path / "config.json")
    return DiscriminatorPart.of(
        tensors,
        config=record["config"]["discriminator"],
        feature_config=record["config"]["features"],
        features=record.get("features"),
    )


def require_discriminator(path: Path) -> DiscriminatorPart:
    """The same; InputError where there is none."""
    found = discriminator_of(path)
    if found is None:
        raise InputError(
            f"{model_name(path)} has no discriminator to pack. Give the run folder of its "
            "training, or leave --with-discriminator out."
        )
    return found


def with_networks_of(init: Path, out: Path, config: GanTrainConfig) -> GanTrainConfig:
    """`config` with the networks of `init`, so that all layers can be kept: the generator, and
    where it has one the discriminator with its heads on features, which act from the beginning.
    """
    if recorded_start(out, init):
        networks = read_json(out / "config.json")["config"]
        return _with(config, {name: networks[name] for name in NETWORKS})
    generator = read_json(find_part(init, "generator") / "config.json")["config"]
    part = discriminator_of(init)
    if part is None:
        resolution = {"resolution": generator["resolution"]}
        discriminator = dataclasses.asdict(config.discriminator) | resolution
        return _with(config, {"generator": generator, "discriminator": discriminator})
    features = dict(part.feature_config) | {"start_kimg": 0.0}
    values = (generator, dict(part.config), features)
    return _with(config, dict(zip(NETWORKS, values, strict=True)))


def _with(config: GanTrainConfig, networks: dict[str, Any]) -> GanTrainConfig:
    return parse(GanTrainConfig, dataclasses.asdict(config) | networks)


def clip_of(init: Path, out: Path) -> str:
    """The name of the CLIP of `init`, or of the run in `out` where that has begun with it."""
    resumed = recorded_start(out, init) is not None
    record = read_json((out if resumed else find_part(init, "generator")) / "config.json")
    return EncoderId.from_json(record["encoder"]).model


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], *, new: tuple[str, ...]) -> str:
    """Copy what fits by name and shape, but for the names that begin with `new`; what was kept, in
    words.
    """
    own = network.state_dict()
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name in own and own[name].shape == tensor.shape and not name.startswith(new)
    }
    network.load_state_dict(own | kept)
    left = [name for name in own if name not in kept]
    text = f"{len(kept)} of {len(own)} tensors"
    if left:
        more = f" and {len(left) - 12} more" if len(left) > 12 else ""
        text += f"; new: {', '.join(left[:12])}{more}"
    return text


def check_freezing(config: GanTrainConfig, start: Start | None) -> None:
    """InputError where random layers would be frozen."""
    if config.freeze_discriminator == 0 and config.freeze_generator is None:
        return
    if start is None:
        raise InputError(
            "freeze_discriminator and freeze_generator keep layers as they come from --init. Give "
            "--init MODEL, or leave them out."
        )
    if config.freeze_discriminator and start.generator and start.discriminator is None:
        raise InputError(
            f"--init {start.record['path']} has no discriminator, of which to freeze "
            f"{config.freeze_discriminator} blocks. Give the run folder of its training, or leave "
            "freeze_discriminator out."
        )


def freeze(config: GanTrainConfig, generator: Generator, discriminator: Discriminator) -> None:
    """Let the chosen layers learn no more."""
    if config.freeze_discriminator:
        for part in (discriminator.from_rgb, *discriminator.blocks[: config.freeze_discriminator]):
            part.requires_grad_(False)
    if config.freeze_generator == "mapping":
        generator.mapping.requires_grad_(False)
    elif config.freeze_generator == "synthesis":
        for name, parameter in generator.named_parameters():
            parameter.requires_grad_(name.startswith(("mapping.", *G_CONDITION)))
