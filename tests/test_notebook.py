"""docs/quickstart.ipynb runs, cell by cell, in its order, on a tiny model and for a few steps."""

import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.commands import succeed

PATH = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
BRIEF = {"train-gan": ("--kimg", "0.016")}


def run_shell(line: str) -> None:
    """`!lafite-shifted ...`, in this process and brief."""
    program, verb, *words = shlex.split(line)
    assert program == "lafite-shifted"
    succeed(verb, *words, *BRIEF.get(verb, ()))


def test_the_notebook_holds_no_output():
    assert all(not cell["outputs"] for cell in CELLS if cell["cell_type"] == "code")


@pytest.mark.usefixtures("starter")
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shown: list[Image.Image] = []
    display = ModuleType("IPython.display")
    display.display = lambda *images: shown.extend(images)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    scope: dict = {}
    installs = 0
    for cell in (cell for cell in CELLS if cell["cell_type"] == "code"):
        source = "".join(cell["source"])
        if source.startswith("%pip install"):
            installs += 1
        elif source.startswith("!"):
            run_shell(source.removeprefix("!"))
        else:
            exec(source.replace("steps=100", "steps=3"), scope)
    assert installs == 1
    assert all(isinstance(image, Image.Image) for image in shown)
    assert len(shown) == 8 + 2 + 5 + 3 + 6 + 8
    assert len(list((tmp_path / "ten").iterdir())) == 10
