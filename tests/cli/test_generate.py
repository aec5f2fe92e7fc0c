"""`pack` and `generate` do what their help says, through the real command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafite_shifted.model_folder import model_hash
from tests.commands import half_written, succeed


def test_sentence_given_twice_is_made_once(model_folder: Path, tmp_path: Path):
    arguments = ("--model", model_folder, "--out", tmp_path / "out", "--num-images", "1")
    outcome = succeed("generate", "a cat", "a cat", *arguments)
    assert "1 image and grid.png" in outcome.out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a-cat-0000.png", "grid.png", "manifest.jsonl"]


def test_pack_tells_the_next_command(model_folder: Path, gan_run: Path, tmp_path: Path):
    outcome = succeed("pack", "--gan", gan_run, "--out", tmp_path / "model")
    assert "generator without a prior" in outcome.out
    assert f'lafite-shifted generate "a red apple" --model {tmp_path / "model"}' in outcome.out
    assert sorted(p.name for p in model_folder.iterdir()) == ["README.md", "generator", "prior"]


def generate(model_folder: Path, out: Path, *arguments: str) -> dict[str, np.ndarray]:
    """The images that the command writes in float32, by name, the grid left out."""
    flags = ("--model", model_folder, "--out", out, "--dtype", "float32")
    outcome = succeed("generate", *arguments, *flags)
    files = sorted(p for p in out.glob("*.png") if p.name != "grid.png")
    assert f"{len(files)} image{'s' * (len(files) > 1)} and grid.png" in outcome.out
    assert half_written(out) == []
    found = {}
    for file in files:
        with Image.open(file) as image:
            found[file.name] = np.asarray(image).astype(int)
    return found


def test_generated_images_say_how_they_were_made(model_folder: Path, tmp_path: Path):
    texts = ("a red apple", "Ünïcode: cats & dogs/birds?")
    made = generate(model_folder, tmp_path / "out", *texts, "--num-images", "3", "--seed", "7")
    assert len(made) == 6
    assert {array.shape for array in made.values()} == {(16, 16, 3)}
    assert [name for name in made if name.startswith("a-red-apple-")] == [
        f"a-red-apple-{seed:04}.png" for seed in (7, 8, 9)
    ]
    seen = set()
    for name in made:
        with Image.open(tmp_path / "out" / name) as image:
            seen.add((image.text["prompt"], image.text["seed"]))
            assert image.text["model"] == model_hash(model_folder)
    assert seen == {(text, str(seed)) for text in texts for seed in (7, 8, 9)}
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width >= 3 * 96
        assert grid.text["model"] == model_hash(model_folder)


def test_seeds_are_counted_on_whatever_the_batch(model_folder: Path, tmp_path: Path):
    whole = generate(model_folder, tmp_path / "a", "a cat", "--num-images", "5", "--seed", "2")
    parts = generate(
        model_folder,
        tmp_path / "b",
        "a cat",
        "--num-images",
        "5",
        "--seed",
        "2",
        "--batch-size",
        "2",
    )
    alone = generate(model_folder, tmp_path / "c", "a cat", "--num-images", "1", "--seed", "5")
    assert whole.keys() == parts.keys()
    assert all(np.abs(whole[name] - parts[name]).max() <= 1 for name in whole)
    assert np.abs(whole["a-cat-0005.png"] - alone["a-cat-0005.png"]).max() <= 1


def test_no_prior_conditions_on_the_text(model_folder: Path, gan_run: Path, tmp_path: Path):
    succeed("pack", "--gan", gan_run, "--out", tmp_path / "bare")
    with_prior = generate(model_folder, tmp_path / "a", "a cat", "--num-images", "2")
    without = generate(model_folder, tmp_path / "b", "a cat", "--num-images", "2", "--no-prior")
    bare = generate(tmp_path / "bare", tmp_path / "c", "a cat", "--num-images", "2")
    for name in with_prior:
        assert np.array_equal(without[name], bare[name])
        assert not np.array_equal(without[name], with_prior[name])


@pytest.mark.parametrize(
    "flags", [("--steps", "2"), ("--guidance", "3"), ("--truncation", "0.2"), ("--seed", "9")]
)
def test_every_knob_of_generate_changes_something(
    flags: tuple[str, str], model_folder: Path, tmp_path: Path
):
    plain = generate(model_folder, tmp_path / "a", "a cat", "--num-images", "2")
    changed = generate(model_folder, tmp_path / "b", "a cat", "--num-images", "2", *flags)
    pairs = zip(plain.values(), changed.values(), strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs)
