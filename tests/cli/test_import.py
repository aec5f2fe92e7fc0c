"""`import`: snapshots of older programs become models that `generate` runs."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lafite_shifted.decoder.loaded import latents
from lafite_shifted.pipeline import TextToImage
from tests import snapshots
from tests.commands import TINY_GAN, assert_refused, run_command, succeed
from tests.references import stylegan2
from tests.snapshots import LAFITE, PLAIN


@pytest.fixture
def lafite(tmp_path: Path) -> Path:
    file = tmp_path / "network-snapshot-000100.pkl"
    file.write_bytes(snapshots.snapshot(snapshots.random_state(LAFITE)))
    return file


def test_lafite_generates_as_it_did(tmp_path: Path, lafite: Path, small_clip_folder: Path):
    model = tmp_path / "model"
    outcome = succeed("import", lafite, "--clip", small_clip_folder, "--out", model)
    assert "generator of Lafite, 16 px" in outcome.out
    made = tmp_path / "images"
    succeed(
        "generate",
        "a red apple",
        "--model",
        model,
        "--out",
        made,
        "--dtype",
        "float32",
        "--num-images",
        "1",
    )
    loaded = TextToImage.from_pretrained(model, dtype="float32")
    condition = loaded.clip.embed_texts(["a red apple"]).embedding
    expected = stylegan2.images(
        snapshots.random_state(LAFITE), latents([0], 24), condition=condition
    )
    levels = (expected[0] * 127.5 + 127.5).clamp(0, 255).permute(1, 2, 0).numpy()
    (file,) = made.glob("a-red-apple*.png")
    with Image.open(file) as image:
        assert np.abs(np.asarray(image.convert("RGB"), float) - levels).max() <= 1
    assert "Lafite" in (model / "README.md").read_text(encoding="utf-8")


def test_stylegan2_is_where_a_training_begins(
    tmp_path: Path, small_clip_folder: Path, some_images: Path
):
    file = tmp_path / "ffhq.pkl"
    state = snapshots.random_state(PLAIN, classes=3)
    file.write_bytes(snapshots.snapshot(state, swirl=2))
    outcome = succeed(
        "import", file, "--clip", small_clip_folder, "--class", "1", "--out", tmp_path / "other"
    )
    assert "warning: what it says that it was built with: 'swirl' is not known" in outcome.err
    file.write_bytes(snapshots.snapshot(state))
    model, run = tmp_path / "model", tmp_path / "run"
    clip = ("--clip", small_clip_folder)
    outcome = succeed("import", file, *clip, "--class", "2", "--out", model)
    assert "sentences have no effect" in outcome.out
    assert "warning" not in outcome.err
    sizes = ("channel_base=256", "channel_max=32", "z_dim=24", "w_dim=24", "mapping_layers=3")
    changes = [f"--set=generator.{size}" for size in sizes]
    changes += ["--set=generator.noise=true", "--set=discriminator.resolution=16"]
    outcome = succeed(
        "train-gan",
        some_images,
        *("--init", model, *clip, "--out", run, *TINY_GAN, "--resolution", "16", *changes),
    )
    assert "generator from" in outcome.err + outcome.out
    start = TextToImage.from_pretrained(model, dtype="float32").generator.network.generator
    weights = dict(start.state_dict())
    z = torch.randn(2, 24)
    a, b = (start(z, torch.randn(2, start.config.condition_dim)) for _ in range(2))
    assert torch.equal(a, b)  # no condition yet
    trained = TextToImage.from_pretrained(run, dtype="float32").generator.network.generator
    moved = {n for n, w in trained.state_dict().items() if not torch.equal(w, weights[n])}
    assert {"constant", "layers.0.conv.weight", "styles.first.weight"} <= moved
    a, b = (trained(z, torch.randn(2, start.config.condition_dim)) for _ in range(2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.pkl cannot be imported: it is no pickle"),
        (b"some text", "x.pkl cannot be imported: it is no pickle"),
        (b"\x80\x02}", "x.pkl cannot be imported: it is damaged"),
        (b"PK\x03\x04 and so on", "it is an archive of torch.save"),
        (b"\x80\x02cos\nsystem\n(S'echo run > run.txt'\ntR.", "names 'os.system'"),
        (b"\x80\x04}.", "holds no generator under the name G_ema"),
    ],
)
def test_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(content)
    outcome = run_command("import", "x.pkl", "--out", "model")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") <= 2
    assert [file.name for file in tmp_path.iterdir()] == ["x.pkl"]


def test_the_file_is_looked_at_first_and_only_as_far_as_it_is_one(tmp_path: Path):
    """Not the CLIP, which may be a download; nor what is no pickle, which may be a disk's image."""
    large = tmp_path / "large.pkl"
    large.touch()
    os.truncate(large, 2**40)
    words = ("--out", tmp_path / "model", "--clip", tmp_path / "none")
    assert_refused(run_command("import", large, *words), "large.pkl cannot be imported: it is no")


def test_what_does_not_fit(tmp_path: Path, lafite: Path):
    outcome = run_command("import", lafite, "--out", tmp_path / "model")  # the starter's CLIP
    assert outcome.code == 2
    assert "was trained with a CLIP of 24 dimensions" in outcome.err
    (tmp_path / "model").mkdir()
    outcome = run_command("import", lafite, "--out", tmp_path / "model")
    assert "exists already" in outcome.err
    outcome = run_command("import", tmp_path / "none.pkl", "--out", tmp_path / "other")
    assert (outcome.code, "Traceback" in outcome.err) == (2, False)
