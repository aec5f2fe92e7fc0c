"""The drawings that ship with lafite_shifted, chosen from the emoji sets: 512 in two styles, as
many further ones, and 512 in a third style to adapt a model to.
"""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lafite_shifted.io.files import (
    atomic_directory,
    atomic_file,
    read_json,
    read_json_lines,
    sha256_of,
    write_json_lines,
)
from training.data.datasets import build_dataset, check_unused

SAMPLE_SIZE = 512  # images of each part
SAMPLE_PIXELS = 64
COLOURS = 256  # of an image of the third style: a palette, in which few pixels change


def build_sample(out: Path) -> None:
    """What ships: `out`/images, as many further ones in `out`/reference, and `out`/style.

    In an order given by their names' hash; skin-tone variants and keycaps are left out, and all
    names of which either set holds out a drawing. Raises InputError as `build_dataset` does.
    """
    check_unused(out)
    with tempfile.TemporaryDirectory() as work, atomic_directory(out) as target:
        emoji, third = (_build(name, Path(work)) for name in ("emoji", "twemoji"))
        held_out = _held_out_names(emoji) | _held_out_names(third)
        rows = _chosen(emoji, held_out)
        _write(emoji, target / "images", rows[:SAMPLE_SIZE])
        _write(emoji, target / "reference", rows[SAMPLE_SIZE : 2 * SAMPLE_SIZE])
        rows = [  # names alone: no part of a model is trained on them
            {name: row[name] for name in ("file_name", "text", "style")}
            for row in _chosen(third, held_out)[:SAMPLE_SIZE]
        ]
        _write(third, target / "style", rows, colours=COLOURS)


def _build(name: str, work: Path) -> Path:
    build_dataset(name, work / name, size=SAMPLE_PIXELS)
    return work / name


def _held_out_names(folder: Path) -> set[str]:
    held_out = set(read_json(folder / "split.json")["held_out"])
    rows = read_json_lines(folder / "metadata.jsonl")
    return {row["text"] for row in rows if row["file_name"] in held_out}


def _chosen(folder: Path, held_out: Collection[str]) -> list[dict[str, Any]]:
    """The rows of a set that may ship, in the order of their hash."""
    rows = [
        row
        for row in read_json_lines(folder / "metadata.jsonl")
        if row["text"] not in held_out
        and "skin tone" not in row["text"]
        and "keycap" not in row["text"]
    ]
    return sorted(rows, key=lambda row: sha256_of(f"sample {row['file_name']}".encode()))


def _write(
    folder: Path, target: Path, rows: Sequence[dict[str, Any]], *, colours: int | None = None
) -> None:
    for row in rows:
        with (
            Image.open(folder / row["file_name"]) as image,
            atomic_file(target / row["file_name"]) as file,
        ):
            found = image
            if colours is not None:
                found = image.quantize(colours, kmeans=3, dither=Image.Dither.NONE)
            found.save(file, format="PNG", optimize=True)
    write_json_lines(target / "metadata.jsonl", list(rows))
