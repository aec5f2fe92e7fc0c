"""`walk`: a loop through sentences, images or seeds, as a video."""

from collections.abc import Sequence
from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.messages import plain_warnings
from lafite_shifted.cli.prior_options import PriorFlags, prior_options
from lafite_shifted.cli.progress import progress_bar
from lafite_shifted.errors import InputError


@click.command("walk")
@click.argument("stops", nargs=-1, required=True)
@options.out_option("walk.webp and manifest.jsonl")
@options.seeds_option
@options.positive_int("--frames", default=24, help="From each stop to the next.")
@options.animation_options(default="webp")
@options.truncation_option
@prior_options
@options.model_options
def command(
    stops: tuple[str, ...],
    out: Path,
    seed: int | Sequence[int],
    frames: int,
    animation: str,
    fps: int,
    truncation: float,
    prior: PriorFlags,
    model: options.ModelFlags,
) -> None:
    """Make a loop through STOPS and back to the first, each a sentence, an image file or
    latents.safetensors of `project`; or through several seeds of one: walk "a cat" --seed 0-5.
    """
    from lafite_shifted.cli.edited import Argument, EditedFolder
    from lafite_shifted.cli.settings import settings_of
    from lafite_shifted.io.animation import check_own_animation, save_animation

    generation = prior.generation(truncation=truncation)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    places = [Argument(word) for word in stops]
    total = max(len(places), len(seeds)) * frames
    if max(len(places), len(seeds)) < 2:
        raise InputError("A walk needs two stops at least. Give more sentences, or --seed 0-5.")
    folder = EditedFolder(out, [], strip=False)
    movie = out / f"walk.{animation}"
    check_own_animation(movie)
    with plain_warnings():
        pipeline = model.load(needs_prior=any(place.is_text for place in places))
        ends = [place.end(pipeline) for place in places]
        images = pipeline.walk(ends, seeds=seeds, frames=frames, generation=generation)
        with progress_bar("walk", "frame") as progress:

            def counted():
                for number, image in enumerate(images, start=1):
                    yield image
                    progress(number, total)

            record = {"stops": " | ".join(stops), "model": pipeline.hash}
            count = save_animation(movie, counted(), record, fps=fps)
    folder.record(
        {"file": movie.name, "stops": list(stops), "seed": seeds[0], "seeds": seeds}
        | {"frames": count, "frames_a_stop": frames, "fps": fps}
        | settings_of(pipeline, generation, from_text=any(place.is_text for place in places))
    )
    click.echo(f"{count} frames, {count / fps:.1f} s, in {movie}")
