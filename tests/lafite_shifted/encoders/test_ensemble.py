"""Several CLIPs as one: embeddings side by side, a block of statistics each, the whole chain."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.encoders.ensemble import ClipEnsemble, load_clip
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.gaussian import Gaussian, ledoit_wolf
from lafite_shifted.gaussian.stats import EmbeddingStats, merged
from tests.commands import TINY_GAN, TINY_PRIOR, run_command, succeed
from tests.small_clip import save_small_clip
from training.data.embeddings.embedding_set import EmbeddingSet

TEXTS = ["a red apple", "a green boat on the sea"]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped CLIP (96 px, 32 tokens, 256 dimensions) and one of 224 px, 77 tokens, 24."""
    other = save_small_clip(tmp_path_factory.mktemp("clip"))
    return f"starter,{other}"


@pytest.fixture(scope="module")
def pair(names: str) -> ClipEnsemble:
    found = load_clip(names)
    assert isinstance(found, ClipEnsemble)
    return found


def test_embeddings_stand_side_by_side_and_weigh_the_same(names: str, pair: ClipEnsemble):
    images = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    alone = [ClipEncoder.load(name) for name in names.split(",")]
    whole, text = pair.embed_images(images), pair.embed_texts(TEXTS)
    expected = torch.cat([clip.embed_images(images) for clip in alone], dim=1) / 2**0.5
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(3))
    parts = [clip.embed_texts(TEXTS) for clip in alone]
    expected = torch.cat([part.embedding for part in parts], dim=1) / 2**0.5
    torch.testing.assert_close(text.embedding, expected)
    assert text.tokens.shape[2] == sum(part.tokens.shape[2] for part in parts)
    for part, states in zip(parts, text.tokens.split([180, 16], dim=2), strict=True):
        torch.testing.assert_close(states[:, : part.tokens.shape[1]], part.tokens)
    assert text.lengths.equal(torch.stack([part.lengths for part in parts]).amax(dim=0))
    assert pair.context_length == 77


def test_what_is_resized_is_embedded_as_the_image_is(pair: ClipEnsemble):
    images = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    levels = pair.resize(images)
    assert levels.dtype == torch.uint8
    assert pair.embed_resized(levels).equal(pair.embed_images(images))


def test_gradients_reach_the_images(pair: ClipEnsemble):
    images = torch.zeros(2, 3, 64, 64, requires_grad=True)
    pair.embed_images(images)[:, 256:].sum().backward()  # of the second CLIP alone
    assert images.grad is not None
    assert images.grad.any()


def test_their_cosines_average_to_that_of_the_whole():
    ids = EncoderId(tuple(EncoderBlock(str(d), str(d), "", d) for d in (3, 5)))
    a, b = (ids.normalise(torch.randn(20, 8)) for _ in range(2))
    by_clip = ids.cosines(a, b)
    assert sum(by_clip) / 2 == pytest.approx(float((a * b).sum(dim=1).mean()), abs=1e-6)
    first = F.normalize(a[:, :3], dim=1) * F.normalize(b[:, :3], dim=1)
    assert by_clip[0] == pytest.approx(float(first.sum(dim=1).mean()), abs=1e-6)


@pytest.mark.parametrize("count", [4, 500])
def test_each_clip_has_a_block_of_statistics(count: int):
    """As if each had been counted alone: shrunk by itself, nothing between the blocks."""
    ids = EncoderId(tuple(EncoderBlock(str(d), str(d), "", d) for d in (3, 5)))
    x = ids.normalise(torch.randn(count, 8, generator=torch.Generator().manual_seed(0)) + 0.4)
    stats = merged([EmbeddingStats.of(x[:2], ids), EmbeddingStats.of(x[2:], ids)])
    alone = [EmbeddingStats.of(part) for part in x.split([3, 5], dim=1)]
    for block, expected in zip(stats.blocks(), alone, strict=True):
        torch.testing.assert_close(block.covariance, expected.covariance)
        assert ledoit_wolf(block) == pytest.approx(ledoit_wolf(expected), rel=1e-9)
    whole = Gaussian.from_stats(stats)
    parts = [Gaussian.from_stats(expected) for expected in alone]
    torch.testing.assert_close(
        whole.covariance, torch.block_diag(*[part.covariance for part in parts])
    )
    noise = torch.randn(7, 8, dtype=torch.float64)
    pieces = zip(parts, noise.split([3, 5], dim=1), strict=True)
    torch.testing.assert_close(
        whole.unwhiten(noise), torch.cat([part.unwhiten(piece) for part, piece in pieces], dim=1)
    )


def test_from_images_to_images(names: str, some_images: Path, tmp_path: Path):
    succeed("embed", some_images, "--out", tmp_path / "e", "--clip", names)
    data = EmbeddingSet(tmp_path / "e")
    assert data.encoder_id.dims == [256, 24]
    halves = data.image[:].split([256, 24], dim=1)
    for half in halves:
        torch.testing.assert_close(half.norm(dim=1), torch.full((len(half),), 0.5**0.5))
    shown = json.loads(succeed("stats", tmp_path / "e", "--json").out)
    assert len(shown["shrinkage"]) == 2
    succeed("train-prior", tmp_path / "e", "--out", tmp_path / "p", *TINY_PRIOR)
    gan = ("train-gan", some_images, "--out", tmp_path / "g", "--clip", names)
    succeed(*gan, *TINY_GAN, "--set", "clip_weight=0.1")
    model = tmp_path / "m"
    succeed("pack", "--gan", tmp_path / "g", "--prior", tmp_path / "p", "--out", model)
    succeed(
        "generate", "a red apple", "--model", model, "--num-images", "1", "--out", tmp_path / "o"
    )
    refused = run_command("embed", some_images, "--out", tmp_path / "e")
    assert refused.code == 2
    assert "cannot be mixed" in refused.err


@pytest.mark.parametrize("name", ["starter,", "starter,starter", ","])
def test_lists_without_sense_are_refused(name: str):
    with pytest.raises(InputError, match="different CLIPs"):
        load_clip(name)
