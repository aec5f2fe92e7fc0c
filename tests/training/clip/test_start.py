"""What a CLIP begins with: another CLIP, of any architecture that `train-clip` makes."""

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lafite_shifted.io.files import write_json
from tests.commands import assert_refused, run_command, succeed
from training.clip.config import ClipModelConfig

SMALL = ("image_size=32", "embed_dim=16", "text_width=16", "text_heads=2", "text_layers=1")
TOWERS = {
    "resnet": ("resnet_layers=1,1,1,1", "resnet_width=8"),
    "vit": ("vision=vit", "vit_layers=1", "vit_width=32"),
    "timm": ("vision=test_efficientnet", "timm_projection=mlp", "timm_dropout=0.1"),
}
WEIGHTS = "open_clip_model.safetensors"


def fields(*assignments: str) -> list[str]:
    return [part for assignment in assignments for part in ("--set", assignment)]


def train(images: Path, out: Path, *flags: str | Path) -> Path:
    """A step of 32 images into `out`; its CLIP."""
    succeed("train-clip", images, "--out", out, "--batch-size", "32", "--kimg", "0.032", *flags)
    return out / "clip"


@pytest.fixture(scope="module", params=TOWERS)
def clip(
    request: pytest.FixtureRequest, shipped_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    assignments = [f"model.{field}" for field in (*SMALL, *TOWERS[request.param])]
    return train(shipped_images, tmp_path_factory.mktemp("first") / "run", *fields(*assignments))


def test_another_training_begins_with_the_weights(clip: Path, shipped_images: Path, tmp_path: Path):
    """With a learning rate of nearly nothing they are the same afterwards, to float16."""
    quiet = fields("learning_rate=1e-9", "pretrained_learning_rate=1e-9", "weight_decay=0")
    again = train(shipped_images, tmp_path / "run", "--init", clip, "--seed", "1", *quiet)
    before, after = load_file(clip / WEIGHTS), load_file(again / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "running_" not in name and "num_batches" not in name:
            assert (tensor.float() - after[name].float()).abs().max() < 1e-3, name


def test_the_parameters_learn_on(clip: Path, shipped_images: Path, tmp_path: Path):
    again = train(shipped_images, tmp_path / "run", "--init", clip, *fields("warmup_kimg=0.001"))
    before, after = load_file(clip / WEIGHTS), load_file(again / WEIGHTS)
    assert not before["text_projection"].equal(after["text_projection"])
    assert any(not t.equal(after[name]) for name, t in before.items() if name.startswith("visual"))


@pytest.mark.parametrize("changed", [{}, {"embed_dim": 32}, {"vision": "vit", "vit_layers": 2}])
def test_an_architecture_is_found_again(changed: dict):
    config = dataclasses.replace(ClipModelConfig(), **changed)
    assert ClipModelConfig.of(config.open_clip_config()) == config


def test_what_does_not_fit_is_refused(clip: Path, shipped_images: Path, tmp_path: Path):
    def refused(expected: str, *flags: str | Path) -> None:
        command = ("train-clip", shipped_images, "--out", tmp_path / "run", "--batch-size", "32")
        assert_refused(run_command(*command, *flags), expected)
        assert not (tmp_path / "run").exists()

    refused("has other layers", "--init", clip, *fields("model.embed_dim=32"))
    refused("Give one", "--init", clip, "--image-weights", "wheel")
    refused("a folder of a CLIP was expected", "--init", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "open_clip_config.json", {"model_cfg": {"embed_dim": 512}})
    refused("makes no CLIP of this architecture", "--init", other)
    write_json(other / "open_clip_config.json", [])
    refused("makes no CLIP of this architecture", "--init", other)
