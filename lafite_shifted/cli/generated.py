"""What `generate` writes: files and their names, the manifest, a grid, contact sheets; what of it
is there already.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lafite_shifted.cli.messages import counted
from lafite_shifted.errors import InputError
from lafite_shifted.generation import Generation, to_pil
from lafite_shifted.io.files import check_own_text, sha256_of, write_text
from lafite_shifted.io.image_file import check_own_image, save_image
from lafite_shifted.io.manifest import NAME, Manifest, check_distinct
from lafite_shifted.io.png import DIGEST, check_own_png, save_png, slug
from lafite_shifted.prompts import parse_prompt_lines, parse_prompts

if TYPE_CHECKING:
    from torch import Tensor

    from lafite_shifted.pipeline import PromptLike, TextToImage

LEGEND = "labels of grid.png, by lafite-shifted"  # the first line of grid.txt
MOST_IMAGES = 10**7  # of one run
GRID_PROMPTS, GRID_IMAGES = 64, 4096  # that a grid shows: memory stays flat beyond
GRID_COLUMNS = 20  # a prompt of more images has several rows
SHEET_COLUMNS, SHEET_IMAGES = 8, 80
SMALLEST_CELL = 96  # pixels


@dataclass(frozen=True)
class Source:
    """A prompt, or an image in place of one, as it is used, named and recorded."""

    prompt: "PromptLike"
    name: str  # of files
    label: str  # in a grid
    record: dict[str, Any]  # in the manifest


def sources_of_prompts(texts: Sequence[str], file: str | None) -> list[Source]:
    """Of the arguments and a file; of standard input for `-`, or where nothing else is given."""
    prompts = parse_prompts(texts) if texts else []
    if file == "-" or (not texts and file is None and not sys.stdin.isatty()):
        prompts += parse_prompt_lines(_standard_input(), where="standard input")
    elif file is not None:
        try:
            prompts += parse_prompt_lines(Path(file).read_bytes(), where=file)
        except FileNotFoundError:
            raise InputError(f"--prompts {file} does not exist. Check the path.") from None
    if not prompts:
        raise InputError(
            'No prompt is given. Write one, such as `generate "a red apple"`, or name a file with '
            "--prompts."
        )
    names = {prompt: str(prompt) for prompt in prompts}  # each once, in order
    return [Source(p, slug(name), name, {"prompt": name}) for p, name in names.items()]


def _standard_input() -> bytes:
    """Of a test, too, which replaces it by text."""
    stream = getattr(sys.stdin, "buffer", None)
    return stream.read() if stream is not None else sys.stdin.read().encode()


def source_of_images(paths: Sequence[Path]) -> list[Source]:
    """Of image files."""
    from lafite_shifted.cli.image_argument import read_image_file

    names = Counter(slug(path.stem) for path in paths)
    sources = dict[str, Source]()  # each image once
    for path in paths:
        image, name = read_image_file(path), slug(path.stem)
        record = {"image": path.name, "image_sha256": sha256_of(path.read_bytes())}
        if names[name] > 1:  # of several folders
            name = f"{name}-{record['image_sha256'][:DIGEST]}"
        sources.setdefault(name, Source(image, name, path.name, record))
    return list(sources.values())


class Outputs:
    """The images of all sources and seeds, in one folder. InputError before the first is made
    where a file of another program would be lost.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        seeds: Sequence[int],
        *,
        suffix: str,
        forms: Sequence[str],
        resume: bool,
    ):
        self.folder, self.sources, self.seeds = folder, sources, seeds
        self.suffix, self.forms, self.resume = suffix, frozenset(forms), resume
        if len(sources) * len(seeds) > MOST_IMAGES:
            raise InputError(
                f"{len(sources)} x {len(seeds)} images are more than {MOST_IMAGES} in one run. "
                "Make them in parts."
            )
        if resume and "files" not in self.forms:
            raise InputError("--resume skips files, and --as makes none. Add `--as files`.")
        self._check_own()
        self.manifest = Manifest(folder)
        self.num_saved, self.num_missing, self.num_sheets = 0, 0, 0
        self._rows: list[dict[str, Any]] = []
        self._grid: dict[int, list[Image.Image]] = {}
        self._sheet: list[tuple[str, Image.Image]] = []
        self._order = self._all()

    def _check_own(self) -> None:
        if "files" in self.forms:
            check_distinct(
                (self.file(number, seed) for number, seed in self._all()),
                "Rename one of the files given.",
            )
        there = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        planned = {self.file(number, seed) for number, seed in self._all()} if there else set()
        for name in sorted(there & planned) if "files" in self.forms else ():
            check_own_image(self.folder / name)
        if "grid" in self.forms:
            check_own_png(self.folder / "grid.png")
            check_own_text(self.folder / "grid.txt", LEGEND)
        if "sheet" in self.forms:
            for number in range(1, -(-len(self.sources) * len(self.seeds) // SHEET_IMAGES) + 1):
                check_own_png(self._sheet_path(number))

    def _all(self) -> Iterator[tuple[int, int]]:
        return ((number, seed) for number in range(len(self.sources)) for seed in self.seeds)

    def file(self, number: int, seed: int) -> str:
        """The name of an image: its prompt and its seed."""
        return f"{self.sources[number].name}-{seed:04d}.{self.suffix}"

    def describe(self, model: "TextToImage", generation: Generation) -> None:
        """Fix what the manifest says of all images, and what is there already. InputError for what
        the prior cannot do.
        """
        from lafite_shifted.cli.settings import settings_of

        is_text = "prompt" in self.sources[0].record
        self.settings = settings_of(model, generation, from_text=is_text)
        self._skipped = {
            (n, seed) for n, seed in self._all() if self.resume and self._is_there(n, seed)
        }
        self.num_missing = len(self.sources) * len(self.seeds) - len(self._skipped)
        known = self.manifest.rows if self.resume else {}
        self.num_changed = sum(
            self.file(*place) in known and known[self.file(*place)] != self._row(*place)
            for place in self._all()
        )
        if "files" in self.forms:
            made = {self.file(*place) for place in self._all() if place not in self._skipped}
            self.manifest.forget(made)

    def _row(self, number: int, seed: int) -> dict[str, Any]:
        source, file = self.sources[number], self.file(number, seed)
        return {"file": file, **source.record, "seed": seed, **self.settings}

    def _is_there(self, number: int, seed: int) -> bool:
        return self.manifest.holds(self._row(number, seed))

    def missing(self) -> dict[int, list[int]]:
        """The seeds of each source whose images are to be made."""
        todo: dict[int, list[int]] = {}
        for number, seed in self._all():
            if (number, seed) not in self._skipped:
                todo.setdefault(number, []).append(seed)
        return todo

    def add(self, number: int, seed: int, image: "Tensor") -> None:
        """Save an image [R, R, 3] uint8; they come in the order of `missing`."""
        made, name = to_pil(image), self.file(number, seed)
        if "files" in self.forms:
            row = self._row(number, seed)
            metadata = {"prompt": self.sources[number].label, "seed": str(seed)}
            metadata |= {"model": self.settings["model"], "settings": json.dumps(row)}
            save_image(self.folder / name, made, metadata)
            self._rows.append(row)
            self.num_saved += 1
        for place in self._order:
            if place == (number, seed):
                break
            self._show_skipped(*place)
        self._show(number, seed, made)

    def _show_skipped(self, number: int, seed: int) -> None:
        name = self.file(number, seed)
        if "sheet" in self.forms or number < GRID_PROMPTS:
            self._show(number, seed, self._read(name))

    def _read(self, name: str) -> Image.Image:
        path = self.folder / name
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({error}). Delete it, and run the same command again."
            ) from error

    def _show(self, number: int, seed: int, image: Image.Image) -> None:
        """Keep an image for the grid, and for a sheet, which is written when it is full."""
        shown = sum(map(len, self._grid.values()))
        if "grid" in self.forms and number < GRID_PROMPTS and shown < GRID_IMAGES:
            self._grid.setdefault(number, []).append(image)
        if "sheet" in self.forms:
            self._sheet.append((f"{seed:04d} {self.sources[number].name}", image))
            if len(self._sheet) == SHEET_IMAGES:
                self._write_sheet()

    def _write_sheet(self) -> None:
        from training.metrics.grids import contact_sheet

        self.num_sheets += 1
        sheet = contact_sheet(self._sheet, columns=SHEET_COLUMNS, least=SMALLEST_CELL)
        save_png(self._sheet_path(self.num_sheets), sheet, {"model": self.settings["model"]})
        self._sheet = []

    def _sheet_path(self, number: int) -> Path:
        return self.folder / f"sheet_{number:04d}.png"  # no image has a name without a hyphen

    def flush(self) -> None:
        """Record what has been saved."""
        if self._rows:
            self.manifest.append(self._rows)
            self._rows = []

    def finish(self) -> None:
        """The grid, and the last sheet."""
        for place in self._order:
            self._show_skipped(*place)
        if self._sheet:
            self._write_sheet()
        self._legend: list[str] = []
        if "grid" in self.forms:
            self._write_grid()

    def _write_grid(self) -> None:
        from training.metrics.grids import labelled_grid

        rows = [(self.sources[number].label, images) for number, images in self._grid.items()]
        scale = max(1, SMALLEST_CELL // rows[0][1][0].width)
        grid = labelled_grid(rows, scale=scale, most_columns=GRID_COLUMNS)
        self._legend = [*grid.legend]
        if len(rows) < len(self.sources):
            self._legend.append(
                f"{len(rows) + 1} to {len(self.sources)}: not shown; --as sheet shows all images"
            )
        save_png(self.folder / "grid.png", grid.image, {"model": self.settings["model"]})
        if self._legend:
            write_text(self.folder / "grid.txt", LEGEND, "\n".join(self._legend))
        else:
            (self.folder / "grid.txt").unlink(missing_ok=True)  # of the grid that was there

    def kept(self) -> str:
        """What an interruption leaves."""
        if "files" not in self.forms:
            sheets = f" but {counted(self.num_sheets, 'contact sheet')}" if self.num_sheets else ""
            return f"Nothing{sheets} is kept: --resume needs `--as files`."
        return (
            f"{counted(self.num_saved, 'image')} saved in {self.folder}; the same command with "
            "--resume makes the rest."
        )

    def summary(self) -> str:
        """What was written."""
        total = len(self.sources) * len(self.seeds)
        words = ["grid.png"] if "grid" in self.forms else []
        words += [counted(self.num_sheets, "contact sheet")] if self.num_sheets else []
        words += ["grid.txt (labels that grid.png cannot show)"] if self._legend else []
        if "files" not in self.forms:
            return f"{', '.join(words)} of {counted(total, 'image')} in {self.folder}"
        images = counted(total, "image")
        text = " and ".join([images, ", ".join(words)] if words else [images])
        skipped = f" ({len(self._skipped)} were there)" if self._skipped else ""
        return f"{text} in {self.folder}{skipped}, described in {NAME}"
