"""Makes the images of docs/editing.md again: runs the commands that stand there, in their order,
and puts what they make under the names that the page shows.

    python docs/editing.py --model MODEL       # a model folder; by default the one that ships

APPLE.png and so on stand for images that ship. Each command is followed by the image that it makes.
"""

import argparse
import re
import shlex
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
IMAGES = DOCS.parent / "lafite_shifted" / "assets" / "images"
STANDS_FOR = {
    "APPLE.png": "3d-1f34e.png",
    "CAT.png": "3d-1f63a.png",
    "HEART.png": "flat-2764.png",
}
MADE = ("strip.png", "walk.webp", "grid.png")  # the first that a command has made is shown
_ENTRY = re.compile(
    r"^    (lafite-shifted .*)\n(?:\n*(?:    .*\n)*)\n*!\[[^]]*\]\((editing/\S+)\)", re.M
)


def entries(page: str) -> list[tuple[list[str], str]]:
    """(words of a command, the image that shows it), in the order of the page."""
    return [(shlex.split(line), image) for line, image in _ENTRY.findall(page)]


def in_folder(words: list[str], folder: Path, model: str) -> list[str]:
    """The words of a command with its files in `folder`, and its model."""
    found = []
    for before, word in zip(["", *words], words, strict=False):
        if word in STANDS_FOR:
            word = str(IMAGES / STANDS_FOR[word])
        elif before == "--out" or word.endswith(".safetensors"):
            word = str(folder / word)
        found.append(word)
    return [*found, "--model", model]


def main(model: str, folder: Path, docs: Path) -> None:
    """Run all, and copy what is shown to `docs`/editing."""
    from lafite_shifted.cli.main import main as run

    for words, image in entries((DOCS / "editing.md").read_text(encoding="utf-8")):
        sys.argv = in_folder(words, folder, model)
        print(shlex.join(sys.argv), flush=True)
        run()
        out = folder / words[words.index("--out") + 1]
        made = next(out / name for name in MADE if (out / name).exists())
        (docs / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, docs / image)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="starter")
    parser.add_argument("--folder", type=Path, default=Path("runs/gallery"))
    given = parser.parse_args()
    main(given.model, given.folder, DOCS)
