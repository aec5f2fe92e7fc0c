"""`--init`: what a training keeps of another generator, what is new, and what stays frozen."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.ensemble import load_clip
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors, read_json
from tests.commands import TINY_GAN, run_command, succeed
from training.checkpoint import checkpoint_paths
from training.config import override
from training.gan.presets import GAN_PRESETS
from training.gan.run import open_gan_run
from training.gan.trainer import GanTrainer
from training.gan.transfer import Start
from training.loop import run_loop
from training.run_folder import RunFolder

CPU = torch.device("cpu")
FIELDS = [word for word in TINY_GAN if "." in word and "=" in word]


def open_run(
    images: Path, out: Path, clip: ClipEncoder, *fields: str, init: Path | None, size: int = 16
) -> tuple[GanTrainer, RunFolder]:
    sizes = [f"{part}.resolution={size}" for part in ("generator", "discriminator")]
    lengths = ["batch=8", "run.kimg=0.032", "run.checkpoint_kimg=0.008", "run.evaluate_kimg=9"]
    config = override(GAN_PRESETS["tiny"], [*sizes, *lengths, *FIELDS, *fields])
    trainer, run, _ = open_gan_run(config, images, out, clip, device=CPU, init=init)
    return trainer, run


@pytest.fixture
def out(tmp_path: Path, some_embeddings: Path) -> Path:
    shutil.copytree(some_embeddings, tmp_path / "run" / "embeddings")
    return tmp_path / "run"


def weights_of(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the EMA generator, and of the newest checkpoint's discriminator."""
    state, _ = load_tensors(checkpoint_paths(run)[-1] / "state.safetensors")
    name = "discriminator."
    discriminator = {key.removeprefix(name): state[key] for key in state if key.startswith(name)}
    return load_tensors(run / "generator" / "weights.safetensors")[0], discriminator


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> set[str]:
    assert found.keys() == expected.keys()
    return {
        name
        for name in found
        if found[name].shape != expected[name].shape or not found[name].equal(expected[name])
    }


def test_everything_is_kept_where_everything_fits(
    gan_run: Path, some_images: Path, clip: ClipEncoder, out: Path
):
    trainer, run = open_run(some_images, out, clip, "seed=5", init=gan_run)
    run.close()
    generator, discriminator = weights_of(gan_run)
    for network in (trainer.generator, trainer.ema.network):
        assert differing(network.state_dict(), generator) == set()
    assert differing(trainer.discriminator.state_dict(), discriminator) == set()
    assert trainer.kept == [
        f"generator from {gan_run}: {len(generator)} of {len(generator)} tensors",
        f"discriminator from {gan_run}: {len(discriminator)} of {len(discriminator)} tensors",
    ]
    recorded = read_json(out / "config.json")["init"]
    assert recorded == Start.of(gan_run, out).record
    assert recorded["path"] == str(gan_run)
    assert len(recorded["weights"]) == 16
    before = read_json(gan_run / "generator" / "config.json")["training"]["kimg"]
    assert trainer.origin == {"begun_from": gan_run.name, "kimg_before": before}


def test_a_model_says_what_it_was_trained_on_from(
    gan_run: Path, some_images: Path, clip: ClipEncoder, out: Path, tmp_path: Path
):
    """All of a training in stages, not the last one alone."""
    record = dict(Start.of(gan_run, out).record)
    trainer, run = open_run(some_images, out, clip, init=gan_run)
    run.close()
    trainer.evaluate(2000, out)
    training = read_json(out / "generator" / "config.json")["training"]
    assert (training["kimg"], training["kimg_before"]) == (2.0, record["kimg"])
    assert training["begun_from"] == gan_run.name
    assert Start.of(out, tmp_path / "next").record["kimg"] == 2.0 + record["kimg"]


def test_layers_of_the_condition_are_new_for_another_clip(
    gan_run: Path, some_images: Path, small_clip_folder: Path, tmp_path: Path
):
    """Whose embeddings have another size."""
    other = load_clip(str(small_clip_folder))
    assert other.id.dim != 128
    trainer, run = open_run(some_images, tmp_path / "run", other, init=gan_run)
    run.close()
    generator, discriminator = weights_of(gan_run)
    new = differing(trainer.generator.state_dict(), generator)
    assert new
    assert all(name.startswith("styles.") for name in new)
    new_discriminator = differing(trainer.discriminator.state_dict(), discriminator)
    assert (
        new_discriminator == {"to_feature.weight", "to_feature.bias"} & new_discriminator != set()
    )
    for name in (*new, "to_feature.weight"):
        assert any(name in line.partition("new: ")[2] for line in trainer.kept), name


