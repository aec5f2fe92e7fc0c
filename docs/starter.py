"""Makes docs/starter.webp again: the sentences of docs/starter-sentences.txt, seeds 0 to 3 of each,
drawn by one command.

    python docs/starter.py --model MODEL       # a model folder; by default the one that ships

The sentences are 64 names of emoji that every part of the model that ships was trained without: the
first of all held-out names in the order of the SHA-256 of "gallery NAME". Nobody has chosen.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
SENTENCES = DOCS / "starter-sentences.txt"
COLUMNS = 8


def four(images: list[Image.Image]) -> Image.Image:
    """Two rows of two."""
    width, height = images[0].size
    canvas = Image.new("RGB", (2 * width, 2 * height), "white")
    for number, image in enumerate(images):
        canvas.paste(image, (number % 2 * width, number // 2 * height))
    return canvas


def sheet(folder: Path) -> Image.Image:
    """The four images of each sentence in what `generate` has left in `folder`, in its order."""
    from training.metrics.grids import contact_sheet

    found: dict[str, list[Image.Image]] = {}
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["prompt"], []).append(Image.open(folder / row["file"]))
    cells = [(prompt, four(images)) for prompt, images in found.items()]
    return contact_sheet(cells, columns=COLUMNS, least=cells[0][1].width)


def main(model: str, folder: Path, out: Path) -> None:
    """Draw all into `folder`, and what the page shows into `out`."""
    from lafite_shifted.cli.main import main as run

    sys.argv = ["lafite-shifted", "generate", "--prompts", str(SENTENCES), "--num-images", "4"]
    sys.argv += ["--as", "files", "--resume", "--model", model, "--out", str(folder)]
    print(shlex.join(sys.argv), flush=True)
    run()
    sheet(folder).save(out, quality=90, method=6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="starter")
    parser.add_argument("--folder", type=Path, default=Path("runs/starter-gallery"))
    parser.add_argument("--out", type=Path, default=DOCS / "starter.webp")
    given = parser.parse_args()
    main(given.model, given.folder, given.out)
