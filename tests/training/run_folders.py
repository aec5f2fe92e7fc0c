"""A run folder of no network, and a checkpoint for it."""

from pathlib import Path

import torch

from training.checkpoint import Checkpoint
from training.run_folder import RunFolder

DESCRIPTION = {
    "config": {"batch": 4, "run": {"kimg": 1.0}, "sizes": (1, 2)},
    "data": {"n": 3},
    "compute": {"ops": "compiled"},
}


def open_run(path: Path, **changes) -> RunFolder:
    return RunFolder(path, kind="gan", description=DESCRIPTION | changes)


def checkpoint(samples: int) -> Checkpoint:
    return Checkpoint(samples, {"a": torch.full((3,), samples)}, {"threads": 1, "x": [0.1]})
