"""`variations`: an image again, with other random numbers."""

from collections.abc import Sequence
from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import Number
from lafite_shifted.cli.messages import counted, plain_warnings


@click.command("variations")
@click.argument("image")
@options.out_option("the images, strip.png and manifest.jsonl")
@options.positive_int("--num-images", default=None, help="Image i uses seed + i.  [default: 8]")
@options.seeds_option
@click.option(
    "--spread",
    type=Number(0),
    default=0.0,
    help="How far embeddings move along Sigma^(1/2); 1 is about as far as an unrelated image.",
)
@options.truncation_option
@options.model_options
def command(
    image: str,
    out: Path,
    num_images: int | None,
    seed: int | Sequence[int],
    spread: float,
    truncation: float,
    model: options.ModelFlags,
) -> None:
    """Make variations of IMAGE, a file: its CLIP embedding stays, z is new."""
    from lafite_shifted.cli.edited import Argument, EditedFolder
    from lafite_shifted.cli.settings import settings_of
    from lafite_shifted.generation import Generation

    given = Argument(image)
    seeds = options.sample_seeds(seed, num_images, default=8)
    folder = EditedFolder(out, [f"variation-{number:04d}.png" for number in seeds])
    with plain_warnings():
        pipeline = model.load(needs_prior=given.is_text)
        found = pipeline.variations(
            given.end(pipeline), seed=list(seeds), spread=spread, truncation=truncation
        ).latents
    before = pipeline.latents(given.end(pipeline)).embedding
    cosines = (found.embedding * before).sum(dim=1).tolist()
    record = {"image": given.word, "spread": spread}
    generation = Generation(truncation=truncation)
    settings = settings_of(pipeline, generation, from_text=given.is_text)
    records = [
        {**record, "seed": number, "embedding_cosine": round(cosine, 4)}
        for number, cosine in zip(seeds, cosines, strict=True)
    ]
    images = pipeline.render_latents(found)
    folder.save(images, records, before=given.shown(images[0].width), settings=settings)
    mean = sum(cosines) / len(cosines)
    click.echo(
        f"{counted(len(images), 'variation')} and strip.png in {out}; cosine of their embeddings "
        f"with the image's {mean:.3f}"
    )
