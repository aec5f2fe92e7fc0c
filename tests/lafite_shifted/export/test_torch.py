"""torch.export programs against the pipeline."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from lafite_shifted.pipeline import TextToImage
from tests.commands import succeed
from torch_utils import seeds


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("export") / "torch"
    said = succeed("export", "torch", model_folder, "--out", folder)
    assert "text.pt2, prior.pt2, generator.pt2" in said.out
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_make_the_images_of_the_pipeline(programs: Path, model: TextToImage):
    manifest = json.loads((programs / "manifest.json").read_text(encoding="utf-8"))
    parts = manifest["parts"]
    assert manifest["kind"] == "torch-export"
    run = {
        name: torch.export.load(programs / part["file"]).module() for name, part in parts.items()
    }
    ids = model.clip.tokenizer(["a red heart"] * 3, context_length=manifest["context_length"])
    numbers = [5, 6, 7]

    def normal(stream: dict, dim: int) -> torch.Tensor:
        key = int(stream["philox_key"])
        return seeds.philox(torch.tensor(numbers), dim, key=key, distribution="normal")

    with torch.no_grad():
        text = run["text"](ids)
        none = [value * 0 for value in text]
        noise = torch.stack([normal(row, 256) for row in parts["prior"]["noise"]], dim=1)
        embedding = run["prior"](*text, *none, noise, torch.ones(3))
        z = normal(parts["generator"]["z"], parts["generator"]["inputs"][1]["shape"][1])
        made = run["generator"](embedding, z, torch.full((3,), 0.8))
    expected = model.embed(["a red heart"], seeds=numbers)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)
    images = model.render(expected, seeds=numbers, truncation=0.8)
    torch.testing.assert_close(made, images, rtol=0, atol=1e-4)


def test_programs_hold_no_pickle(programs: Path):
    for path in programs.glob("*.pt2"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                content = archive.read(entry)
                assert not content.startswith((b"\x80\x02", b"PK\x03\x04")), entry
                assert b'"use_pickle": true' not in content, entry
