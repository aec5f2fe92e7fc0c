"""`style-mix`: coarse things of one image, fine ones of another."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import LayerList
from lafite_shifted.cli.messages import counted, plain_warnings
from lafite_shifted.cli.prior_options import PriorFlags, prior_options


@click.command("style-mix")
@click.argument("a")
@click.argument("b")
@click.option(
    "--layers",
    multiple=True,
    type=LayerList(),
    help="Layers that B gives, such as 3-8, or none; 0 is the coarsest. May be repeated, an image "
    "each.  "
    "[default: the coarse, the middle and the fine third]",
)
@options.out_option("the images, strip.png and manifest.jsonl")
@options.seed_option
@click.option("--seed-b", type=int, help="Of B.  [default: --seed]")
@options.truncation_option
@prior_options
@options.model_options
def command(
    a: str,
    b: str,
    layers: tuple[tuple[int, ...], ...],
    out: Path,
    seed: int,
    seed_b: int | None,
    truncation: float,
    prior: PriorFlags,
    model: options.ModelFlags,
) -> None:
    """Mix A and B, each a sentence, an image file or latents.safetensors of `project`: A, with some
    layers from B.
    """
    from lafite_shifted.cli.edited import Argument, EditedFolder
    from lafite_shifted.cli.settings import settings_of
    from lafite_shifted.editing.style_mixing import layer_table, thirds

    generation = prior.generation(truncation=truncation)
    ends = (Argument(a), Argument(b))
    with plain_warnings():
        pipeline = model.load(needs_prior=any(end.is_text for end in ends))
        chosen = layers or thirds(pipeline.generator)
        names = [f"mix-{'-'.join(map(str, part)) or 'none'}.png" for part in chosen]
        folder = EditedFolder(out, names)
        own, other = (
            pipeline.latents(end.end(pipeline), seed=number, generation=generation)
            for end, number in zip(ends, (seed, seed if seed_b is None else seed_b), strict=True)
        )
        mixed = [pipeline.style_mix(own, other, layers=part).latents for part in chosen]
    before = [pipeline.render_latents(end)[0] for end in (own, other)]
    images = [pipeline.render_latents(part)[0] for part in mixed]
    record = {"a": a, "b": b, "seed": seed, "seed_b": seed if seed_b is None else seed_b}
    settings = settings_of(pipeline, generation, from_text=any(end.is_text for end in ends))
    records = [record | {"layers": list(part)} for part in chosen]
    folder.save(images, records, before=before, settings=settings)
    click.echo(
        f"{counted(len(images), 'mixture')} and strip.png (A, B, mixtures) in {out}; layers of "
        "this model: "
        f"{layer_table(pipeline.generator)}"
    )
