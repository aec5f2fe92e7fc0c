"""From flags to a trainer and its run folder: the functions behind `train-gan` and `train-prior`,
used by `demo` too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lafite_shifted.clip import STARTER, ClipEncoder
from lafite_shifted.clip_ensemble import load_clip
from lafite_shifted.encoder_id import TextEncoderId, check_same_encoder, check_same_text_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.text_encoder import TextEncoder, read_texts
from torch_utils import distributed
from torch_utils.device import pick_dtype
from torch_utils.ops import native
from training.augment import AugmentConfig
from training.config import override
from training.cost import measure_gan
from training.decoding import SquareConfig
from training.embeddings import EmbeddingSet, EmbedReport, embed_folder
from training.gan_config import GanTrainConfig
from training.gan_data import GanData, load_gan_data
from training.gan_loop import GanTrainer
from training.images import ImageSource
from training.prior_cost import measure_prior
from training.prior_loop import PriorTrainConfig, PriorTrainer
from training.prior_start import PriorStart
from training.remote_pictures import RemotePictures
from training.remote_shards import embed_urls, is_remote, shard_urls
from training.run_folder import RunFolder, RunLock, check_usable
from training.squares import plan_cache
from training.transfer import Start, check_freezing

Progress = Callable[[int, int], None]


def _silent(_done: int, _total: int) -> None:
    pass


def gan_config(
    preset: GanTrainConfig,
    *,
    resolution: int | None = None,
    kimg: float | None = None,
    batch: int | None = None,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    assignments: Sequence[str] = (),
) -> GanTrainConfig:
    """The preset with the common flags, then `--set`, applied; InputError for an unknown field or a
    bad value.
    """
    if augment is not None:
        preset = dataclasses.replace(preset, augment=augment)
    flags = [f"seed={seed}"]
    _refuse_derived(assignments, "generator.condition_dim", "discriminator.condition_dim")
    if kimg is not None:
        flags += [f"run.kimg={kimg}", *_log_fields(kimg)]
    if batch is not None:
        flags.append(f"batch={batch}")
    if resolution is not None:
        flags += [f"{part}.resolution={resolution}" for part in ("generator", "discriminator")]
    return override(preset, [*flags, *assignments])


def prior_config(
    preset: PriorTrainConfig,
    *,
    process: str | None = None,
    kimg: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    assignments: Sequence[str] = (),
) -> PriorTrainConfig:
    """The preset with the common flags, then `--set`, applied; InputError for an unknown field or a
    bad value.
    """
    flags = [f"seed={seed}"]
    derived = ("embed_dim", "token_width", "context_length", "text_encoder")
    _refuse_derived(assignments, *(f"prior.{name}" for name in derived))
    if process is not None:
        flags.append(f"prior.process={process}")
    if kimg is not None:
        flags += [f"run.kimg={kimg}", *_log_fields(kimg)]
    if batch is not None:
        flags.append(f"batch={batch}")
    return override(preset, [*flags, *assignments])


def _refuse_derived(assignments: Sequence[str], *fields: str) -> None:
    for assignment in assignments:
        if assignment.partition("=")[0] in fields:
            raise InputError(f"--set {assignment}: the encoder decides this. Leave it out.")


def compute_record(dtype: str, device: torch.device) -> dict[str, str]:
    """What the exactness of a resumed run depends on, beside the thread count (in checkpoints). The
    number of processes may change: then it is exact up to rounding.
    """
    resolved = str(pick_dtype(dtype, device)).removeprefix("torch.")
    return {"device": device.type, "dtype": resolved}


def _log_fields(kimg: float) -> list[str]:
    """A run shorter than the preset's still logs, evaluates and saves a few times."""
    return [
        f"run.log_kimg={kimg / 20}",
        f"run.evaluate_kimg={kimg / 5}",
        f"run.checkpoint_kimg={kimg / 10}",
    ]


