"""Runs docs/quickstart.ipynb, and stores in it what its cells show, for readers of the page.

    python docs/quickstart.py       # minutes, for it trains; only the notebook is written

No Jupyter is needed: code runs here, `!lafite-shifted ...` as a command, `%pip` not at all. Images
are stored as PNG of 256 colours, which is half their size. Each code cell tells in its metadata
(`outputs_of`) of which code its outputs are, its own and all above: a test sees old ones.
"""

import base64
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

NOTEBOOK = Path(__file__).resolve().with_suffix(".ipynb")
Shown = Image.Image | str  # what a cell shows: images, and what it prints


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """In their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def digests(sources: Sequence[str]) -> list[str]:
    """Of each source and all before it."""
    digest = hashlib.sha256()
    found = []
    for source in sources:
        digest.update(source.encode() + b"\0")
        found.append(digest.hexdigest()[:16])
    return found


def run(sources: Sequence[str], shell: Callable[[str], str]) -> list[list[Shown]]:
    """What each source shows; `shell` gives what `!command` prints."""
    shown: list[Shown] = []
    display = ModuleType("IPython.display")
    display.display = lambda *images: shown.extend(images)  # type: ignore[attr-defined]
    sys.modules |= {"IPython": ModuleType("IPython"), "IPython.display": display}
    scope: dict[str, Any] = {}
    found = []
    for source in sources:
        printed = io.StringIO()
        if source.startswith("!"):
            printed.write(shell(source.removeprefix("!")))
        elif not source.startswith("%pip install"):
            with redirect_stdout(printed):
                exec(source, scope)
        found.append([*filter(None, [printed.getvalue()]), *shown])
        shown.clear()
    return found


def command(line: str) -> str:
    """What `lafite-shifted ...` prints, in a process of its own; paths of this machine are cut."""
    program, *words = shlex.split(line)
    assert program == "lafite-shifted", line
    done = subprocess.run(
        [sys.executable, "-m", "lafite_shifted.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout.replace(str(Path.cwd()), ".").replace(str(Path.home()), "~")


def output(shown: Shown) -> dict[str, Any]:
    """As the format of notebooks has it."""
    if isinstance(shown, str):
        lines = shown.splitlines(keepends=True)
        return {"name": "stdout", "output_type": "stream", "text": lines}
    file = io.BytesIO()
    small = shown.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(file, format="PNG", optimize=True)
    content = base64.b64encode(file.getvalue()).decode()
    told = f"<PIL.Image.Image image mode={shown.mode} size={shown.width}x{shown.height}>"
    data = {"image/png": content, "text/plain": [told]}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def store(notebook: dict[str, Any], shown: Sequence[Sequence[Shown]]) -> None:
    """Put what each code cell shows into the notebook."""
    cells = code_cells(notebook)
    of = digests(["".join(cell["source"]) for cell in cells])
    for number, (cell, images, digest) in enumerate(zip(cells, shown, of, strict=True), start=1):
        cell["execution_count"] = number
        cell["metadata"] = {"outputs_of": digest}
        cell["outputs"] = [output(one) for one in images]


def main(path: Path, shell: Callable[[str], str]) -> None:
    """Run the notebook at `path` in this folder, and write it again."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in code_cells(notebook)]
    store(notebook, run(sources, shell))
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        main(NOTEBOOK, command)
