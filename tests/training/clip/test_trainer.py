"""Training a CLIP: towers of every kind, pretrained ones, and a teacher of the text tower."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json, read_json_lines
from tests.commands import assert_refused, image_folder, run_command, succeed
from tests.small_text_encoder import save_small_text_encoder
from training.checkpoint import flatten_state, restore_state
from training.clip.config import ClipModelConfig, ClipTrainConfig, TeacherConfig
from training.clip.data import CaptionedImage, CaptionedSet, load_captioned_set
from training.clip.start import ClipStart
from training.clip.teacher import SentenceEncoder
from training.clip.trainer import ClipTrainer, encode_texts

CPU = torch.device("cpu")
NETWORK = "test_efficientnet"  # timm's smallest
TEXT = {"text_width": 16, "text_heads": 2, "text_layers": 1, "context_length": 16}
MODEL = ClipModelConfig(embed_dim=8, image_size=32, vision=NETWORK, timm_dropout=0.1, **TEXT)
CONFIG = ClipTrainConfig(
    model=MODEL,
    teacher=TeacherConfig(hidden=8, num_texts=3),
    batch=4,
    dtype="float32",
    warmup_kimg=0.001,
)
LETTERS = "abcdefghijklm"
NAMES = ("a red apple", "a green boat", "the sea", "a boat of the sea", "the apple", "a green sea")


def data_of() -> CaptionedSet:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    images = [CaptionedImage(name, (), "flat", name, n) for n, name in enumerate(NAMES)]
    return CaptionedSet(pixels, images, images[4:])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    folder = save_small_text_encoder(tmp_path_factory.mktemp("teacher"), kind="bert", limit=64)
    return SentenceEncoder.load(str(folder), device=CPU)


@pytest.fixture(scope="module")
def image_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return timm.create_model(NETWORK).state_dict()


def test_texts_are_encoded_as_open_clip_does():
    trainer = ClipTrainer(CONFIG, data_of(), device=CPU)
    for texts in (NAMES, [*NAMES, "a " * 40]):
        found = encode_texts(trainer.model, trainer.tokenizer, texts, device=CPU)
        expected = trainer.model.encode_text(trainer.tokenizer(list(texts)))
        torch.testing.assert_close(found, expected)


def test_the_mean_of_the_teachers_states(teacher: SentenceEncoder):
    """As sentence-transformers has it, one text at a time."""
    found = teacher.embed(NAMES)
    for name, row in zip(NAMES, found, strict=True):
        states, (length,) = teacher.encoder.states([name])
        torch.testing.assert_close(row, F.normalize(states[0, :length].mean(dim=0), dim=0))


def test_a_pretrained_tower_is_kept_then_let_go(image_weights: dict[str, torch.Tensor]):
    config = dataclasses.replace(CONFIG, frozen_kimg=0.008)
    trainer = ClipTrainer(config, data_of(), device=CPU, start=ClipStart(image_weights))
    trunk = trainer.model.visual.trunk
    begun = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    assert all(begun[name].equal(image_weights[name]) for name in begun)
    head = [p.clone() for p in trainer.model.visual.head.parameters()]
    for step in range(2):
        trainer.step(4 * step)
    assert all(tensor.equal(begun[name]) for name, tensor in trunk.state_dict().items())
    for before, now in zip(head, trainer.model.visual.head.parameters(), strict=True):
        assert not before.equal(now)
    for step in range(2, 5):
        trainer.step(4 * step)
    moved = [name for name, tensor in trunk.state_dict().items() if not tensor.equal(begun[name])]
    assert set(moved) == set(begun)


def test_embeddings_learn_what_images_look_like():
    """A linear layer of the embedding tells more of the colours than it did, through the tower."""
    config = dataclasses.replace(CONFIG, thumbnail_weight=20.0, augment_strength=0.0)
    colours = np.random.default_rng(1).integers(0, 256, (6, 1, 1, 3), np.uint8)
    data = dataclasses.replace(data_of(), pixels=np.repeat(np.repeat(colours, 32, 1), 32, 2))
    trainer = ClipTrainer(config, data, device=CPU)
    first = float(trainer.step(0)["loss_thumbnail"])
    for step in range(1, 150):
        last = float(trainer.step(4 * step)["loss_thumbnail"])
    assert last < first / 3


def test_the_text_tower_learns_what_the_teacher_says_of_other_texts(teacher: SentenceEncoder):
    """Of texts that no image has: nearer to what the head gives them than it was."""
    texts = ["the boat", "a red boat", "green", "the red sea"]
    config = dataclasses.replace(
        CONFIG, learning_rate=1e-2, teacher=TeacherConfig(hidden=8, num_texts=8, dropout=0.0)
    )
    trainer = ClipTrainer(
        config, data_of(), device=CPU, start=ClipStart(teacher=teacher, texts=texts)
    )

    @torch.no_grad()
    def distance() -> float:
        assert trainer.head is not None
        wanted = trainer.head.eval()(teacher.embed(texts))
        own = encode_texts(trainer.model, trainer.tokenizer, texts, device=CPU)
        return float(1 - F.cosine_similarity(wanted, own).mean())

    before = distance()
    for step in range(30):
        logged = trainer.step(4 * step)
    assert distance() < before / 3
    assert {"loss", "loss_teacher", "loss_distillation"} <= logged.keys()


def test_a_resumed_run_is_exact(teacher: SentenceEncoder, image_weights: dict[str, torch.Tensor]):
    """With dropout, noise and a tower that is let go on the way."""
    config = dataclasses.replace(
        CONFIG, frozen_kimg=0.008, sibling_share=0.25, thumbnail_weight=1.0
    )

    def trainer() -> ClipTrainer:
        start = ClipStart(image_weights, teacher, ["the boat", "green"])
        return ClipTrainer(config, data_of(), device=CPU, start=start)

    whole = trainer()
    for step in range(5):
        if step in (1, 3):
            saved = {name: t.clone() for name, t in flatten_state(whole.parts()).items()}
            again, first = trainer(), step
            restore_state(again.parts(), saved)
        whole.step(4 * step)
    for step in range(first, 5):
        again.step(4 * step)
    found, expected = flatten_state(again.parts()), flatten_state(whole.parts())
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("vision", ["resnet", "vit", NETWORK])
def test_towers_of_every_kind_can_be_used(vision: str, shipped_images: Path, tmp_path: Path):
    """By open_clip itself, with what was trained."""
    run = tmp_path / "run"
    small = {
        "resnet": ("resnet_layers=1,1,1,1", "resnet_width=8"),
        "vit": ("vit_layers=1", "vit_width=32"),
    }
    fields = (
        *("image_size=32", "embed_dim=16", f"vision={vision}", *small.get(vision, ())),
        *("text_width=16", "text_heads=2", "text_layers=1"),
    )
    flags = [part for field in fields for part in ("--set", f"model.{field}")]
    succeed(
        "train-clip", shipped_images, "--out", run, "--kimg", "0.064", "--batch-size", "32", *flags
    )
    clip = ClipEncoder.load(str(run / "clip"))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert clip.embed_images(images).shape == (2, 16)
    assert clip.embed_texts(["a cat"]).embedding.shape == (1, 16)
    written = read_json(run / "clip" / "open_clip_config.json")["model_cfg"]["vision_cfg"]
    assert written["image_size"] == 32


def test_all_names_are_trained_on_where_nothing_is_held_out(tmp_path: Path):
    folder = image_folder(tmp_path, *(f"{n:03d}.png" for n in range(120)))
    for n in range(120):
        (folder / f"{n:03d}.txt").write_text(f"thing {LETTERS[n % 10]}{LETTERS[n // 10]}")
    divided = load_captioned_set([folder], resolution=16)
    whole = load_captioned_set([folder], resolution=16, hold_out=False)
    assert len(divided.held_out) > 5
    assert len(divided.training) + len(divided.held_out) == 120
    assert len(whole.training) == 120
    assert len(whole.evaluation_images(1000)) == len(divided.evaluation_images(1000)) > 5


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--image-weights", "wheel"), "model.vision is resnet"),
        (("--set", "frozen_kimg=1"), "Give --image-weights"),
        (("--texts", "texts.txt"), "Give --text-teacher as well"),
        (("--text-teacher", "nowhere"), "--text-teacher nowhere: cannot be loaded"),
        (
            ("--set", "model.vision=tf_efficientnet_lite00", "--image-weights", "wheel"),
            "did you mean",
        ),
        (("--set", "model.vision=unheard_of"), "timm has no such network"),
        (("--set", f"model.vision={NETWORK}", "--image-weights", "wheel"), "needs a file"),
    ],
)
def test_what_does_not_fit_is_refused(
    flags: tuple[str, ...], expected: str, shipped_images: Path, tmp_path: Path
):
    outcome = run_command("train-clip", shipped_images, "--out", tmp_path / "run", *flags)
    assert_refused(outcome, expected)
    assert not (tmp_path / "run").exists()


def test_empty_texts_are_refused(shipped_images: Path, tmp_path: Path, teacher: SentenceEncoder):
    (tmp_path / "texts.txt").write_text("\n \n")
    named = ("--text-teacher", teacher.encoder.id.model, "--texts", tmp_path / "texts.txt")
    outcome = run_command("train-clip", shipped_images, "--out", tmp_path / "run", *named)
    assert_refused(outcome, "holds no text")


def test_another_teacher_does_not_resume_a_run(
    shipped_images: Path, tmp_path: Path, teacher: SentenceEncoder
):
    common = ("train-clip", shipped_images, "--out", tmp_path / "run", "--batch-size", "32")
    fields = ("image_size=32", "resnet_layers=1,1,1,1", "resnet_width=8", "embed_dim=16")
    fields += ("text_width=16", "text_heads=2", "text_layers=1")
    flags = [part for field in fields for part in ("--set", f"model.{field}")]
    first = (*common, *flags, "--text-teacher", teacher.encoder.id.model)
    succeed(*first, "--kimg", "0.064")
    assert read_json_lines(tmp_path / "run" / "log.jsonl")[-1]["loss_teacher"] > 0
    other = save_small_text_encoder(tmp_path / "other", kind="bert", seed=1, limit=64)
    outcome = run_command(*common, *flags, "--kimg", "0.064", "--text-teacher", other)
    assert_refused(outcome, "start.teacher")


def test_texts_of_a_vanished_name_are_an_error():
    with pytest.raises(InputError, match="cannot be read"):
        ClipStart.of(CONFIG, image_weights=None, teacher="x", texts=Path("nowhere.txt"), device=CPU)
