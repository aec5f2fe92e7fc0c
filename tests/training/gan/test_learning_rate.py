"""`learning_rate_decay_kimg`: the step size at the end of a run."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors, read_json_lines
from tests.training.gan.test_transfer import differing, open_run
from tests.training.gan.trainers import SMALL
from training.checkpoint import checkpoint_paths
from training.config import RunConfig, override
from training.loop import run_loop

DECAY = ("learning_rate=0.001", "run.log_kimg=0.008")


def test_it_falls_to_zero_in_a_straight_line():
    config = dataclasses.replace(
        SMALL, learning_rate=0.004, learning_rate_decay_kimg=2.0, run=RunConfig(kimg=8)
    )
    rates = [config.step_size_at(samples) for samples in (0, 6000, 6500, 7000, 7984)]
    assert rates == pytest.approx([0.004, 0.004, 0.003, 0.002, 0.000032])
    assert dataclasses.replace(SMALL, learning_rate=0.004).step_size_at(10**9) == 0.004
    assert any("to 0 over the last 2 kimg" in line for line in config.reasons())
    assert not any("to 0 over" in line for line in SMALL.reasons())
    with pytest.raises(InputError, match="learning_rate_decay_kimg must be at least 0"):
        override(SMALL, ["learning_rate_decay_kimg=-1"])


def states(run: Path) -> list[dict[str, Tensor]]:
    """Of the last two checkpoints."""
    return [load_tensors(path / "state.safetensors")[0] for path in checkpoint_paths(run)]


def test_both_optimizers_follow_it_and_so_does_a_resumed_run(
    some_images: Path, some_embeddings: Path, clip: ClipEncoder, tmp_path: Path
):
    """The last of four steps has half the size: D's gradients there are those of a run without."""

    def train(name: str, *fields: str, until: int = 32) -> Path:
        out = tmp_path / name
        if not out.exists():
            shutil.copytree(some_embeddings, out / "embeddings")
        trainer, run = open_run(some_images, out, clip, *DECAY, *fields, init=None)
        for progress in run_loop(trainer, trainer.config.run, run):
            if progress.samples == until:
                break
        run.close()
        rates = {
            g["lr"] for o in (trainer.d_optimizer, trainer.g_optimizer) for g in o.param_groups
        }
        if fields and until == 32:
            assert rates == {0.0005}
        return out

    field = "learning_rate_decay_kimg=0.016"
    falling, constant = train("falling", field), train("constant")
    train("broken", field, until=24)
    broken = train("broken", field)
    rates = [row["learning_rate"] for row in read_json_lines(falling / "log.jsonl")]
    assert rates == pytest.approx([0.001, 0.001, 0.001, 0.0005])
    assert "learning_rate" not in read_json_lines(constant / "log.jsonl")[-1]
    (before, short), (same, long) = states(falling), states(constant)
    assert differing(before, same) == set()
    name = "discriminator.last_conv.weight"
    moved = long[name] - same[name]
    assert moved.abs().max() > 1e-4
    torch.testing.assert_close(short[name] - before[name], moved / 2, rtol=0.01, atol=1e-6)
    assert differing(states(broken)[-1], short) == set()
