"""Imported generators make the images that the layer-by-layer references make."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lafite_shifted.decoder.inference import freeze_for_inference
from lafite_shifted.errors import InputError
from lafite_shifted.legacy.convert import convert
from lafite_shifted.legacy.snapshot import read_snapshot
from tests import snapshots
from tests.references import stylegan2
from tests.snapshots import LAFITE, PLAIN


def written(folder: Path, content: bytes) -> Path:
    file = folder / "network-snapshot-000100.pkl"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_stylegan2_without_classes(tmp_path: Path, protocol: int):
    state = snapshots.random_state(PLAIN)
    file = written(tmp_path, snapshots.snapshot(state, protocol=protocol))
    found = convert(read_snapshot(file), condition_dim=40)
    assert (found.source, found.uses_condition) == ("StyleGAN2-ADA", False)
    z = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    expected = stylegan2.images(state, z)
    assert expected.std() > 0.5
    for condition in (torch.zeros(3, 40), torch.randn(3, 40)):
        images = found.network(z, condition)
        torch.testing.assert_close(images.double(), expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.network.mapping.w_average, state["mapping.w_avg"])


def test_stylegan2_with_classes(tmp_path: Path):
    state = snapshots.random_state(PLAIN, classes=5, z_dim=20)
    file = written(tmp_path, snapshots.snapshot(state))
    z = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    made = []
    for label in (0, 4):
        network = convert(read_snapshot(file), condition_dim=8, label=label).network
        labels = F.one_hot(torch.tensor([label, label]), 5)
        expected = stylegan2.images(state, z, labels=labels)
        made.append(network(z, torch.zeros(2, 8)))
        torch.testing.assert_close(made[-1].double(), expected, atol=1e-3, rtol=1e-4)
    assert (made[0] - made[1]).abs().mean() > 0.1


@pytest.mark.parametrize("clamp", [None, 2.0])
def test_lafite(tmp_path: Path, clamp: float | None):
    state = snapshots.random_state(LAFITE)
    file = written(tmp_path, snapshots.snapshot(state, conv_clamp=clamp))
    found = convert(read_snapshot(file), condition_dim=24)
    assert (found.source, found.uses_condition) == ("Lafite", True)
    z, h = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    h = F.normalize(h, dim=1)
    expected = stylegan2.images(state, z, condition=h, clamp=clamp)
    torch.testing.assert_close(found.network(z, h).double(), expected, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        drawn = freeze_for_inference(found.network)(z, h)
    torch.testing.assert_close(drawn.double(), expected, atol=1e-3, rtol=1e-4)
    without = stylegan2.images(state, z, condition=h)
    assert clamp is None or (expected - without).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("synthesis.b8.conv0.bias"), "lacks synthesis.b8.conv0.bias"),
        (lambda s: s.update({"synthesis.b4.scale_layer_0": torch.zeros(2)}), "scale_layer_0"),
        (lambda s: s.update({"mapping.fc1.bias": torch.zeros(3)}), r"shape \[3\], not \[24\]"),
        (lambda s: s["synthesis.b8.torgb.bias"].fill_(torch.nan), "not finite"),
        (
            lambda s: s.update({"synthesis.b8.resample_filter": torch.ones(4, 4)}),
            "is not \\[1, 3, 3, 1\\]",
        ),
        (
            lambda s: s.update({"synthesis.b8.conv1.weight": torch.zeros(7, 32, 3, 3)}),
            "channels at .* follow another rule",
        ),
        (lambda s: s.clear(), "lacks mapping.fc0.weight"),
        (lambda s: s.update({"synthesis.bfoo.conv1.weight": torch.zeros(2)}), "holds .*bfoo"),
        (lambda s: s.update({"synthesis.b8.conv1.weight": torch.tensor(1.0)}), "lacks .*b8.conv1"),
        (lambda s: s.update({"mapping.embed.bias": torch.tensor(1.0)}), "lacks mapping.embed"),
        (lambda s: s.update({"\n" + "n" * 5000: torch.zeros(2)}), r"^it holds \\nn{49}, which"),
    ],
)
def test_what_has_no_place_is_named(tmp_path: Path, change, message: str):
    state = snapshots.random_state(PLAIN)
    change(state)
    file = written(tmp_path, snapshots.snapshot(state))
    with pytest.raises(InputError, match=message):
        convert(read_snapshot(file), condition_dim=8)


@pytest.mark.parametrize("label", [None, 5])
def test_a_class_must_be_one_of_its_own(tmp_path: Path, label: int | None):
    content = snapshots.snapshot(snapshots.random_state(PLAIN, classes=5))
    with pytest.raises(InputError, match="has 5 classes"):
        convert(read_snapshot(written(tmp_path, content)), condition_dim=8, label=label)


def laughs() -> Any:
    """A tuple of few parts whose text has 2^60 numbers."""
    value: Any = (1,)
    for _ in range(60):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"architecture": "resnet"}, "'resnet': only 'skip' can be imported"),
        ({"activation": "relu"}, "can be imported"),
        ({"architecture": "x\n" * 50_000}, "only 'skip' can be imported"),
        ({"architecture": laughs()}, "is a tuple: only 'skip'"),
        ({"img_channels": torch.zeros(2)}, "is a Tensor: only 3"),
        ({"img_channels": 10**5000}, "is an integer of 16610 bits: only 3"),
        ({"conv_clamp": torch.zeros(2)}, "its conv_clamp is a Tensor"),
        ({"conv_clamp": "nan"}, "its conv_clamp is 'nan'"),
        ({"conv_clamp": True}, "its conv_clamp is True"),
        ({"lr_multiplier": True}, "its lr_multiplier is True"),
        ({"kernel_size": 5}, "its kernel_size is 5: only 3"),
        ({"resample_filter": [1, 2, 1]}, "its resample_filter is not"),
        ({"resample_filter": [1, 3, 3, True]}, "its resample_filter is not"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_networks_of_another_kind(tmp_path: Path, argument: dict[str, Any], message: str):
    content = snapshots.snapshot(snapshots.random_state(PLAIN), **argument)
    with pytest.raises(InputError, match=message) as error:
        convert(read_snapshot(written(tmp_path, content)), condition_dim=8)
    assert len(str(error.value)) < 300


def test_arguments_that_contradict_the_weights_or_are_not_known(tmp_path: Path):
    fine = {"resample_filter": [1, 3, 3, 1], "kernel_size": 3, "use_noise": True, "w_avg_beta": 0.9}
    state = snapshots.random_state(PLAIN)
    content = snapshots.snapshot(state, **fine, num_fp16_res=4)
    assert convert(read_snapshot(written(tmp_path, content)), condition_dim=8).doubts == []
    wrong = {"img_resolution": 32, "num_layers": 8, "use_noise": False, "swirl": 2}
    content = snapshots.snapshot(state, **(fine | wrong))
    assert convert(read_snapshot(written(tmp_path, content)), condition_dim=8).doubts == [
        "img_resolution is 32, that of its weights 16",
        "num_layers is 8, that of its weights 3",
        "use_noise is False, that of its weights True",
        "'swirl' is not known here",
    ]
