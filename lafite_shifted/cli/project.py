"""`project`: the latents with which the generator gives an image back."""

from dataclasses import asdict
from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath, Number
from lafite_shifted.cli.messages import plain_warnings
from lafite_shifted.cli.progress import progress_bar
from lafite_shifted.errors import InterruptedRunError

SAVE_EVERY = 25  # steps
SIGINT = 2


@click.command("project")
@click.argument("image", type=FolderPath)
@options.out_option("projection.png, latents.safetensors, strip.png and manifest.jsonl")
@options.positive_int("--steps", default=300, help="Of the optimisation, in all.")
@click.option("--learning-rate", default=0.05, type=Number(0, above=True), help="Of Adam.")
@click.option(
    "--clip-weight",
    default=0.1,
    type=Number(0),
    help="Of 1 - cosine of the CLIP embeddings, beside the mean square error of pixels.",
)
@options.positive_int("--candidates", default=32, help="Seeds, the best of which is the start.")
@click.option("--one-w", is_flag=True, help="One w for all layers: gives less back.")
@options.seed_option
@options.model_options
def command(
    image: Path,
    out: Path,
    steps: int,
    learning_rate: float,
    clip_weight: float,
    candidates: int,
    one_w: bool,
    seed: int,
    model: options.ModelFlags,
) -> None:
    """Find w and noise with which the generator gives IMAGE back, its CLIP embedding held. The same
    command again resumes, or continues with more --steps.
    """
    from lafite_shifted.cli.edited import EditedFolder
    from lafite_shifted.cli.image_argument import read_image_file
    from lafite_shifted.cli.settings import settings_of
    from lafite_shifted.editing.projection import ProjectionConfig
    from lafite_shifted.editing.projection_file import check_own_projection, resume, save
    from lafite_shifted.generation import Generation

    config = ProjectionConfig(learning_rate, clip_weight, candidates, not one_w, seed)
    given = read_image_file(image)
    folder = EditedFolder(out, ["projection.png"])
    check_own_projection(out)
    with plain_warnings():
        pipeline = model.load(needs_prior=False)
        projection = pipeline.projection(given, config)
        resumed = resume(out, projection, model=pipeline.hash)
        try:
            with progress_bar("project", "step") as progress:
                progress(projection.step, max(steps, projection.step))
                for step, _ in projection.run(steps):
                    progress(step, steps)
                    if step % SAVE_EVERY == 0:
                        save(out, projection, model=pipeline.hash)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                f"Interrupted at step {projection.step}; the same command resumes it.", SIGINT
            ) from error
        finally:
            save(out, projection, model=pipeline.hash)
        metrics = projection.metrics()
    images = pipeline.render_latents(projection.latents)
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    record = {"image": image.name, "steps": projection.step, **asdict(config), **rounded}
    settings = settings_of(pipeline, Generation(), from_text=False)
    folder.save(images, [record], before=[projection.target_image], settings=settings)
    click.echo(
        f"{f'resumed at step {resumed}; ' if resumed else ''}{projection.step} steps: PSNR "
        f"{metrics['psnr']:.2f} dB, cosine of the CLIP embeddings {metrics['cosine']:.3f}; "
        f"projection.png and latents.safetensors, for the other verbs, in {out}"
    )
