"""Trainings in a run folder: to the end, or stopped on the way; and whether two are the same."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lafite_shifted.io.files import load_tensors
from tests.commands import half_written
from training.config import RunConfig
from training.loop import MACHINE_COLUMNS, Trainer, run_loop
from training.run_folder import RunFolder

Open = Callable[..., tuple[Trainer, RunConfig, RunFolder]]

# ten steps of four; a line in the log after 12, 20, 24, 36 and 40 samples, a checkpoint after 16,
# 32 and 40: the two never fall together before the end
INTERVALS = [
    "batch=4",
    "run.kimg=0.04",
    "run.log_kimg=0.012",
    "run.evaluate_kimg=0.02",
    "run.checkpoint_kimg=0.016",
    "run.keep_checkpoints=9",
]
GAN_FIELDS = [
    *(f"{part}.{field}" for part in ("generator", "discriminator") for field in ("channel_max=8",)),
    *("generator.z_dim=8", "generator.w_dim=8", "r1_every=3", "clip_weight=0.5"),
]


def train(opened: tuple[Trainer, RunConfig, RunFolder], *, until: int | None = None) -> None:
    """Run to the end, or stop dead after `until` samples as a kill would."""
    for progress in run_loop(*opened):
        if progress.samples == until:
            return


def interrupt(opened: tuple[Trainer, RunConfig, RunFolder], *, at: int, number: int) -> None:
    """Send a signal so that the step which ends at `at` samples is the last one."""
    for progress in run_loop(*opened):
        if progress.samples == at - 4:
            signal.raise_signal(number)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """log.jsonl without the clock."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in rows]


def last_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def assert_same_tensors(file: Path, reference: Path) -> None:
    """Bit for bit; the headers may order their fields differently."""
    (found, metadata), (expected, expected_metadata) = load_tensors(file), load_tensors(reference)
    assert metadata == expected_metadata
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def assert_same_run(folder: Path, reference: Path) -> None:
    """The last checkpoint, the log, and the weights written for use agree."""
    last, expected = last_checkpoint(folder), last_checkpoint(reference)
    assert last.name == expected.name
    assert (last / "state.json").read_bytes() == (expected / "state.json").read_bytes()
    assert_same_tensors(last / "state.safetensors", expected / "state.safetensors")
    assert log_of(folder) == log_of(reference)
    for part in ("generator", "prior", "clip"):
        for file in (reference / part).glob("*.safetensors"):
            assert_same_tensors(folder / part / file.name, file)
    assert half_written(folder) == []
