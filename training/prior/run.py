"""From the flags of `train-prior` to a trainer and its run folder, for `demo` and the study too."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lafite_shifted.encoders.encoder_id import (
    TextEncoderId,
    check_same_encoder,
    check_same_text_encoder,
)
from lafite_shifted.encoders.ensemble import load_clip
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.errors import InputError
from lafite_shifted.io.starter import STARTER
from torch_utils import distributed
from training.config import override
from training.data.decoding.read_image import DEFAULT_READ_OPTIONS, ReadOptions
from training.data.embeddings.embed import EmbedReport, embed_folder
from training.data.embeddings.embedding_set import EmbeddingSet, holds_embeddings
from training.data.images import ImageSource
from training.prior.config import PriorTrainConfig
from training.prior.cost import measure_prior
from training.prior.trainer import PriorTrainer
from training.prior.transfer import PriorStart
from training.run_folder import RunFolder, RunLock, check_usable
from training.run_setup import compute_record, length_fields, refuse_derived


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
    refuse_derived(assignments, *(f"prior.{name}" for name in derived))
    if process is not None:
        flags.append(f"prior.process={process}")
    if kimg is not None:
        flags += length_fields(preset.run, kimg)
    if batch is not None:
        flags.append(f"batch={batch}")
    return override(preset, [*flags, *assignments])


def embeddings_for(
    images: Path,
    out: Path,
    clip: str | None,
    *,
    text_encoder: str | None = None,
    device: torch.device,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> tuple[EmbeddingSet, EmbedReport | None]:
    """Embeddings of a folder of images, made or reused in `out`/embeddings; or those that
    `images` already holds, which must be of `clip` and `text_encoder` if those are given.
    """
    if holds_embeddings(images):
        data = EmbeddingSet(images)
        if not data.captions:
            raise no_captions(images)
        if clip is not None:
            wanted = load_clip(clip, device=device).id
            remedy = "Leave --clip out, or embed the images again with it."
            check_same_encoder(data.encoder_id, wanted, what=str(images), remedy=remedy)
        if text_encoder is not None:
            reader = TextEncoder.load(text_encoder, device=device).id
            remedy = "Leave --text-encoder out, or embed the images again with it."
            what = str(images)
            check_same_text_encoder(data.text_encoder, reader, what=what, remedy=remedy)
        return data, None
    source = ImageSource(images, exclude=out)
    if not source.captions:
        raise no_captions(images, source)
    check_usable(out, kind="prior")
    if distributed.world_size() > 1:
        raise InputError(
            f"Several processes need embeddings that are ready. Run `lafite-shifted embed "
            f"{images} --out EMBEDDINGS` in one, then `train-prior EMBEDDINGS` in all."
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
            options=options,
        )
    finally:
        lock.release()
    return EmbeddingSet(folder), report


def no_captions(images: Path, source: ImageSource | None = None) -> InputError:
    """With what in `source` looks like captions and cannot be used."""
    found = source.caption_problems[:5] if source else []
    found += [(one.file_name, one.reason) for one in source.unused_texts()[:5]] if source else []
    listed = "".join(f"\n  {name}: {reason}" for name, reason in found)
    return InputError(
        f"{images} has no captions, which a prior is trained on. Add metadata.jsonl with "
        f'{{"file_name", "text"}} lines, or a .txt beside each image; or train only a GAN '
        f"and use --no-prior.{listed and ' What was found:'}{listed}"
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
            "num_images": len(data),
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
    images: Path,
    clip: str | None,
    text_encoder: str | None = None,
    *,
    device: torch.device,
) -> list[str]:
    """Lines for --dry-run; nothing is embedded or written."""
    if holds_embeddings(images):
        data = EmbeddingSet(images)
        num_captions, encoder_id = len(data.captions), data.encoder_id
        token_width, length, reader = data.token_width, data.context_length, data.text_encoder
    else:
        source = ImageSource(images)
        encoder = load_clip(clip or STARTER, device=device)
        tower = TextEncoder.load(text_encoder, device=device) if text_encoder else None
        num_captions, encoder_id = sum(map(len, source.captions.values())), encoder.id
        token_width = read_texts(["an image"], encoder, tower).tokens.shape[2]
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
