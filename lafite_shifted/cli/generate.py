"""`generate`: images from sentences."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import Number, PathOrUrl
from lafite_shifted.cli.messages import choose_ops, plain_warnings

if TYPE_CHECKING:
    from lafite_shifted.prior.samplers import Sampler
    from torch_utils.device import DtypeName

LEGEND = "labels of grid.png, by lafite-shifted"  # the first line of grid.txt


@click.command("generate")
@click.argument("texts", nargs=-1, required=True)
@click.option(
    "--model",
    required=True,
    type=PathOrUrl(),
    help="Model folder (see `pack`), or a Hugging Face Hub id.",
)
@options.out_option("the images and grid.png")
@options.positive_int("--num-images", default=4, help="Images a sentence; image i uses seed + i.")
@options.seed_option
@options.device_option
@options.ops_option
@options.dtype_option
@options.batch_option(default=16, help="Images a forward pass.")
@options.positive_int(
    "--steps",
    default=None,
    help="Sampling steps of the prior.  [default: 4, or its step budget]",
)
@click.option(
    "--sampler",
    type=click.Choice(["ancestral", "ddim", "dpm++"]),
    help="Of the prior; ddim and dpm++ add no noise on the way. By default dpm++, ancestral for a "
    "prior of the energy objective.",
)
@click.option("--eta", type=Number(0, 1), default=0.0, help="Noise of ddim; 1 is ancestral.")
@click.option("--guidance", type=Number(-100, 100), default=1.0, help="Of the prior; 1 is none.")
@click.option(
    "--dynamic-threshold", is_flag=True, help="Dynamic thresholding, for guidance above 1."
)
@options.positive_int(
    "--best-of",
    default=1,
    help="Samples of the prior; the closest to the text by CLIP is used.",
)
@click.option(
    "--truncation",
    type=Number(-10, 10),
    default=1.0,
    help="Pulls w towards its mean below 1.",
)
@click.option("--no-prior", is_flag=True, help="Condition on the text embedding itself.")
@click.option("--clip", help="Where the model's CLIP lies, if not where it was trained with.")
@click.option("--text-encoder", help="Where the prior's text encoder lies, likewise.")
def command(
    texts: tuple[str, ...],
    model: str,
    out: Path,
    num_images: int,
    seed: int,
    device: str,
    ops: str,
    dtype: "DtypeName",
    batch: int,
    steps: int | None,
    sampler: "Sampler",
    eta: float,
    guidance: float,
    dynamic_threshold: bool,
    best_of: int,
    truncation: float,
    no_prior: bool,
    clip: str | None,
    text_encoder: str | None,
) -> None:
    """Make images of TEXTS with a trained model, such as: generate "a red apple" "a cat" --model
    M --out DIR.
    """
    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.text_features import clean_text
    from lafite_shifted.io.files import check_own_text, write_text
    from lafite_shifted.io.png import check_own_png, save_png, slug
    from lafite_shifted.pipeline import TextToImage
    from lafite_shifted.prior.sample_embeddings import resolve_sampler
    from lafite_shifted.prior.samplers import SamplerConfig
    from training.metrics.grids import labelled_grid

    sampling = SamplerConfig(steps, sampler, eta, guidance, dynamic_threshold, best_of)
    # a sentence given twice makes the same images
    texts = tuple(dict.fromkeys(map(clean_text, texts)))
    names = [
        f"{slug(text)}-{number:04d}" for text in texts for number in range(seed, seed + num_images)
    ]
    for name in (*names, "grid"):  # before the first image is made
        check_own_png(out / f"{name}.png")
    check_own_text(out / "grid.txt", LEGEND)
    choose_ops(ops, resolve_device(device))
    with plain_warnings():
        pipeline = TextToImage.from_pretrained(
            model, device=device, dtype=dtype, clip=clip, text_encoder=text_encoder
        )
        if pipeline.prior is None and not no_prior:
            click.echo(
                f"{model} has no prior: conditioning on the text embedding itself. Add one with "
                "`pack --prior`.",
                err=True,
            )
        if pipeline.prior is not None:
            resolve_sampler(pipeline.prior.prior, sampling)  # refused before the first image
        rows = []
        for text in texts:
            made = pipeline.images(
                text,
                num_images=num_images,
                seed=seed,
                batch=batch,
                use_prior=not no_prior,
                sampling=sampling,
                truncation=truncation,
            )
            images = []
            for number, image in made:
                metadata = {"prompt": text, "seed": str(number), "model": pipeline.hash}
                save_png(out / f"{slug(text)}-{number:04d}.png", image, metadata)
                images.append(image)
            rows.append((text, images))
        scale = max(1, 96 // rows[0][1][0].width)
        grid = labelled_grid(rows, scale=scale)
        save_png(out / "grid.png", grid.image, {"model": pipeline.hash})
        if grid.legend:
            write_text(out / "grid.txt", LEGEND, "\n".join(grid.legend))
    also = ", grid.txt (labels that it cannot show)" if grid.legend else ""
    click.echo(f"{num_images * len(texts)} images and grid.png{also} in {out}")
