"""`dataset`: build the captioned image sets that the shipped models were made from, and bring any
set into another layout.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath
from lafite_shifted.cli.messages import plain_warnings
from lafite_shifted.cli.progress import progress_bar


@click.group("dataset")
def command() -> None:
    """Build the image sets that lafite_shifted was made from, or convert any set.

    Those of npm and Debian packages need npm, or apt-get and dpkg.
    """


def _image_set(name: str, default_size: int, help: str, *added: Callable) -> None:
    """The verb that builds the set `name`, with options of its own."""

    @command.command(name, help=help)
    @options.out_option("the images, metadata.jsonl and split.json")
    @options.positive_int("--size", default=default_size, help="Side in pixels.")
    @click.option(
        "--raw",
        is_flag=True,
        help="Copy the files as the packages hold them, broken and huge ones too.",
    )
    def build(out: Path, size: int, raw: bool, **more: Any) -> None:
        from training.data.datasets import build_dataset

        built = build_dataset(name, out, size=size, raw=raw, **more)
        click.echo(
            f"{built.num_images} images in {out}, {built.num_held_out} of them held out "
            "(split.json)"
        )
        for file_name, reason in built.bad:
            click.echo(f"  unreadable {file_name}: {reason}", err=True)

    for option in added:
        option(build)


SKIN_TONES = click.option(
    "--skin-tones",
    type=click.IntRange(min=0),
    help="Variants of skin tone of each drawing, half of all images otherwise.  [default: all]",
)
ALL_STYLES = click.option(
    "--all-styles",
    is_flag=True,
    help="Also Noto's drawings of before, twice, and Fluent's flat and modern ones: 14,042 with "
    "--skin-tones 2. Needs the extra `starter`.",
)
_image_set("emoji", 64, "7,158 drawings in two styles.", SKIN_TONES, ALL_STYLES)
_image_set("twemoji", 64, "The names of emoji in a third style, to adapt a model to.", SKIN_TONES)
_image_set("clipart", 128, "8,121 public-domain drawings.")


@command.command("sample")
@options.out_option("the images")
def sample(out: Path) -> None:
    """The 512 emoji images that lafite-shifted ships, 512 further ones, 512 in a third style."""
    from training.data.sample import build_sample

    build_sample(out)
    click.echo(
        f"512 images in {out / 'images'}, 512 further ones in {out / 'reference'}, 512 in a "
        f"third style in {out / 'style'}"
    )


@command.command("cone")
@options.out_option("the embeddings")
@options.positive_int("--names", default=3000, help="Eight embeddings each.")
@options.seed_option
def cone(out: Path, names: int, seed: int) -> None:
    """No images, but made-up embeddings in a narrow cone, to compare priors on."""
    from training.data.synthetic_cone import PAIRS_PER_NAME, write_cone

    write_cone(out, num_names=names, seed=seed)
    click.echo(f"{names * PAIRS_PER_NAME} embeddings of {names} names in {out}")


@command.command("wordnet")
@options.out_option("texts.txt")
def wordnet(out: Path) -> None:
    """No images, but words and phrases, for `train-clip --texts`."""
    from training.data.wordnet import build_wordnet

    click.echo(f"{build_wordnet(out)} texts in {out / 'texts.txt'}")


@command.command("convert")
@click.argument("source", type=FolderPath)
@click.argument("target", type=FolderPath)
@click.option(
    "--layout",
    type=click.Choice(["folder", "zip", "shards"]),
    help="Of TARGET.  [default: zip where it ends in .zip, else folder]",
)
@options.positive_int("--resolution", default=None, help="Squares of so many pixels.")
@click.option(
    "--image-format",
    default="png",
    type=click.Choice(["png", "webp", "jpeg"]),
    help="Of squares; webp is lossless.",
)
@click.option(
    "--crop",
    default="centre",
    type=click.Choice(["centre", "stretch", "pad"]),
    help="How squares are made.",
)
@click.option("--resize", default="lanczos", type=click.Choice(["lanczos", "bicubic", "box"]))
@click.option("--background", default="white", help="Shown through transparency: name or #rrggbb.")
@click.option(
    "--augmented-copies",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Of each image, mirrored, moved and recoloured at random, for train-gan; without the "
    "captions, which might not be true of them.",
)
@options.positive_int("--images-per-shard", default=1000, help="Also what is done again at most.")
@options.max_bad_option
@options.max_megapixels_option
@options.json_option
def convert(
    source: Path,
    target: Path,
    layout: str | None,
    resolution: int | None,
    image_format: str,
    crop: str,
    resize: str,
    background: str,
    augmented_copies: int,
    images_per_shard: int,
    max_bad: float,
    max_megapixels: float,
    as_json: bool,
) -> None:
    """Copy the images of SOURCE, with their captions, to TARGET: between a folder, a zip and tar
    shards. Without --resolution the files stay as they are.

    The same command resumes where it was interrupted; TARGET appears when all of it is there.
    """
    import json

    from training.config import parse
    from training.data.convert import ConvertConfig
    from training.data.convert import convert as run
    from training.data.decoding.read_image import ReadOptions
    from training.data.images import ImageSource

    values: dict[str, Any] = {
        "layout": layout or ("zip" if target.suffix.lower() == ".zip" else "folder"),
        "resolution": resolution,
        "image_format": image_format,
        "images_per_shard": images_per_shard,
        "squares": {"background": background, "resize": resize, "crop": crop},
        "augmented_copies": augmented_copies,
    }
    config = parse(ConvertConfig, values)
    with plain_warnings(), progress_bar("converting", "img") as progress:
        reading = ReadOptions(max_bad, max_megapixels, progress)
        found = run(ImageSource(source), target, config, options=reading)
    if as_json:
        record = {"images": found.num_images, "captioned": found.num_captions}
        record |= {"bytes": found.num_bytes, "unreadable": len(found.bad)}
        click.echo(json.dumps(record | {"renamed": len(found.renamed)}))
        return
    click.echo(
        f"{found.num_images} images, {found.num_captions} of them with captions, "
        f"{found.num_bytes / 1e6:.1f} MB in {target}"
    )
    for name, new in list(found.renamed.items())[:1]:
        click.echo(f"  {len(found.renamed)} have other names, first {name!r}: {new!r}", err=True)
    for file_name, reason in found.bad[:20]:
        click.echo(f"  unreadable {file_name}: {reason}", err=True)
