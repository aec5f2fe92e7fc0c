"""Runs with heads on features through the public command: resumed exactly, refused where the
frozen network is another, and started from other runs.
"""

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.io.files import load_tensors, read_json, read_json_lines
from tests.commands import TINY_GAN, assert_refused, run_command, succeed
from tests.training.gan.features.networks import NAME, save_timm
from tests.training.gan.test_transfer import open_run
from training.checkpoint import checkpoint_paths

SMALL = ("--set", "features.resolution=32", "--set", "features.channels=8")


@pytest.fixture
def out(tmp_path: Path, some_embeddings: Path) -> Path:
    shutil.copytree(some_embeddings, tmp_path / "run" / "embeddings")
    return tmp_path / "run"


def state_of(run: Path) -> dict[str, Tensor]:
    return load_tensors(checkpoint_paths(run)[-1] / "state.safetensors")[0]


def flags_of(weights: Path) -> tuple[str, ...]:
    strides = "features.strides=4,8"
    return ("--features", NAME, "--set", f"features.weights={weights}", "--set", strides, *SMALL)


def test_a_resumed_run_equals_an_unbroken_one(
    some_images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where the file is named from another folder."""
    save_timm(tmp_path / "w.pth")
    monkeypatch.chdir(tmp_path)
    broken = Path(shutil.copytree(out, tmp_path / "broken"))
    command, end = ("train-gan", some_images, *TINY_GAN), ("--set", "features.contrast_weight=0.5")
    flags = (*flags_of(Path("w.pth")), *end)
    shown = succeed(*command, "--out", out, *flags)
    assert f"{NAME}: 32 px, 24 channels of 8x8, 32 channels of 4x4" in shown.err
    succeed(*command, "--out", broken, *flags, "--kimg", "0.016")
    assert read_json_lines(broken / "log.jsonl")[-1]["samples"] == 16
    monkeypatch.chdir(some_images)
    succeed(*command, "--out", broken, *flags_of(tmp_path / "w.pth"), *end)
    expected, found = state_of(out), state_of(broken)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not found[name].equal(expected[name])] == []
    assert {name.split(".")[0] for name in expected} >= {"heads", "discriminator"}
    row = read_json_lines(out / "log.jsonl")[-1]
    names = ("loss_d_features", "loss_g_features", "logit_real_features", "logit_fake_features")
    assert {*names, "loss_infonce_real_features", "loss_infonce_fake_features"} <= row.keys()


def test_another_network_is_noticed(some_images: Path, out: Path, tmp_path: Path):
    first, second = (save_timm(tmp_path / f"{seed}.pth", seed=seed) for seed in (0, 1))
    command = ("train-gan", some_images, "--out", out, *TINY_GAN)
    succeed(*command, *flags_of(first), "--kimg", "0.016")
    recorded = read_json(out / "config.json")
    assert len(recorded["features"]["weights"]) == 16
    assert recorded["config"]["features"]["backbone"] == NAME
    shutil.copy(second, first)  # under the same name
    refused = run_command(*command, *flags_of(first))
    assert_refused(refused, "another configuration: features.weights: ", "--out")
    assert_refused(run_command(*command), "config.features.backbone: ", "-> None")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--features", "tf_efficientnet_lite00"), "did you mean"),
        (("--features", "resnet18"), "--set features.weights=FILE"),
        (("--features", "resnet18", "--set", "features.weights=none.pth"), "no such file"),
        (("--features", "clip", "--set", "features.strides=5"), "Choose from 2,4,8,16,32"),
    ],
)
def test_a_network_that_is_not_there_is_refused_before_anything_is_written(
    flags: tuple[str, ...], expected: str, some_images: Path, tmp_path: Path
):
    for more in ((), ("--dry-run",)):
        out = tmp_path / "run"
        refused = run_command("train-gan", some_images, "--out", out, *TINY_GAN, *flags, *more)
        assert_refused(refused, expected)
        assert not out.exists()


def test_a_dry_run_tells_what_the_heads_cost(
    some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("training.gan.probe.MOST_STEPS", 1)
    command = ("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN, "--dry-run")
    shown = succeed(*command, "--features", "clip", *SMALL).out
    assert "features       clip: 32 px, 24 channels of 8x8" in shown
    assert "GMAC an image, forward" in shown
    assert "features" not in succeed(*command).out


def test_heads_are_kept_where_the_features_are_the_same(
    gan_run: Path, some_images: Path, clip: ClipEncoder, small_clip_folder: Path, tmp_path: Path
):
    """Those that read the condition only under the same CLIP."""
    first, second = (save_timm(tmp_path / f"{seed}.pth", seed=seed) for seed in (0, 1))
    embeddings = gan_run / "embeddings"
    runs = iter(range(9))

    def start(init: Path, weights: Path, with_clip: ClipEncoder = clip):
        folder = tmp_path / f"run{next(runs)}"
        if with_clip is clip:
            shutil.copytree(embeddings, folder / "embeddings")
        fields = [f"features.backbone={NAME}", f"features.weights={weights}", "seed=5"]
        fields += ["features.resolution=32", "features.channels=8", "features.strides=4,8"]
        trainer, run = open_run(some_images, folder, with_clip, *fields, init=init)
        run.close()
        assert trainer.features is not None
        return trainer.kept[-1], trainer.features.heads.state_dict()

    source = tmp_path / "source"
    shutil.copytree(embeddings, source / "embeddings")
    succeed("train-gan", some_images, "--out", source, *TINY_GAN, *flags_of(first))
    prefix, state = "heads.", state_of(source)
    heads = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

    line, kept = start(source, first)
    assert line == f"heads from {source}: {len(heads)} of {len(heads)} tensors"
    assert all(kept[name].equal(heads[name]) for name in heads)
    for init, weights, expected in (
        (source, second, "those there are on another network"),
        (gan_run, first, "there are none beside that generator"),
    ):
        line, new = start(init, weights)
        assert line.startswith("heads on features: new, as ")
        assert expected in line
        assert not new["heads.0.mix.weight"].equal(heads["heads.0.mix.weight"])
    other = ClipEncoder.load(str(small_clip_folder))
    line, kept = start(source, first, other)
    assert "to_feature.weight" in line
    assert kept["heads.0.mix.weight"].equal(heads["heads.0.mix.weight"])
    assert kept["heads.0.to_feature.weight"].shape == (24, 8)
