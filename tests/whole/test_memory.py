"""Memory that does not suffice is one message, which names the settings that take less."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lafite_shifted.pipeline import TextToImage
from tests.commands import TINY_GAN, TINY_PRIOR, assert_refused, run_command
from training.gan.trainer import GanTrainer
from training.prior.trainer import PriorTrainer


def of_the_gpu(*_arguments: object, **_options: object):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def of_cublas(*_arguments: object, **_options: object):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")


def of_the_cpu(*_arguments: object, **_options: object):
    return torch.empty(2**50)


def of_numpy(*_arguments: object, **_options: object):
    return np.empty(2**50)


FAILURES = [of_the_gpu, of_cublas, of_the_cpu, of_numpy]


@pytest.mark.parametrize("fails", FAILURES)
def test_training_a_gan_says_what_takes_less(
    fails, some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(GanTrainer, "step", fails)
    outcome = run_command("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    where = "The GPU's memory" if fails in FAILURES[:2] else "The memory"
    assert_refused(
        outcome,
        f"{where} does not suffice",
        "micro_batch",
        "activation_checkpointing",
        "--batch-size",
    )


def test_other_verbs_say_so_too(
    some_embeddings: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PriorTrainer, "step", of_the_cpu)
    monkeypatch.setattr(TextToImage, "render", of_the_gpu)
    command = ("train-prior", some_embeddings, "--out", tmp_path / "run", *TINY_PRIOR)
    assert_refused(run_command(*command), "The memory does not suffice", "--batch-size")
    command = ("generate", "a cat", "--model", model_folder, "--out", tmp_path / "out")
    assert_refused(run_command(*command), "The GPU's memory does not suffice", "--batch-size")


def test_another_error_keeps_its_traceback(
    some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(_trainer: GanTrainer, _samples: int):
        raise RuntimeError("a bug")

    monkeypatch.setattr(GanTrainer, "step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run_command("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