def embeddings_for(
    pictures: Path,
    out: Path,
    clip: str | None,
    *,
    text_encoder: str | None = None,
    device: torch.device,
    max_bad: float,
    max_megapixels: float,
    progress: Progress = _silent,
) -> tuple[EmbeddingSet, EmbedReport | None]:
    """Embeddings of a folder of pictures, made or reused in `out`/embeddings; or those that
    `pictures` already holds, which must be of `clip` and `text_encoder` if those are given.
    """
    if (pictures / "index.jsonl").is_file():
        data = EmbeddingSet(pictures)
        if not data.captions:
            raise no_captions(pictures)
        if clip is not None:
            wanted = load_clip(clip, device=device).id
            remedy = "Leave --clip out, or embed the pictures again with it."
            check_same_encoder(data.encoder_id, wanted, what=str(pictures), remedy=remedy)
        if text_encoder is not None:
            reader = TextEncoder.load(text_encoder, device=device).id
            remedy = "Leave --text-encoder out, or embed the pictures again with it."
            what = str(pictures)
            check_same_text_encoder(data.text_encoder, reader, what=what, remedy=remedy)
        return data, None
    source = ImageSource(pictures, exclude=out)
    if not source.captions:
        raise no_captions(pictures)
    check_usable(out, kind="prior")
    if distributed.num_processes() > 1:
        raise InputError(
            f"Several processes need embeddings that are ready. Run `lafite-shifted embed "
            f"{pictures} --out EMBEDDINGS` in one, then `train-prior EMBEDDINGS` in all."
        )
    encoder = load_clip(clip or STARTER, device=device)
    tower = TextEncoder.load(text_encoder, device=device) if text_encoder else None
    folder = out / "embeddings"
    lock = RunLock(out)
    try:
        report = embed_folder(
            source,
            folder,
            encoder,
            text_encoder=tower,
            max_bad=max_bad,
            max_megapixels=max_megapixels,
            progress=progress,
        )
    finally:
        lock.release()
    return EmbeddingSet(folder), report


def no_captions(pictures: Path) -> InputError:
    return InputError(
        f"{pictures} has no captions, which a prior learns from. Add metadata.jsonl with "
        f'{{"file_name", "text"}} lines, or a .txt beside each picture; or train only a GAN '
        "and use --no-prior."
    )


def open_prior_run(
    config: PriorTrainConfig,
    data: EmbeddingSet,
    out: Path,
    *,
    device: torch.device,
    init: Path | None = None,
) -> tuple[PriorTrainer, Callable[[], RunFolder]]:
    """A trainer for `data`, its network sized for that data's encoder, and a function that opens
    the run folder; a new run starts from the prior in `init`, if given.
    """
    RunFolder.restore_threads(out)
    config = _sized_for(
        config, data.encoder_id.dim, data.token_width, data.context_length, data.text_encoder
    )
    description = {
        "config": dataclasses.asdict(config),
        "encoder": data.encoder_id.to_json(),
        "data": {
            "num_pictures": len(data.rows),
            "num_captions": len(data.captions),
            "fingerprint": data.fingerprint,
        },
        "compute": compute_record(config.dtype, device),
    }
    start = PriorStart.of(init, out, config.prior, data.encoder_id) if init else None
    if start is not None:
        description["init"] = dict(start.record)
    trainer = PriorTrainer(config, data, device=device, start=start)
    if trainer.prior.cluster_stats is not None:  # found anew on a resume: they must be the same
        description["data"]["clusters"] = trainer.prior.cluster_stats.fingerprint
    return trainer, lambda: RunFolder(out, kind="prior", description=description)


