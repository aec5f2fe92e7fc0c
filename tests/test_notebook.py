"""docs/quickstart.ipynb: it runs, cell by cell, in its order, on a tiny model and for a few steps;
and what is stored below its cells is of these cells.
"""

import base64
import importlib.util
import io
import json
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import succeed

DOCS = Path(__file__).parent.parent / "docs"
PATH = DOCS / "quickstart.ipynb"
BRIEF = {"train-gan": ("--kimg", "0.016")}
IMAGES = [0, 8, 2, 5, 3, 6, 0, 0, 0, 8]  # that each code cell shows


@pytest.fixture(scope="module")
def quickstart():
    """The program that stores what the cells show."""
    spec = importlib.util.spec_from_file_location("quickstart_page", DOCS / "quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def brief(line: str) -> str:
    """`lafite-shifted ...`, in this process and brief."""
    program, verb, *words = shlex.split(line)
    assert program == "lafite-shifted"
    return succeed(verb, *words, *BRIEF.get(verb, ())).out


def images_of(cell: dict) -> list[Image.Image]:
    """Those that are stored below a cell."""
    stored = [one["data"]["image/png"] for one in cell["outputs"] if "data" in one]
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in stored]


def check(notebook: dict, quickstart) -> None:
    """Each code cell has the outputs of its code, and all images that it shows."""
    cells = quickstart.code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    expected = quickstart.digests(["".join(cell["source"]) for cell in cells])
    found = [cell["metadata"].get("outputs_of") for cell in cells]
    assert found == expected, "code has changed; run `python docs/quickstart.py`, and look"
    assert [len(images_of(cell)) for cell in cells] == IMAGES


def test_what_is_stored_is_of_its_cells(quickstart):
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    check(notebook, quickstart)
    cells = quickstart.code_cells(notebook)
    for cell in cells:
        for image in images_of(cell):
            image.load()
            assert image.width >= 64
    texts = ["".join(one.get("text", "")) for cell in cells for one in cell["outputs"]]
    assert "psnr" in "".join(texts)  # of the projection
    assert "kimg" in "".join(texts)  # of the training
    assert not any("/root" in text or "/tmp" in text or "/home" in text for text in texts)
    assert PATH.stat().st_size < 400 * 1024


def test_code_that_changes_is_noticed(quickstart):
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    quickstart.code_cells(notebook)[1]["source"][-1] += "  # changed"
    with pytest.raises(AssertionError, match="docs/quickstart"):
        check(notebook, quickstart)


@pytest.mark.usefixtures("starter")
def test_the_notebook_runs(quickstart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("IPython", "IPython.display"):  # afterwards they are as before
        monkeypatch.setitem(sys.modules, name, quickstart)
    copy = tmp_path / "copy.ipynb"
    text = PATH.read_text(encoding="utf-8")
    assert text.count("steps=100") == 1
    copy.write_text(text.replace("steps=100", "steps=3"), encoding="utf-8")
    quickstart.main(copy, brief)
    made = json.loads(copy.read_text(encoding="utf-8"))
    check(made, quickstart)
    sources = [cell["source"] for cell in json.loads(text)["cells"]]
    unchanged = [cell["source"] for cell in made["cells"]]
    assert json.dumps(unchanged).replace("steps=3", "steps=100") == json.dumps(sources)
    starts = ["".join(cell["source"]) for cell in quickstart.code_cells(made)]
    assert sum(source.startswith("%pip install") for source in starts) == 1
    assert len(list((tmp_path / "ten").iterdir())) == 10
