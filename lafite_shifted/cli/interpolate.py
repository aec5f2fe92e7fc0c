"""`interpolate`: the way from one image or sentence to another."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.messages import counted, plain_warnings
from lafite_shifted.cli.prior_options import PriorFlags, prior_options


@click.command("interpolate")
@click.argument("a")
@click.argument("b")
@options.out_option("the images, strip.png, the animation and manifest.jsonl")
@click.option("--num-images", default=8, type=click.IntRange(min=2), help="With both ends.")
@options.seed_option
@click.option("--seed-b", type=int, help="Of the other end.  [default: --seed]")
@options.animation_options(default=None)
@options.truncation_option
@prior_options
@options.model_options
def command(
    a: str,
    b: str,
    out: Path,
    num_images: int,
    seed: int,
    seed_b: int | None,
    animation: str | None,
    fps: int,
    truncation: float,
    prior: PriorFlags,
    model: options.ModelFlags,
) -> None:
    """Make the images between A and B, each a sentence, an image file or latents.safetensors of
    `project`: embedding and z move on great circles.
    """
    from lafite_shifted.cli.edited import Argument, EditedFolder
    from lafite_shifted.cli.settings import settings_of
    from lafite_shifted.io.animation import check_own_animation, save_animation

    generation = prior.generation(truncation=truncation)
    ends = (Argument(a), Argument(b))
    folder = EditedFolder(out, [f"step-{number:03d}.png" for number in range(num_images)])
    movie = out / f"interpolation.{animation}"
    if animation:
        check_own_animation(movie)
    with plain_warnings():
        pipeline = model.load(needs_prior=any(end.is_text for end in ends))
        found = pipeline.interpolate(
            *(end.end(pipeline) for end in ends),
            steps=num_images,
            seed=seed,
            seed_b=seed_b,
            generation=generation,
        ).latents
    images = pipeline.render_latents(found)
    record = {"from": a, "to": b, "seed": seed, "seed_b": seed if seed_b is None else seed_b}
    shares = [number / (num_images - 1) for number in range(num_images)]
    settings = settings_of(pipeline, generation, from_text=any(end.is_text for end in ends))
    folder.save(images, [record | {"share": share} for share in shares], settings=settings)
    if animation:
        frames = [*images, *images[-2:0:-1]]  # there and back, without a jump
        save_animation(movie, frames, {"from": a, "to": b, "model": pipeline.hash}, fps=fps)
    also = f" and {movie.name}" if animation else ""
    click.echo(f"{counted(num_images, 'image')}, strip.png{also} in {out}")