def test_a_clip_of_the_same_size_is_another_one_too(
    gan_run: Path, some_images: Path, clip: ClipEncoder, out: Path
):
    trainer, run = open_run(some_images, out, clip, "seed=5", init=None)
    run.close()
    before = {name: t.clone() for name, t in trainer.generator.state_dict().items()}
    block = replace(clip.id.blocks[0], weights="0123456789abcdef")
    start = Start.of(gan_run, out)
    start.apply(trainer.generator, trainer.discriminator, replace(clip.id, blocks=(block,)))
    generator, _ = weights_of(gan_run)
    for name, tensor in trainer.generator.state_dict().items():
        expected = before if name.startswith("styles.") else generator
        assert tensor.equal(expected[name]), name


def test_another_resolution_is_refused(
    gan_run: Path, some_images: Path, clip: ClipEncoder, out: Path
):
    with pytest.raises(InputError, match=r"makes images of 16 pixels.*Give --resolution 16"):
        open_run(some_images, out, clip, init=gan_run, size=32)
    assert not (out / "config.json").exists()


@pytest.mark.parametrize(
    ("fields", "frozen"),
    [
        (("freeze_discriminator=1",), ("discriminator.from_rgb.", "discriminator.blocks.0.")),
        (
            ("freeze_generator=mapping", "path_length_weight=1", "path_length_every=1"),
            ("generator.mapping.layers.",),
        ),
        (
            ("freeze_generator=synthesis",),
            ("generator.constant", "generator.layers.", "generator.to_rgbs."),
        ),
    ],
)
def test_frozen_layers_stay_and_all_others_learn(
    fields: tuple[str, ...],
    frozen: tuple[str, ...],
    gan_run: Path,
    some_images: Path,
    clip: ClipEncoder,
    out: Path,
):
    trainer, run = open_run(some_images, out, clip, *fields, init=gan_run)
    run.close()
    networks = {"generator": trainer.generator, "discriminator": trainer.discriminator}

    def parameters() -> dict[str, Tensor]:
        return {
            f"{part}.{name}": parameter.detach().clone()
            for part, network in networks.items()
            for name, parameter in network.named_parameters()
        }

    before = parameters()
    for step in range(2):
        trainer.step(8 * step)
    changed = differing(parameters(), before)
    assert {name for name in changed if name.startswith(frozen)} == set()
    still = {name for name in before.keys() - changed if not name.startswith(frozen)}
    assert all("noise_strength" in name for name in still), still


def test_a_resumed_run_needs_its_start_no_more(
    gan_run: Path, some_images: Path, clip: ClipEncoder, out: Path, tmp_path: Path
):
    init = Path(shutil.copytree(gan_run, tmp_path / "init"))
    broken = Path(shutil.copytree(out, tmp_path / "broken"))

    def train(folder: Path, *, until: int) -> GanTrainer:
        trainer, run = open_run(some_images, folder, clip, init=init)
        for progress in run_loop(trainer, trainer.config.run, run):
            if progress.samples == until:
                break
        run.close()
        return trainer

    train(out, until=32)
    train(broken, until=16)
    shutil.rmtree(init)
    assert train(broken, until=32).kept == []
    states = [
        load_tensors(checkpoint_paths(run)[-1] / "state.safetensors")[0] for run in (out, broken)
    ]
    assert differing(states[1], states[0]) == set()
    with pytest.raises(InputError, match=r"init\.path: "):
        open_run(some_images, broken, clip, init=gan_run)
    with pytest.raises(InputError, match=r"init: .* -> None"):
        open_run(some_images, broken, clip, init=None)


def test_the_command_says_what_it_kept_and_what_it_cannot_freeze(
    gan_run: Path, model_folder: Path, some_images: Path, out: Path
):
    command = ("train-gan", some_images, "--out", out, *TINY_GAN)
    freezing = ("--set", "freeze_discriminator=1")
    for flags, expected in (
        (freezing, "Give --init MODEL"),
        ((*freezing, "--init", model_folder), "has no discriminator"),
        (("--set", "freeze_discriminator=3"), "from 0 to 2"),
        (("--init", out / "none"), "none does not exist"),
    ):
        refused = run_command(*command, *flags)
        assert (refused.code, expected in refused.err) == (2, True), refused.err
        assert not (out / "config.json").exists()
    outcome = succeed(*command, "--init", model_folder)
    assert f"generator from {model_folder}: " in outcome.err
    assert "discriminator: new" in outcome.err
