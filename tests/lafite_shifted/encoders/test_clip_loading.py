"""What `ClipEncoder.load` accepts and refuses."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.starter import starter_clip
from tests.small_clip import MODEL_CONFIG


@pytest.fixture
def tiny_model(tmp_path: Path) -> Iterator[str]:
    """A model name that open_clip knows while the test runs."""
    config = tmp_path / "lafite-test-tiny.json"
    config.write_text(json.dumps(MODEL_CONFIG), encoding="utf-8")
    open_clip.add_model_config(config)
    yield config.stem
    open_clip.factory._MODEL_CONFIG_PATHS.remove(config)
    open_clip.factory._rescan_model_configs()


def test_weights_file_of_a_known_model_loads(
    tiny_model: str, small_clip_folder: Path, small_clip: ClipEncoder
):
    file = small_clip_folder / "open_clip_model.safetensors"
    encoder = ClipEncoder.load(f"{tiny_model}/{file}")
    check_same_encoder(encoder.id, small_clip.id, what="it", remedy="")


def test_torch_weights_file_loads(tiny_model: str, small_clip: ClipEncoder, tmp_path: Path):
    torch.save(small_clip.model.state_dict(), tmp_path / "weights.pt")
    encoder = ClipEncoder.load(f"{tiny_model}/{tmp_path / 'weights.pt'}")
    check_same_encoder(encoder.id, small_clip.id, what="it", remedy="")


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
@pytest.mark.parametrize("content", [b"", b"not weights at all" * 20])
def test_broken_weights_file_is_refused(
    tiny_model: str, tmp_path: Path, suffix: str, content: bytes
):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--clip .*(again|Check)"):
        ClipEncoder.load(f"{tiny_model}/{path}")


def test_truncated_safetensors_is_refused(small_clip_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(small_clip_folder, tmp_path / "clip"))
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"truncated or damaged.*again"):
        ClipEncoder.load(str(folder))


def test_weights_of_another_architecture_are_refused(tiny_model: str):
    with pytest.raises(InputError, match="cannot be loaded"):
        ClipEncoder.load(f"{tiny_model}/{starter_clip() / 'open_clip_model.safetensors'}")


@pytest.mark.parametrize("config", ["{", "{}", "[]", '{"model_cfg": {}}', '{"model_cfg": 3}'])
def test_broken_configuration_is_refused(small_clip_folder: Path, tmp_path: Path, config: str):
    folder = Path(shutil.copytree(small_clip_folder, tmp_path / "clip"))
    (folder / "open_clip_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(InputError, match="--clip"):
        ClipEncoder.load(str(folder))


def test_folder_without_weights_is_refused(small_clip_folder: Path, tmp_path: Path):
    shutil.copy(small_clip_folder / "open_clip_config.json", tmp_path)
    with pytest.raises(InputError, match="cannot be loaded"):
        ClipEncoder.load(str(tmp_path))


def save_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, archives of it are not gone
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), str(path))


def test_torchscript_archive_is_refused(tiny_model: str, tmp_path: Path):
    save_torchscript(tmp_path / "model.pt")
    assert zipfile.is_zipfile(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"TorchScript archive.*safetensors"):
        ClipEncoder.load(f"{tiny_model}/{tmp_path / 'model.pt'}")


def test_torchscript_archive_in_a_folder_is_refused(small_clip_folder: Path, tmp_path: Path):
    shutil.copy(small_clip_folder / "open_clip_config.json", tmp_path)
    save_torchscript(tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match=r"TorchScript archive.*safetensors"):
        ClipEncoder.load(str(tmp_path))


def test_pickle_with_code_is_refused(tiny_model: str, tmp_path: Path):
    torch.save({"weights": Path("a")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="--clip"):
        ClipEncoder.load(f"{tiny_model}/{tmp_path / 'weights.pt'}")


def test_wrong_tag_lists_the_tags():
    with pytest.raises(InputError, match=r"'nonsense' is neither .*laion2b_s34b_b79k"):
        ClipEncoder.load("ViT-B-32/nonsense")


@pytest.mark.parametrize("name", ["", "nonsense", "no/such", "ViT-B-32", "ViT-B-32/", "./folder"])
def test_unknown_name_says_what_to_give(name: str):
    with pytest.raises(InputError, match=r"not known\. Give `starter`"):
        ClipEncoder.load(name)


@pytest.mark.parametrize("name", ["hf-hub:nobody/nothing", "ViT-B-32/laion2b_s34b_b79k"])
def test_download_without_network_is_refused(name: str):
    with pytest.raises(InputError, match=r"cannot be loaded .*the network"):
        ClipEncoder.load(name)


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b79k", False)])
def test_activation_is_pinned_by_the_tag(tag: str, quick: bool, monkeypatch: pytest.MonkeyPatch):
    """OpenAI's weights were trained with QuickGELU, whatever name they are loaded under."""
    given = {}

    def create(model_name: str, **options: object) -> None:
        given.update(options)
        raise RuntimeError("stop before the download")

    monkeypatch.setattr(open_clip, "create_model", create)
    with pytest.raises(InputError, match="stop before"):
        ClipEncoder.load(f"ViT-B-32/{tag}")
    assert given["force_quick_gelu"] is quick


def test_model_that_is_no_plain_clip_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: torch.nn.Identity())
    with pytest.raises(InputError, match="Identity is no plain CLIP"):
        ClipEncoder.load("coca_ViT-B-32/laion2b_s13b_b90k")