def prior_cost(
    config: PriorTrainConfig,
    pictures: Path,
    clip: str | None,
    text_encoder: str | None = None,
    *,
    device: torch.device,
) -> list[str]:
    """Lines for --dry-run; nothing is embedded or written."""
    if (pictures / "index.jsonl").is_file():
        data = EmbeddingSet(pictures)
        num_captions, encoder_id = len(data.captions), data.encoder_id
        token_width, length, reader = data.token_width, data.context_length, data.text_encoder
    else:
        source = ImageSource(pictures)
        encoder = load_clip(clip or STARTER, device=device)
        tower = TextEncoder.load(text_encoder, device=device) if text_encoder else None
        num_captions, encoder_id = sum(map(len, source.captions.values())), encoder.id
        token_width = read_texts(["a picture"], encoder, tower).tokens.shape[2]
        length, reader = (tower or encoder).context_length, tower and tower.id
    sized = _sized_for(config, encoder_id.dim, token_width, length, reader)
    cost = measure_prior(sized, device=device)
    hours = cost.seconds_per_kimg * config.run.kimg / 3600
    return [
        f"parameters     {cost.parameters / 1e6:.2f} M",
        f"captions       {num_captions}, by {encoder_id.model} ({encoder_id.dim} dimensions)",
        f"length         {config.run.kimg:g} kimg, batch {config.batch}",
        f"memory         about {cost.training_gib:.2f} GiB on {device} while training at this "
        "batch (estimated from the shapes)",
        f"time           about {cost.seconds_per_kimg:.1f} s/kimg on {device}, {hours:.1f} h for "
        f"the run (from a probe with texts of all {length} tokens)",
    ]


def _sized_for(
    config: PriorTrainConfig,
    embed_dim: int,
    token_width: int,
    context_length: int,
    text_encoder: TextEncoderId | None,
) -> PriorTrainConfig:
    prior = dataclasses.replace(
        config.prior,
        embed_dim=embed_dim,
        token_width=token_width,
        context_length=context_length,
        text_encoder=text_encoder,
    )
    return dataclasses.replace(config, prior=prior)


def open_gan_run(
    config: GanTrainConfig,
    pictures: str | Path,
    out: Path,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    cache_gib: float | None = None,
    max_bad: float = 0.05,
    max_megapixels: float = 100.0,
    init: Path | None = None,
    progress: Progress = _silent,
) -> tuple[GanTrainer, RunFolder, EmbedReport]:
    """Embed `pictures`, at a path or the URL of shards, into `out`/embeddings where that is not
    done (in the first process, shards in all), and open trainer and run folder; a new run starts
    from the model `init`, if given. A run that goes on keeps the embeddings of pictures that have
    become unreadable: it shows others in their place.
    """
    source = _source_of(pictures, out)
    check_usable(out, kind="gan")
    start = Start.of(init, out) if init else None
    check_freezing(config, start)
    RunFolder.restore_threads(out)
    folder = out / "embeddings"
    report = EmbedReport.nothing()
    is_ready = (folder / "index.jsonl").is_file() or isinstance(source, RemotePictures)
    if distributed.num_processes() > 1 and not is_ready:
        raise InputError(
            f"Several processes need embeddings that are ready. Run `lafite-shifted embed "
            f"{pictures} --out {folder} --clip {encoder.id.model} --background "
            f"'{config.pictures.background}'` in one, then this in all."
        )
    # before anything is written: another run may be using it
    lock = RunLock(out) if distributed.is_first() else None
    how = {
        "squares": config.pictures,
        "max_bad": max_bad,
        "max_megapixels": max_megapixels,
        "progress": progress,
    }
    if isinstance(source, RemotePictures):  # the processes share the shards
        report = embed_urls(list(source.urls.values()), folder, encoder, **how)
    elif distributed.is_first():  # with several, only what has changed since
        going_on = (out / "config.json").is_file()
        report = embed_folder(source, folder, encoder, keep_unreadable=going_on, **how)
    distributed.barrier()
    data = load_gan_data(
        source,
        EmbeddingSet(folder),
        resolution=config.generator.resolution,
        hold_out=config.hold_out,
        seed=config.seed,
        squares=config.pictures,
        cache_gib=cache_gib,
        max_megapixels=max_megapixels,
        max_bad=max_bad,
    )
    config = _for_encoder(config, encoder)
    ops = native.status(device).partition(" ")[0]  # compiled or reference: they round differently
    description = {
        "config": dataclasses.asdict(config),
        "encoder": encoder.id.to_json(),
        "data": data.describe(),
        "compute": compute_record(config.dtype, device) | {"ops": ops},
        "init": start and dict(start.record),
    }
    # first: it may refuse the data
    trainer = GanTrainer(config, data, encoder, device=device, start=start)
    return trainer, RunFolder(out, kind="gan", description=description, lock=lock), report


