"""`guide`: images nearer to their sentence, by CLIP."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Literal

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import Number
from lafite_shifted.cli.messages import counted, plain_warnings
from lafite_shifted.cli.prior_options import PriorFlags, prior_options
from lafite_shifted.cli.progress import progress_bar
from lafite_shifted.errors import InputError


@click.command("guide")
@click.argument("text")
@options.out_option("the images, strip.png and manifest.jsonl")
@options.positive_int("--num-images", default=None, help="Image i uses seed + i.  [default: 4]")
@options.seeds_option
@options.positive_int("--candidates", default=8, help="Seeds an image, of which the best is taken.")
@click.option(
    "--gradient-steps", default=20, type=click.IntRange(min=0), help="After that; 0 for none."
)
@click.option("--space", default="w", type=click.Choice(["w", "z"]), help="What is moved.")
@click.option(
    "--radius",
    default=0.5,
    type=Number(0, above=True),
    help="Of the trust region, in usual distances of w from its mean, or of z from 0.",
)
@click.option("--judge-clip", help="Another CLIP, which took no part, to judge by.")
@options.truncation_option
@prior_options
@options.model_options
def command(
    text: str,
    out: Path,
    num_images: int | None,
    seed: int | Sequence[int],
    candidates: int,
    gradient_steps: int,
    space: Literal["w", "z"],
    radius: float,
    judge_clip: str | None,
    truncation: float,
    prior: PriorFlags,
    model: options.ModelFlags,
) -> None:
    """Make images of TEXT that CLIP finds nearer to it: the best of several seeds, then steps along
    the gradient, in a trust region so that images stay images.
    """
    from lafite_shifted.cli.edited import Argument, EditedFolder
    from lafite_shifted.cli.judges import load_clip_judge, text_cosine
    from lafite_shifted.cli.settings import settings_of
    from lafite_shifted.editing.guidance import GuidanceConfig

    generation = prior.generation(truncation=truncation)
    config = GuidanceConfig(candidates, gradient_steps, space, radius)
    given = Argument(text)
    if not given.is_text:
        raise InputError(f"{text} is a file. `guide` leads towards a sentence: write one.")
    seeds = options.sample_seeds(seed, num_images, default=4)
    folder = EditedFolder(out, [f"guided-{number:04d}.png" for number in seeds])
    with plain_warnings():
        pipeline = model.load()
        judge = judge_clip and load_clip_judge(
            judge_clip, conditioning=pipeline.clip.id, device=pipeline.device
        )
        plain = pipeline.render_latents(
            pipeline.latents(given.prompt, seed=list(seeds), generation=generation)
        )
        total = len(seeds) * gradient_steps
        with progress_bar("guide", "step") as progress:
            steps = count(1)
            found = pipeline.guide(
                given.prompt,
                seed=list(seeds),
                config=config,
                generation=generation,
                on_step=lambda: progress(next(steps), total),
            )
    images = pipeline.render_latents(found.latents)
    columns = {"own_seed": found.of_seed, "best_seed": found.of_best, "guided": found.of_end}
    settings = asdict(config) | settings_of(pipeline, generation, from_text=True)
    records = [
        {"prompt": str(given.prompt), "seed": number}
        | {f"cosine_{name}": round(float(values[n]), 4) for name, values in columns.items()}
        for n, number in enumerate(seeds)
    ]
    folder.save(images, records, before=plain, settings=settings)
    means = ", ".join(
        f"{name.replace('_', ' ')} {float(v.mean()):.3f}" for name, v in columns.items()
    )
    click.echo(f"{counted(len(images), 'image')} and strip.png (own seeds, guided) in {out}")
    click.echo(f"cosine with the sentence, by the CLIP that guided: {means}")
    if judge:
        sentences = list(zip(given.prompt.texts, given.prompt.weights, strict=True))
        before, after = (
            sum(weight * text_cosine(judge, part, sentence) for sentence, weight in sentences)
            for part in (plain, images)
        )
        click.echo(
            f"by {judge_clip}, which took no part: own seed {before:.3f}, guided {after:.3f}"
        )
