"""A run that was stopped, in whatever way, equals one that was not.

Every training is tried: the GAN, the prior and the CLIP; weights, optimizer and log must agree bit
for bit.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError, InterruptedRunError
from tests.commands import TINY_GAN, run_command, succeed
from tests.processes import COMMAND, Python
from tests.training.runs import (
    GAN_FIELDS,
    INTERVALS,
    Open,
    assert_same_run,
    assert_same_tensors,
    interrupt,
    last_checkpoint,
    log_of,
    train,
)
from training.clip.config import ClipTrainConfig
from training.clip.data import CaptionedSet, load_captioned_set
from training.clip.trainer import ClipTrainer
from training.config import RunConfig, override
from training.data.embeddings.embedding_set import EmbeddingSet
from training.gan.presets import GAN_PRESETS
from training.gan.run import gan_config, open_gan_run
from training.gan.trainer import GanTrainer
from training.loop import Trainer, run_loop
from training.prior.presets import PRIOR_PRESETS
from training.prior.run import open_prior_run, prior_config
from training.run_folder import RunFolder

CPU = torch.device("cpu")
PRIOR_FIELDS = ["prior.width=32", "prior.depth=1", "prior.heads=2", "ema_half_life_kimg=0.01"]
CLIP_FIELDS = [
    *("model.image_size=32", "model.resnet_layers=1,1,1,1", "model.resnet_width=8"),
    *("model.text_width=32", "model.text_heads=2", "model.text_layers=1", "model.embed_dim=16"),
]


@pytest.fixture(scope="module")
def open_gan(some_images: Path, some_embeddings: Path, clip: ClipEncoder) -> Open:
    def open_run(out: Path, *fields: str) -> tuple[Trainer, RunConfig, RunFolder]:
        shutil.copytree(some_embeddings, out / "embeddings", dirs_exist_ok=True)
        assignments = [*GAN_FIELDS, *INTERVALS, *fields]
        config = gan_config(GAN_PRESETS["tiny"], resolution=16, assignments=assignments)
        trainer, run, _ = open_gan_run(config, some_images, out, clip, device=CPU)
        return trainer, config.run, run

    return open_run


@pytest.fixture(scope="module")
def open_prior(some_embeddings: Path) -> Open:
    data = EmbeddingSet(some_embeddings)

    def open_run(out: Path, *fields: str) -> tuple[Trainer, RunConfig, RunFolder]:
        config = prior_config(
            PRIOR_PRESETS["tiny"], assignments=[*PRIOR_FIELDS, *INTERVALS, *fields]
        )
        trainer, run = open_prior_run(config, data, out, device=CPU)
        return trainer, config.run, run()

    return open_run


@pytest.fixture(scope="module")
def open_clip(shipped_images: Path) -> Open:
    whole = load_captioned_set([shipped_images], resolution=32)
    data = CaptionedSet(whole.pixels, whole.training[:80], whole.training[80:140])

    def open_run(out: Path, *fields: str) -> tuple[Trainer, RunConfig, RunFolder]:
        config = override(ClipTrainConfig(), [*CLIP_FIELDS, *INTERVALS, *fields])
        description = {"config": {"seed": config.seed}}
        run = RunFolder(out, kind="clip", description=description)
        return ClipTrainer(config, data, device=CPU), config.run, run

    return open_run


@pytest.fixture(params=["gan", "prior", "clip"])
def open_run(request: pytest.FixtureRequest) -> Open:
    return request.getfixturevalue(f"open_{request.param}")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Open], Path]:
    """The folder of a run without interruption, made once for each training."""
    made: dict[Open, Path] = {}

    def folder_of(open_run: Open) -> Path:
        if open_run not in made:
            made[open_run] = tmp_path_factory.mktemp("unbroken") / "run"
            train(open_run(made[open_run]))
        return made[open_run]

    return folder_of


def test_unbroken_run_logs_what_it_should(open_run: Open, unbroken):
    rows = log_of(unbroken(open_run))
    assert [row["samples"] for row in rows] == [12, 20, 24, 36, 40]
    for row in rows:  # numbers, beside what those of an evaluation are measured against
        assert all(isinstance(row[name], (int, float)) for name in row.keys() - {"reference"})
    names = [p.name for p in sorted((unbroken(open_run) / "checkpoints").iterdir())]
    assert names == [f"samples-{samples:010d}" for samples in (16, 32, 40)]


@pytest.mark.parametrize("killed_at", [8, 28])
def test_killed_run_resumes_exactly(open_run: Open, unbroken, tmp_path: Path, killed_at: int):
    train(open_run(tmp_path / "run"), until=killed_at)
    train(open_run(tmp_path / "run"))
    assert_same_run(tmp_path / "run", unbroken(open_run))


@pytest.mark.parametrize("at", [8, 28])
def test_interrupted_run_resumes_exactly(open_run: Open, unbroken, tmp_path: Path, at: int):
    """Both times some losses wait for their line in the log."""
    with pytest.raises(InterruptedRunError, match=r"Stopped by SIGTERM.*same command again"):
        interrupt(open_run(tmp_path / "run"), at=at, number=signal.SIGTERM)
    assert last_checkpoint(tmp_path / "run").name == f"samples-{at:010d}"
    train(open_run(tmp_path / "run"))
    assert_same_run(tmp_path / "run", unbroken(open_run))


def test_run_interrupted_again_and_again_is_the_same(open_run: Open, unbroken, tmp_path: Path):
    for at in (8, 16, 28, 36):
        with pytest.raises(InterruptedRunError):
            interrupt(open_run(tmp_path / "run"), at=at, number=signal.SIGUSR1)
    train(open_run(tmp_path / "run"))
    assert_same_run(tmp_path / "run", unbroken(open_run))


def test_longer_run_resumes_as_if_planned_so(open_run: Open, unbroken, tmp_path: Path):
    """Only the line and the evaluation at the former end are extra."""
    train(open_run(tmp_path / "run", "run.kimg=0.024"))
    train(open_run(tmp_path / "run"))
    reference = unbroken(open_run)
    found, expected = last_checkpoint(tmp_path / "run"), last_checkpoint(reference)
    assert_same_tensors(found / "state.safetensors", expected / "state.safetensors")
    assert [row["samples"] for row in log_of(tmp_path / "run")] == [12, 20, 24, 36, 40]


def test_another_seed_is_another_run(open_run: Open, unbroken, tmp_path: Path):
    folder = Path(shutil.copytree(unbroken(open_run), tmp_path / "run"))
    before = (folder / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"config\.seed: 0 -> 1"):
        open_run(folder, "seed=1")
    assert (folder / "config.json").read_bytes() == before
    train(open_run(tmp_path / "other", "seed=1"))
    assert log_of(tmp_path / "other") != log_of(folder)


def test_finished_run_ends_at_once(open_run: Open, unbroken, tmp_path: Path):
    folder = Path(shutil.copytree(unbroken(open_run), tmp_path / "run"))
    assert list(run_loop(*open_run(folder))) == []
    assert_same_run(folder, unbroken(open_run))


def test_run_that_is_to_end_where_it_was_stopped_is_evaluated(open_run: Open, tmp_path: Path):
    """Between two evaluations: what is for use is as of its end."""
    folder = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        interrupt(open_run(folder), at=28, number=signal.SIGTERM)
    train(open_run(folder, "run.kimg=0.028"))
    planned = tmp_path / "planned"
    train(open_run(planned, "run.kimg=0.028"))
    for part in ("generator", "prior", "clip"):
        for file in (planned / part).glob("*.safetensors"):
            assert_same_tensors(folder / part / file.name, file)
    row, expected = log_of(folder)[-1], log_of(planned)[-1]
    assert row["samples"] == 28
    assert row.items() <= expected.items()
    assert list(run_loop(*open_run(folder, "run.kimg=0.028"))) == []


# --- the real command

LONGER_GAN = (
    *TINY_GAN,
    "--kimg",
    "0.24",
    "--set",
    "run.checkpoint_kimg=0.04",
    "--seed",
    "3",
    "--set",
    "run.evaluate_kimg=0.12",
)


def test_command_killed_by_the_kernel_resumes_exactly(
    some_images: Path, some_embeddings: Path, tmp_path: Path
):
    """`kill -9` at any moment after the first checkpoint, then the same command again."""
    for name in ("killed", "reference"):
        shutil.copytree(some_embeddings, tmp_path / name / "embeddings")
    arguments = ["train-gan", str(some_images), "--out", str(tmp_path / "killed"), *LONGER_GAN]
    process = Python([*COMMAND, *arguments])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/checkpoints/samples-*")):
        assert process.poll() is None, "the command ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed").name < "samples-0000000240"
    succeed(*arguments)
    succeed("train-gan", some_images, "--out", tmp_path / "reference", *LONGER_GAN)
    assert_same_run(tmp_path / "killed", tmp_path / "reference")


def test_command_stopped_by_a_signal_says_how_to_resume(
    some_images: Path, gan_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(gan_run / "embeddings", tmp_path / "run" / "embeddings")
    arguments = ("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    real = GanTrainer.step

    def step(self: GanTrainer, samples_seen: int) -> Mapping[str, Tensor]:
        if samples_seen == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, samples_seen)

    with monkeypatch.context() as patch:
        patch.setattr(GanTrainer, "step", step)
        stopped = run_command(*arguments)
    assert stopped.code == 128 + signal.SIGTERM
    assert "Run the same command again to resume" in stopped.err
    succeed(*arguments)
    assert_same_run(tmp_path / "run", gan_run)


def test_finished_command_exits_0_and_trains_no_more(gan_run: Path, some_images: Path):
    before = (gan_run / "log.jsonl").read_bytes()
    succeed("train-gan", some_images, "--out", gan_run, *TINY_GAN)
    assert (gan_run / "log.jsonl").read_bytes() == before


def test_changed_field_exits_2_with_its_name(gan_run: Path, some_images: Path):
    outcome = run_command(
        *("train-gan", some_images, "--out", gan_run, *TINY_GAN, "--set", "learning_rate=0.1")
    )
    assert outcome.code == 2
    assert "config.learning_rate: None -> 0.1" in outcome.err
    assert "choose another --out" in outcome.err
