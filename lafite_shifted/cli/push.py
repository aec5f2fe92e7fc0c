"""`push`: a model to the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from lafite_shifted.cli.argument_types import FolderPath, ModelFolder
from lafite_shifted.errors import InputError

PROMPTS = ("a red heart", "a smiling cat", "a yellow star", "a green tree")
NUM_IMAGES = 8  # of a prompt, in the gallery
SMALLEST_CELL = 64  # pixels of an image in it


@click.command("push")
@click.argument("folder", metavar="MODEL", type=ModelFolder)
@click.argument("repo", metavar="ORG/NAME")
@click.option(
    "--license", "license_", required=True, help="Of the model: cc-by-4.0, apache-2.0, other, ..."
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    default=PROMPTS,
    help="A row of the gallery. May be repeated.",
)
@click.option("--private", is_flag=True, help="Of a repository that is made now.")
@click.option("--branch", help="Of the repository; made where it is missing.  [default: main]")
@click.option("--clip", help="Where the model's CLIP lies, if not where it was trained with.")
@click.option(
    "--dry-run",
    type=FolderPath,
    metavar="DIR",
    help="Write what would be sent there, send nothing.",
)
def command(
    folder: Path,
    repo: str,
    license_: str,
    prompts: Sequence[str],
    private: bool,
    branch: str | None,
    clip: str | None,
    dry_run: Path | None,
) -> None:
    """Send MODEL, a model folder or `starter`, to ORG/NAME on the Hub: weights as safetensors, and
    a card with its data, metrics, settings and a gallery. Others load it as `--model ORG/NAME`.
    """
    from lafite_shifted.io.files import atomic_directory, write_bytes
    from lafite_shifted.io.hub import upload
    from lafite_shifted.model_card import GALLERY, check_license, check_portable, hub_card

    if repo.count("/") != 1 or not all(repo.split("/")):
        raise InputError(f"{repo!r} is no Hub id. Give ORG/NAME, such as your-name/my-drawings.")
    if dry_run is not None and dry_run.exists():
        raise InputError(f"{dry_run} exists already. Choose another --dry-run.")
    check_license(license_)
    card = hub_card(folder, repo=repo, license=license_, prompts=prompts)
    check_portable(folder)
    files: dict[str, Path | bytes] = dict(_weights(folder))
    files |= {"README.md": card.encode(), GALLERY: _gallery(folder, prompts, clip)}
    if dry_run is not None:
        with atomic_directory(dry_run) as target:
            for name, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                write_bytes(target / name, data)
        click.echo(f"{len(files)} files in {dry_run}, nothing sent. Look at README.md.")
        return
    message = "Model by lafite-shifted push"
    commit = upload(files, repo, private=private, branch=branch, message=message)
    click.echo(f"{len(files)} files sent. Pinned: --model {repo}@{commit}")


def _weights(folder: Path) -> dict[str, Path]:
    """The files of the parts by their names in the repository."""
    from lafite_shifted.model_card import PARTS

    found = (path for part in PARTS for path in sorted((folder / part).glob("*")))
    kinds = (".json", ".safetensors")
    return {path.relative_to(folder).as_posix(): path for path in found if path.suffix in kinds}


def _gallery(folder: Path, prompts: Sequence[str], clip: str | None) -> bytes:
    from io import BytesIO

    from PIL import Image

    from lafite_shifted.pipeline import TextToImage
    from training.metrics.grids import labelled_grid

    model = TextToImage.from_pretrained(folder, device="cpu", clip=clip)
    made = [model(prompt, num_images=NUM_IMAGES) for prompt in prompts]
    rows = list(zip(prompts, cast(list[list[Image.Image]], made), strict=True))
    scale = max(1, SMALLEST_CELL // rows[0][1][0].width)
    file = BytesIO()
    labelled_grid(rows, scale=scale).image.save(file, "PNG")
    return file.getvalue()
