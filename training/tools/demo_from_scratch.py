"""The whole chain on the shipped images from random weights, with the same functions as the verbs.

Shape letters: N images, D embedding, S sentences.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.encoders.ensemble import load_clip
from lafite_shifted.gaussian.cone import cone
from lafite_shifted.io.files import write_json
from lafite_shifted.io.png import save_png
from lafite_shifted.packing import pack_model
from lafite_shifted.pipeline import TextToImage
from torch_utils.host_reads import HostRead, on_host
from training.data.embeddings.embedding_set import EmbeddingSet
from training.gan.presets import GAN_PRESETS
from training.gan.run import gan_config, open_gan_run
from training.loop import run_loop
from training.metrics.distances import set_distance
from training.metrics.grids import labelled_grid
from training.prior.presets import PRIOR_PRESETS
from training.prior.run import open_prior_run, prior_config
from training.tools.demo import ASSETS, SENTENCES, DemoResult, Say, Show

SEEDS_PER_SENTENCE = 16


@dataclass(frozen=True)
class ScratchConfig:
    """How long the demo trains."""

    gan_kimg: float = 26.0
    prior_kimg: float = 40.0
    seed: int = 0
    num_captions: int = 512  # for the Frechet distance


def run_from_scratch(
    out: Path, config: ScratchConfig, *, device: torch.device, say: Say, show: Show
) -> DemoResult:
    """Embed, describe, train two priors and a GAN, pack, generate and measure.

    Resumes what was interrupted. `say` gets a line for the user, `show` drains a training and shows
    its progress.
    """
    images = ASSETS / "images"
    clip = load_clip("starter", device=device)

    say("\n== 1. embeddings of the 512 shipped images")
    gan = gan_config(
        GAN_PRESETS["tiny"],
        kimg=config.gan_kimg,
        seed=config.seed,
        assignments=["hold_out=false"],  # none of the shipped images is on the held-out side
    )
    gan_trainer, gan_run, report = open_gan_run(gan, images, out / "gan", clip, device=device)
    data = EmbeddingSet(out / "gan" / "embeddings")
    shape = cone(data.stats())
    say(
        f"{report.num_embedded} embedded, {report.num_reused} reused. The cone they fill: norm of "
        f"the mean {shape.norm_of_mean:.2f}, mean cosine {shape.mean_cosine:.2f}, effective rank "
        f"{shape.effective_rank:.0f} of {data.image.shape[1]}"
    )
    for number, process in enumerate(("shifted", "baseline"), start=2):
        say(f"\n== {number}. a tiny {process} prior: text -> image embedding")
        prior = prior_config(
            PRIOR_PRESETS["tiny"],
            process=process,
            kimg=config.prior_kimg,
            seed=config.seed,
            assignments=["hold_out=false"],
        )
        trainer, open_run = open_prior_run(prior, data, out / f"prior-{process}", device=device)
        show(run_loop(trainer, trainer.config.run, open_run()), f"{process} prior")

    say("\n== 4. a tiny GAN: image embedding -> image, trained on images alone")
    show(run_loop(gan_trainer, gan_trainer.config.run, gan_run), "gan")

    say("\n== 5. pack, generate, measure")
    return _compare(out, data, config, device)


def _compare(
    out: Path, data: EmbeddingSet, config: ScratchConfig, device: torch.device
) -> DemoResult:
    """Pack a model for each prior, generate with both and without one, and measure the distance to
    real images; writes grid.png and metrics.json.
    """
    models = {process: _packed(out, process, device) for process in ("shifted", "baseline")}
    rows = {name: (model, True) for name, model in models.items()}
    rows["no prior"] = (models["shifted"], False)
    real = data.image[: config.num_captions]
    captions = [captions[0] for captions in data.captions_by_name().values()]
    captions = captions[: config.num_captions]
    reference = EmbeddingSet(ASSETS / "reference").image[: config.num_captions]
    metrics, made = {}, {}
    for name, (model, use_prior) in rows.items():
        made[name], metrics[name] = _measure(model, use_prior, captions, real)
    metrics["real against real"] = {"fd_clip": set_distance(reference, real)}
    drawn = [
        (f"{text}  ({name})", made[name][text])
        for text in SENTENCES
        for name in ("shifted", "no prior")
    ]
    grid = out / "grid.png"
    save_png(grid, labelled_grid(drawn, scale=2).image, {"model": models["shifted"].hash})
    write_json(out / "metrics.json", metrics)
    return DemoResult(grid, _table(metrics, len(captions)), _next_commands(), metrics)


def _packed(out: Path, process: str, device: torch.device) -> TextToImage:
    folder = out / f"model-{process}"
    shutil.rmtree(folder, ignore_errors=True)
    pack_model(folder, gan=out / "gan", prior=out / f"prior-{process}")
    return TextToImage.from_pretrained(folder, device=str(device))


@torch.no_grad()
def _measure(
    model: TextToImage, use_prior: bool, captions: list[str], real: Tensor
) -> tuple[dict[str, list[Image.Image]], dict[str, float]]:
    """Images of every sentence, and the distance over all captions. No recall of the sentence:
    the CLIP that conditions would judge itself, and takes its text embedding for the best image.
    """
    made = {
        text: model(text, num_images=SEEDS_PER_SENTENCE, use_prior=use_prior) for text in SENTENCES
    }
    made = cast(dict[str, list[Image.Image]], made)
    seen = []
    for start in range(0, len(captions), 64):
        part = captions[start : start + 64]
        numbers = range(start, start + len(part))
        embeddings = model.embed(part, seeds=numbers, use_prior=use_prior)
        decoded = model.decode(embeddings, seeds=numbers).permute(0, 3, 1, 2)
        seen.append(on_host(model.clip.embed_images(decoded), HostRead.EVALUATION))
    return made, {"fd_clip": set_distance(torch.cat(seen), real)}


def _table(metrics: dict[str, dict[str, float]], count: int) -> list[str]:
    lines = [
        f"Frechet distance: between CLIP embeddings of generated and real images, {count} each; "
        "lower is better",
        "",
        f"{'':20}{'Frechet distance':>20}",
    ]
    lines += [f"{name:20}{values['fd_clip']:20.4f}" for name, values in metrics.items()]
    return lines


def _next_commands() -> list[str]:
    return [
        "lafite-shifted train-gan PHOTOS --out runs/gan --clip ViT-B-32/laion2b_s34b_b79k",
        "lafite-shifted pack --gan runs/gan --out my-model",
        'lafite-shifted generate "a red apple" --model my-model --out images',
    ]
