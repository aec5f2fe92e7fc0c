"""Another text encoder's token states: equal to what transformers gives, on their way from `embed`
to `generate`, and refused where they do not fit.
"""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertModel, T5EncoderModel

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.errors import InputError
from tests.commands import TINY_GAN, TINY_PRIOR, run_command, succeed
from tests.small_text_encoder import save_small_text_encoder
from training.data.embeddings.embedding_set import EmbeddingSet

TEXTS = ["a red apple", "boat", "the green boat of the sea"]


@pytest.fixture(scope="module", params=["t5", "bert"])
def encoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return save_small_text_encoder(tmp_path_factory.mktemp(request.param), kind=request.param)


def test_states_match_transformers_one_text_at_a_time(encoder_folder: Path):
    encoder = TextEncoder.load(str(encoder_folder))
    tokens, lengths = encoder.states(TEXTS)
    kind = T5EncoderModel if "t5" in encoder_folder.name else BertModel
    model = kind.from_pretrained(encoder_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    assert lengths.tolist() == [4, 2, 7]
    for row, text in enumerate(TEXTS):
        alone = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            expected = model(input_ids=alone["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(tokens[row, : lengths[row]], expected, rtol=1e-4, atol=1e-5)
        assert not tokens[row, lengths[row] :].any()


def test_identity_is_of_the_weights(encoder_folder: Path, tmp_path: Path):
    encoder = TextEncoder.load(str(encoder_folder))
    assert (encoder.id.width, encoder.context_length) == (16, 12)
    assert TextEncoder.load(str(encoder_folder)).id == encoder.id
    other = save_small_text_encoder(tmp_path / "other", kind="t5", seed=1)
    assert TextEncoder.load(str(other)).id.weights != encoder.id.weights


def test_a_long_text_is_cut_with_a_warning(encoder_folder: Path):
    encoder = TextEncoder.load(str(encoder_folder))
    with pytest.warns(UserWarning, match="longer than the 12 tokens"):
        tokens, lengths = encoder.states(["boat " * 30])
    assert tokens.shape[1] == int(lengths) == 12


def test_the_text_embedding_stays_the_clips(encoder_folder: Path):
    clip, encoder = ClipEncoder.load("starter"), TextEncoder.load(str(encoder_folder))
    plain, both = clip.embed_texts(TEXTS), read_texts(TEXTS, clip, encoder)
    assert both.embedding.equal(plain.embedding)
    assert both.tokens.equal(encoder.states(TEXTS)[0])
    assert read_texts(TEXTS, clip, None).tokens.equal(plain.tokens)


def test_from_embeddings_to_images(some_images: Path, tmp_path: Path):
    """The prior knows which encoder it reads; another one, or none, is refused."""
    tower = save_small_text_encoder(tmp_path / "t5", kind="t5", limit=64)
    succeed("embed", some_images, "--out", tmp_path / "e", "--text-encoder", tower)
    data = EmbeddingSet(tmp_path / "e")
    assert data.token_width == 16
    assert data.text_encoder == TextEncoder.load(str(tower)).id
    again = run_command("embed", some_images, "--out", tmp_path / "e")
    assert again.code == 2
    assert "token states of" in again.err
    assert "the CLIP's own text tower is in use here" in again.err
    succeed("train-prior", tmp_path / "e", "--out", tmp_path / "p", *TINY_PRIOR)
    succeed("train-gan", some_images, "--out", tmp_path / "g", *TINY_GAN)
    model = tmp_path / "m"
    succeed("pack", "--gan", tmp_path / "g", "--prior", tmp_path / "p", "--out", model)
    arguments = (
        "generate",
        "a red apple",
        "--model",
        model,
        "--num-images",
        "1",
        "--out",
        tmp_path / "o",
    )
    succeed(*arguments)
    moved = tower.rename(tmp_path / "elsewhere")
    lost = run_command(*arguments)
    assert lost.code == 2
    assert "cannot be loaded" in lost.err
    succeed(*arguments, "--text-encoder", moved)
    other = save_small_text_encoder(tmp_path / "other", kind="t5", seed=1, limit=64)
    wrong = run_command(*arguments, "--text-encoder", other)
    assert wrong.code == 2
    assert "Give the one that the prior was trained with" in wrong.err


@pytest.mark.parametrize("damage", ["no folder", "pickled weights", "no transformers"])
def test_what_cannot_be_loaded_is_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "t5"
    if damage != "no folder":
        save_small_text_encoder(folder, kind="t5")
    if damage == "pickled weights":  # never loaded: a pickle can run code
        weights = folder / "model.safetensors"
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
    if damage == "no transformers":
        monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"--text-encoder .*(Give a folder|pip install)"):
        TextEncoder.load(str(folder))
