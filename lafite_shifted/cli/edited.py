"""What the verbs of edits share: images and sentences as arguments, and the folder that they write.

NAME.png        the results, each as it was made
strip.png       all in a row, behind what they were made from
manifest.jsonl  a row for each file
"""

import errno
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lafite_shifted.cli.image_argument import read_image_file
from lafite_shifted.errors import InputError
from lafite_shifted.io.image_file import (
    GIVEN_SUFFIXES,
    LATENTS_SUFFIX,
    check_own_image,
    save_image,
)
from lafite_shifted.io.manifest import Manifest, check_distinct
from lafite_shifted.io.png import as_grid, check_own_png, save_png
from lafite_shifted.io.shell import expanded

if TYPE_CHECKING:
    from lafite_shifted.edits import End
    from lafite_shifted.pipeline import TextToImage

SMALLEST = 96  # pixels of an image in a strip


class Argument:
    """A sentence, an image file or a latents file, as it is written on the command line."""

    def __init__(self, word: str):
        """InputError where a file is meant and is not there."""
        from lafite_shifted.prompts import parse_prompt_lines

        if not word.strip():
            raise InputError("A sentence is empty. Write one, such as: a red apple")
        path = Path(expanded(word))
        try:
            is_file, is_folder = path.is_file(), path.is_dir()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # which a sentence may be
                raise
            is_file = is_folder = False
        self.word, self.path = word, path if is_file else None
        self.image: Image.Image | None = None
        if self.path is None:
            if is_folder:
                raise InputError(
                    f"{word} is a folder. Give an image in it, or a sentence of more words."
                )
            if path.suffix.lower() in GIVEN_SUFFIXES:
                raise InputError(f"{word} is no file. Check the path, or write a sentence.")
            prompts = parse_prompt_lines(word.encode("utf-8", "replace"), where="the sentence")
            if len(prompts) > 1:
                raise InputError("A sentence has one line. Give several as several arguments.")
            self.prompt = prompts[0]
        elif self.path.suffix != LATENTS_SUFFIX:
            self.image = read_image_file(self.path)

    @property
    def is_text(self) -> bool:
        """Whether it is a sentence."""
        return self.path is None

    def end(self, model: "TextToImage") -> "End":
        """What an edit takes."""
        from lafite_shifted.editing.latents import Latents

        if self.image is not None:
            return self.image
        if self.path is not None:
            return Latents.load(self.path, model.generator, model=model.hash)
        return self.prompt

    def shown(self, size: int) -> list[Image.Image]:
        """The image, if it is one, as a strip shows it."""
        from PIL import ImageOps

        return [] if self.image is None else [ImageOps.fit(self.image, (size, size))]


class EditedFolder:
    """The files that one command writes; InputError before any is made where a file of another
    program would be lost.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, strip: bool = True):
        self.folder, self.names, self.strip = folder, names, strip
        check_distinct(names, "Give each once; numbers must differ in three decimals.")
        for name in names:
            check_own_image(folder / name)
        if strip:
            check_own_png(folder / "strip.png")
        self.manifest = Manifest(folder)

    def save(
        self,
        images: Sequence[Image.Image],
        records: Sequence[Mapping[str, Any]],
        *,
        before: Sequence[Image.Image] = (),
        settings: Mapping[str, Any],
    ) -> None:
        """Write all; `records` say what each was made from, `settings` what holds for all."""
        rows, model = [], settings["model"]
        for name, image, record in zip(self.names, images, records, strict=True):
            row = {"file": name, **record, **settings}
            save_image(self.folder / name, image, {"model": model, "settings": json.dumps(row)})
            rows.append(row)
        self.record(*rows)
        if self.strip:
            strip = image_strip([*before, *images])
            save_png(self.folder / "strip.png", strip, {"model": model})

    def record(self, *rows: Mapping[str, Any]) -> None:
        """Describe files in the manifest."""
        self.manifest.forget({row["file"] for row in rows})
        self.manifest.append(rows)


def image_strip(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size in a row, enlarged where they are small."""
    from training.metrics.grids import image_grid

    scale = max(1, -(-SMALLEST // images[0].width))
    return as_grid(image_grid(images, columns=len(images), scale=scale))
