"""What opening a run of any kind needs."""

from collections.abc import Sequence

import torch

from lafite_shifted.errors import InputError
from torch_utils.device import DtypeName, pick_dtype
from training.config import RunConfig


def refuse_derived(assignments: Sequence[str], *fields: str) -> None:
    """InputError where --set names a field that follows from the encoder."""
    for assignment in assignments:
        if assignment.partition("=")[0] in fields:
            raise InputError(f"--set {assignment}: the encoder decides this. Leave it out.")


def compute_record(dtype: DtypeName, device: torch.device) -> dict[str, str]:
    """What the exactness of a resumed run depends on, beside the thread count (in checkpoints). The
    number of processes may change: then it is exact up to rounding.
    """
    resolved = str(pick_dtype(dtype, device)).removeprefix("torch.")
    return {"device": device.type, "dtype": resolved}


def length_fields(run: RunConfig, kimg: float) -> list[str]:
    """Of a run of `kimg`: a short one still logs, evaluates and saves a few times, a long one as
    often as the preset's.
    """
    return [
        f"run.kimg={kimg}",
        f"run.log_kimg={min(run.log_kimg, kimg / 20)}",
        f"run.evaluate_kimg={min(run.evaluate_kimg, kimg / 5)}",
        f"run.checkpoint_kimg={min(run.checkpoint_kimg, kimg / 10)}",
    ]
