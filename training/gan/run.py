"""From the flags of `train-gan` to a trainer and its run folder; `demo` uses it too."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.shell import absolute
from lafite_shifted.pipeline import TextToImage
from torch_utils import distributed
from torch_utils.device import pick_dtype
from torch_utils.ops import native
from training.config import override
from training.data.crop_cache import ReadySquares
from training.data.decoding.crop import SquareConfig
from training.data.decoding.read_image import DEFAULT_READ_OPTIONS, ReadOptions
from training.data.embeddings.embed import EmbedReport, embed_folder
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.image_cache import plan_cache
from training.data.images import ImageSource
from training.data.remote_images import RemoteImages
from training.data.remote_shards import embed_urls, is_remote, shard_urls
from training.gan.augment.config import AugmentConfig
from training.gan.batch import check_captions
from training.gan.config import GanTrainConfig
from training.gan.cost import measure_gan
from training.gan.data import GanData, load_gan_data
from training.gan.features.backbone import Backbone
from training.gan.trainer import GanTrainer
from training.gan.transfer import Start, check_freezing
from training.run_folder import RunFolder, RunLock, check_usable
from training.run_setup import compute_record, length_fields, refuse_derived


def gan_config(
    preset: GanTrainConfig,
    *,
    resolution: int | None = None,
    kimg: float | None = None,
    batch: int | None = None,
    augment: AugmentConfig | None = None,
    features: str | None = None,
    seed: int = 0,
    assignments: Sequence[str] = (),
) -> GanTrainConfig:
    """The preset with the common flags, then `--set`, applied; InputError for an unknown field or a
    bad value.
    """
    if augment is not None:
        preset = dataclasses.replace(preset, augment=augment)
    flags = [f"seed={seed}"]
    refuse_derived(assignments, "generator.condition_dim", "discriminator.condition_dim")
    if kimg is not None:
        flags += length_fields(preset.run, kimg)
    if batch is not None:
        flags.append(f"batch={batch}")
    if resolution is not None:
        flags += [f"{part}.resolution={resolution}" for part in ("generator", "discriminator")]
    if features is not None:
        flags.append(f"features.backbone={features}")
    config = override(preset, [*flags, *assignments])
    if config.features.weights is None:
        return config
    weights = absolute(config.features.weights)  # the same in another folder
    return dataclasses.replace(
        config, features=dataclasses.replace(config.features, weights=weights)
    )


def open_gan_run(
    config: GanTrainConfig,
    images: str | Path,
    out: Path,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    cache_gib: float | None = None,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
    init: Path | None = None,
) -> tuple[GanTrainer, RunFolder, EmbedReport]:
    """Embed `images`, at a path or the URL of shards, into `out`/embeddings where that is not
    done, and open trainer and run folder; a new run starts from the model `init`, if given. A
    resumed run keeps the embeddings of images that have become unreadable.
    """
    source = _source_of(images, out)
    check_usable(out, kind="gan")
    start = Start.of(init, out) if init else None
    check_freezing(config, start)
    backbone = load_backbone(config, encoder, device=device)  # first: it may not be there
    RunFolder.restore_threads(out)
    folder = out / "embeddings"
    is_ready = (folder / "index.jsonl").is_file() or isinstance(source, RemoteImages)
    if distributed.world_size() > 1 and not is_ready:
        raise InputError(
            f"Several processes need embeddings that are ready. Run `lafite-shifted embed "
            f"{images} --out {folder} --clip {encoder.id.model} --background "
            f"'{config.images.background}'` in one, then this in all."
        )
    with ExitStack() as undo:
        # before anything is written: another run may be using the folder
        lock = RunLock(out) if distributed.is_main_process() else None
        if lock:
            undo.callback(lock.release)
        report, ready = _embed(source, out, encoder, config, cache_gib=cache_gib, options=options)
        distributed.barrier()
        data = load_gan_data(
            source,
            EmbeddingSet(folder),
            resolution=config.generator.resolution,
            hold_out=config.hold_out,
            seed=config.seed,
            squares=config.images,
            cache_gib=cache_gib,
            options=options,
            ready=ready,
        )
        config = for_encoder(config, encoder)
        # first: it may refuse the data
        trainer = GanTrainer(config, data, encoder, device=device, start=start, backbone=backbone)
        description = _description(trainer, start, backbone)
        run = RunFolder(out, kind="gan", description=description, lock=lock)
        undo.pop_all()  # the lock is the run's
    return trainer, run, report


def _description(
    trainer: GanTrainer, start: Start | None, backbone: Backbone | None
) -> dict[str, Any]:
    """What config.json records, and must not change when the run is resumed."""
    config, device = trainer.config, trainer.device
    ops = native.status(device).partition(" ")[0]  # compiled or reference: rounded differently
    return {
        "config": dataclasses.asdict(config),
        "encoder": trainer.clip.id.to_json(),
        "data": trainer.data.describe(),
        "compute": compute_record(config.dtype, device) | {"ops": ops},
        "init": start and dict(start.record),
        "features": backbone and backbone.record,
    }


def load_backbone(
    config: GanTrainConfig, encoder: ClipEncoder, *, device: torch.device
) -> Backbone | None:
    """The frozen network of `config.features`; None where it is off."""
    return Backbone.load(
        config.features,
        encoder,
        image_size=config.generator.resolution,
        dtype=pick_dtype(config.dtype, device),
        device=device,
    )


def _embed(
    source: ImageSource | RemoteImages,
    out: Path,
    encoder: ClipEncoder,
    config: GanTrainConfig,
    *,
    cache_gib: float | None,
    options: ReadOptions,
) -> tuple[EmbedReport, ReadySquares | None]:
    """Embed what is not embedded yet into `out`/embeddings: shards in all processes, a folder in
    the main one. Where all squares fit into memory they are made in the same pass.
    """
    folder, squares = out / "embeddings", config.images
    if isinstance(source, RemoteImages):
        urls = list(source.urls.values())
        return embed_urls(urls, folder, encoder, squares=squares, options=options), None
    if not distributed.is_main_process():
        return EmbedReport.nothing(), None
    resolution, ready = config.generator.resolution, None
    if plan_cache(len(source), resolution=resolution, limit_gib=cache_gib).holds:
        ready = ReadySquares(resolution, squares)
    report = embed_folder(
        source,
        folder,
        encoder,
        squares=squares,
        keep_unreadable=(out / "config.json").is_file(),  # a run that is resumed
        options=options,
        also=ready.add if ready else None,
    )
    return report, ready


def gan_data_for(
    model: TextToImage,
    images: Path,
    out: Path,
    embeddings: Path | None,
    *,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> tuple[GanData, EmbedReport | None]:
    """What a model is evaluated on: `images`, with ready `embeddings` or those made or reused in
    `out`/embeddings. A model that was trained on all images has none held out.
    """
    source, report = ImageSource(images, exclude=out), None
    training = model.generator.training
    named = [field.name for field in dataclasses.fields(SquareConfig) if field.name in training]
    squares = SquareConfig(**{name: training[name] for name in named})
    if embeddings is None:
        report = embed_folder(
            source,
            out / "embeddings",
            model.clip,
            squares=squares,
            options=options,
        )
    found = EmbeddingSet(embeddings or out / "embeddings")
    check_same_encoder(
        found.encoder_id,
        model.clip.id,
        what=str(embeddings),
        remedy="Leave --embeddings out.",
    )
    data = load_gan_data(
        source,
        found,
        resolution=model.generator.network.config.resolution,
        hold_out=training.get("hold_out", True),
        squares=squares,
        options=options,
    )
    return dataclasses.replace(data, texts=found.captions_by_name()), report


def gan_cost(
    config: GanTrainConfig,
    images: str | Path,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    cache_gib: float | None = None,
) -> list[str]:
    """Lines for --dry-run: parameters, GMAC, memory and the time that the run would take here;
    nothing is embedded or written.
    """
    source = _source_of(images)
    if isinstance(source, RemoteImages):
        described = f"in {len(source.urls)} shards, not fetched for this"
    else:
        check_captions(config, len(source.captions))
        resolution = config.generator.resolution
        cache = plan_cache(len(source), resolution=resolution, limit_gib=cache_gib)
        described = f"{len(source)}, {cache.reason}"
    config = for_encoder(config, encoder)
    backbone = load_backbone(config, encoder, device=device)
    cost = measure_gan(config, encoder, device=device, backbone=backbone)
    features = []
    if backbone is not None:
        features.append(
            f"features       {config.features.backbone}: {backbone.describe()}; heads "
            f"{cost.feature_parameters / 1e6:.2f} M, together {cost.feature_gmac:.2f} GMAC an "
            "image, forward"
        )
    hours = cost.seconds_per_kimg * config.run.kimg / 3600
    return [
        f"resolution     {config.generator.resolution} px, batch {config.batch}, "
        f"{config.run.kimg:g} kimg",
        f"parameters     G {cost.generator_parameters / 1e6:.2f} M, D "
        f"{cost.discriminator_parameters / 1e6:.2f} M",
        f"work           G {cost.generator_gmac:.2f} GMAC, D {cost.discriminator_gmac:.2f} GMAC a "
        "image, forward",
        *features,
        f"images       {described}",
        f"memory         about {cost.training_gib:.2f} GiB on {device} while training at this "
        "batch (estimated from the shapes)",
        f"time           {cost.seconds_per_kimg:.1f} s/kimg on {device}, {hours:.1f} h for the run "
        f"(from a probe of {cost.probe_images} images)",
        *config.reasons(),
    ]


def for_encoder(config: GanTrainConfig, encoder: ClipEncoder) -> GanTrainConfig:
    """With conditions of the encoder's size."""
    dim = encoder.id.dim
    return dataclasses.replace(
        config,
        generator=dataclasses.replace(config.generator, condition_dim=dim),
        discriminator=dataclasses.replace(config.discriminator, condition_dim=dim),
    )


def _source_of(images: str | Path, out: Path | None = None) -> ImageSource | RemoteImages:
    """Images at hand, but for those of the run `out`, or in shards at a URL."""
    if is_remote(str(images)):
        return RemoteImages(shard_urls(str(images)), where=str(images))
    return ImageSource(Path(images), exclude=out)
