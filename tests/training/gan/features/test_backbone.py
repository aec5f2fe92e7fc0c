"""The frozen network: what is read of CNNs and transformers of open_clip's and timm's."""

import functools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.ensemble import load_clip
from lafite_shifted.errors import InputError
from tests.training.gan.features.networks import (
    NAME,
    features_of,
    random_timm,
    save_timm,
    save_timm_clip,
)
from training.config import override
from training.gan.features.backbone import Backbone
from training.gan.features.config import FeatureConfig

CPU = torch.device("cpu")


def load(config: FeatureConfig, clip: ClipEncoder, *, image_size: int = 64) -> Backbone:
    options = {"dtype": torch.bfloat16, "device": CPU}
    found = Backbone.load(config, clip, image_size=image_size, **options)
    assert found is not None
    return found


def images(size: int, *, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


def scaled(maps: list[Tensor]) -> list[Tensor]:
    return [x / x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() for x in maps]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, scaled(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_stages_of_the_starter_match_its_tower(clip: ClipEncoder):
    """The deepest of each stride, of an EfficientNet of timm's in open_clip's tower."""
    backbone = load(FeatureConfig(backbone="clip"), clip)
    trunk, x = clip.model.visual.trunk, images(80)
    before = clip.embed_images(x)
    found = trunk.bn1(trunk.conv_stem(x))  # its mean and standard deviation are .5
    by_size = {}
    for block in trunk.blocks:
        found = block(found)
        by_size[found.shape[-1]] = found
    assert_close(backbone(x), [by_size[80 // stride] for stride in (4, 8, 16)])
    assert clip.embed_images(x).equal(before)  # the encoder itself is as it was


def test_blocks_of_a_transformer_are_evenly_spaced_maps(small_clip_folder: Path):
    """Of open_clip's, at its own size: the tokens behind its last norm."""
    clip = load_clip(str(small_clip_folder))
    backbone = load(FeatureConfig(backbone="clip", resolution=224), clip)
    assert backbone.stages == [0, 1]  # it has two blocks, three are wanted
    options = {"normalize_intermediates": True, "intermediates_only": True}
    prepared = clip.preprocess(x := images(224, count=1))
    expected = clip.model.visual.forward_intermediates(prepared, **options)
    assert [tuple(found.shape) for found in backbone(x)] == [(1, 64, 7, 7)] * 2
    found = backbone(x)
    for a, b in zip(found, scaled(expected["image_intermediates"]), strict=True):
        assert (a - b).abs().mean() < 0.02  # `preprocess` rounds to levels


def test_a_transformer_takes_other_sizes_in_whole_patches(small_clip_folder: Path):
    clip = load_clip(str(small_clip_folder))
    backbone = load(FeatureConfig(backbone="clip"), clip)
    assert backbone.resolution == 96  # 80, in patches of 32
    assert [tuple(found.shape) for found in backbone(images(64))] == [(3, 64, 3, 3)] * 2
    with pytest.raises(InputError, match="a multiple of 32"):
        load(FeatureConfig(backbone="clip", resolution=80), clip)


def test_the_tower_of_a_clip_may_be_of_timm(tmp_path: Path):
    clip = load_clip(str(save_timm_clip(tmp_path / "clip")))
    tower = clip.model.visual
    assert isinstance(tower, TimmModel)
    backbone = load(FeatureConfig(backbone="clip", resolution=64), clip)
    x = images(64)
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (clip.preprocess_config.mean, clip.preprocess_config.std)
    )
    expected = tower.trunk.forward_intermediates(
        (x / 2 + 0.5 - mean) / std, intermediates_only=True
    )
    assert_close(backbone(x), expected[1:4])


def test_the_first_of_several_clips_is_read(small_clip_folder: Path, clip: ClipEncoder):
    both = load_clip(f"starter,{small_clip_folder}")
    config, x = FeatureConfig(backbone="clip"), images(64)
    assert_close(load(config, both)(x), load(config, clip)(x))


def test_stages_of_a_timm_network_match_it(clip: ClipEncoder, tmp_path: Path):
    """Whose batch norms are folded; images are brought to its size and its mean."""
    path = save_timm(tmp_path / "weights.safetensors")
    backbone = load(features_of(path, strides=(16, 4)), clip, image_size=16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.network.blocks[:3])
    network, x = random_timm(), images(16)
    mean, std = (
        torch.tensor(network.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")
    )
    large = F.interpolate(x, size=(32, 32), mode="bilinear")
    expected = network.forward_intermediates(
        (large / 2 + 0.5 - mean) / std, intermediates_only=True
    )
    assert_close(backbone(x), [expected[1], expected[3]])
    assert backbone.channels == [expected[1].shape[1], expected[3].shape[1]]
    assert backbone.sizes == [8, 2]


def _note(name: str, computed: list[str], *_: object) -> None:
    computed.append(name)


def test_later_stages_are_not_computed(clip: ClipEncoder, tmp_path: Path):
    """Of either kind, nor the head of a classifier."""
    path = save_timm(tmp_path / "weights.safetensors")
    for config in (features_of(path), FeatureConfig(backbone="clip", strides=(4, 8))):
        backbone, computed = load(config, clip), list[str]()
        for name, module in backbone.network.named_modules():
            note = functools.partial(_note, name, computed)
            module.register_forward_hook(note)
        backbone(images(64))
        assert computed
        later = ("layer3", "layer4", "attnpool", "blocks.3", "blocks.4", "conv_head", "classifier")
        assert [name for name in computed if name.startswith(later)] == []


@pytest.mark.parametrize(
    ("wanted", "image_size", "expected"),
    [(None, 32, 80), (None, 64, 80), (None, 128, 128), (None, 256, 160), (48, 256, 48)],
)
def test_the_size_is_that_of_the_run_within_limits(
    wanted: int | None, image_size: int, expected: int, clip: ClipEncoder, tmp_path: Path
):
    """80 at least, and at most what the network was trained on: 160."""
    path = save_timm(tmp_path / "weights.safetensors")
    backbone = load(features_of(path, resolution=wanted), clip, image_size=image_size)
    assert backbone.resolution == expected


def test_strides_that_a_network_has_not_are_named(clip: ClipEncoder, tmp_path: Path):
    path = save_timm(tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"no stage of stride 64\. Choose from 2,4,8,16,32"):
        load(features_of(path, strides=(4, 64)), clip)


def test_sizes_that_a_network_cannot_take_are_an_error(clip: ClipEncoder, tmp_path: Path):
    name = "levit_128s"
    path = save_timm(tmp_path / "weights.safetensors", name)
    config = FeatureConfig(backbone=name, weights=str(path))
    with pytest.raises(InputError, match=r"80 pixels.*features\.resolution, such as 224"):
        load(config, clip)


def test_the_record_pins_the_weights(clip: ClipEncoder, tmp_path: Path):
    first, second = (
        load(features_of(save_timm(tmp_path / f"{seed}.pth", seed=seed)), clip) for seed in (0, 1)
    )
    again = load(features_of(save_timm(tmp_path / "0.safetensors")), clip)
    assert first.record == again.record
    assert first.record["weights"] != second.record["weights"]
    assert json.loads(json.dumps(first.record)) == first.record


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["features.strides=4,4"], "must be different"),
        (["features.weight=-1"], "weight must be at least 0"),
        (["features.weights=x.pth"], "name it in features.backbone"),
        (["features.backbone=clip", "features.weights=x.pth"], "name it in features.backbone"),
        (["features.channels=0"], "channels must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: list[str], expected: str):
    from training.gan.presets import GAN_PRESETS

    with pytest.raises(InputError, match=expected):
        override(GAN_PRESETS["tiny"], fields)


def test_settings_are_reached_by_name():
    from training.gan.presets import GAN_PRESETS

    fields = [f"features.backbone={NAME}", "features.strides=8,16", "features.start_kimg=2"]
    found = override(GAN_PRESETS["tiny"], fields).features
    assert found == FeatureConfig(backbone=NAME, strides=(8, 16), start_kimg=2.0)
    assert [found.acts(samples) for samples in (0, 1999, 2000)] == [False, False, True]
    assert not GAN_PRESETS["tiny"].features.acts(10**9)
