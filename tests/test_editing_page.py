"""docs/editing.md: its commands run, and make the images that it shows."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("editing_page", ROOT / "docs" / "editing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_image_has_its_command(gallery):
    shown = [image for _, image in gallery.entries(PAGE)]
    assert shown == re.findall(r"\]\((editing/[^)]+)\)", PAGE)
    verbs = [words[1] for words, _ in gallery.entries(PAGE)]
    assert verbs == [
        "generate",
        "variations",
        "interpolate",
        "project",
        "edit",
        "style-mix",
        "guide",
        "walk",
    ]
    for image in shown:
        with Image.open(ROOT / "docs" / image) as found:
            assert found.width > 90


def test_the_gallery_is_made_by_one_command(
    gallery, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entries = gallery.entries

    def brief(page: str):
        return [
            ([*words, *(("--steps", "2") if words[1] == "project" else ())], image)
            for words, image in entries(page)
        ]

    monkeypatch.setattr(gallery, "entries", brief)
    monkeypatch.setattr(sys, "argv", sys.argv)
    gallery.main(str(model_folder), tmp_path / "runs", tmp_path / "docs")
    made = {path.name for path in (tmp_path / "docs" / "editing").iterdir()}
    assert made == {Path(image).name for _, image in entries(PAGE)}