def _source_of(pictures: str | Path, out: Path | None = None) -> ImageSource | RemotePictures:
    """Pictures at hand, but for those of the run `out`, or in shards at a URL."""
    if is_remote(str(pictures)):
        return RemotePictures(shard_urls(str(pictures)), where=str(pictures))
    return ImageSource(Path(pictures), exclude=out)


def gan_data_for(
    model: TextToImage,
    pictures: Path,
    out: Path,
    embeddings: Path | None,
    *,
    max_bad: float,
    max_megapixels: float,
    progress: Progress = _silent,
) -> tuple[GanData, EmbedReport | None]:
    """What a model is evaluated on: `pictures`, with ready `embeddings` or those made or reused in
    `out`/embeddings. A model that was trained on all pictures has none held out.
    """
    source, report = ImageSource(pictures, exclude=out), None
    training = model.generator.training
    named = [field.name for field in dataclasses.fields(SquareConfig) if field.name in training]
    squares = SquareConfig(**{name: training[name] for name in named})
    if embeddings is None:
        report = embed_folder(
            source,
            out / "embeddings",
            model.clip,
            squares=squares,
            max_bad=max_bad,
            max_megapixels=max_megapixels,
            progress=progress,
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
        max_megapixels=max_megapixels,
        max_bad=max_bad,
    )
    return data, report


def _for_encoder(config: GanTrainConfig, encoder: ClipEncoder) -> GanTrainConfig:
    dim = encoder.id.dim
    return dataclasses.replace(
        config,
        generator=dataclasses.replace(config.generator, condition_dim=dim),
        discriminator=dataclasses.replace(config.discriminator, condition_dim=dim),
    )


def gan_cost(
    config: GanTrainConfig,
    pictures: str | Path,
    encoder: ClipEncoder,
    *,
    device: torch.device,
    cache_gib: float | None = None,
) -> list[str]:
    """Lines for --dry-run: parameters, GMAC, memory and the time that the run would take here;
    nothing is embedded or written.
    """
    source = _source_of(pictures)
    if isinstance(source, RemotePictures):
        described = f"in {len(source.urls)} shards, not fetched for this"
    else:
        resolution = config.generator.resolution
        cache = plan_cache(len(source), resolution=resolution, limit_gib=cache_gib)
        described = f"{len(source)}, {cache.reason}"
    cost = measure_gan(_for_encoder(config, encoder), encoder, device=device)
    hours = cost.seconds_per_kimg * config.run.kimg / 3600
    return [
        f"resolution     {config.generator.resolution} px, batch {config.batch}, "
        f"{config.run.kimg:g} kimg",
        f"parameters     G {cost.generator_parameters / 1e6:.2f} M, D "
        f"{cost.discriminator_parameters / 1e6:.2f} M",
        f"work           G {cost.generator_gmac:.2f} GMAC, D {cost.discriminator_gmac:.2f} GMAC a "
        "picture, forward",
        f"pictures       {described}",
        f"memory         about {cost.training_gib:.2f} GiB on {device} while training at this "
        "batch (estimated from the shapes)",
        f"time           {cost.seconds_per_kimg:.1f} s/kimg on {device}, {hours:.1f} h for the run "
        f"(from a probe of {cost.probe_pictures} pictures)",
        *config.reasons(),
    ]
