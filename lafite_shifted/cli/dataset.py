"""`dataset`: build the captioned image sets that the shipped models were made from."""

from pathlib import Path

import click

from lafite_shifted.cli import options


@click.command("dataset")
@click.argument(
    "name", type=click.Choice(["emoji", "twemoji", "clipart", "sample", "cone", "wordnet"])
)
@options.out_option("the images, metadata.jsonl and split.json")
@options.positive_int(
    "--size", default=None, help="Side in pixels.  [default: clipart 128, others 64]"
)
@options.positive_int("--names", default=3000, help="Of cone: names, eight embeddings each.")
@options.seed_option
@click.option(
    "--raw",
    is_flag=True,
    help="Copy the files as the packages hold them, broken and huge ones too.",
)
def command(name: str, out: Path, size: int | None, names: int, seed: int, raw: bool) -> None:
    """Build a captioned image set from npm and Debian packages.

    emoji: 7,158 drawings in two styles. twemoji: the same names in a third style, to adapt a model
    to. clipart: 8,121 public-domain drawings. sample: the 512 emoji images that lafite-shifted
    ships, and 512 further ones. Needs npm, or apt-get and dpkg. cone: no images, but made-up
    embeddings in a narrow cone, to compare priors on. wordnet: no images, but words and phrases,
    for `train-clip --texts`.
    """
    if name == "cone":
        from training.data.synthetic_cone import PAIRS_PER_NAME, write_cone

        write_cone(out, num_names=names, seed=seed)
        click.echo(f"{names * PAIRS_PER_NAME} embeddings of {names} names in {out}")
        return
    if name == "wordnet":
        from training.data.wordnet import build_wordnet

        click.echo(f"{build_wordnet(out)} texts in {out / 'texts.txt'}")
        return
    from training.data.datasets import DEFAULT_SIZES, build_dataset, build_sample

    if name == "sample":
        build_sample(out)
        click.echo(f"512 images in {out / 'images'}, 512 further ones in {out / 'reference'}")
        return
    built = build_dataset(name, out, size=size or DEFAULT_SIZES[name], raw=raw)
    click.echo(
        f"{built.num_images} images in {out}, {built.num_held_out} of them held out (split.json)"
    )
    for file_name, reason in built.bad:
        click.echo(f"  unreadable {file_name}: {reason}", err=True)
