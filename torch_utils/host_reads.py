"""The one place where the host reads numbers that a device has computed, and the reasons that there
are: everywhere else in a training step the host runs ahead of a GPU.
"""

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor


class HostRead(Enum):
    """Why the host reads: the whole list."""

    LAGGED = "a number of two steps before, which has arrived by then"
    LOG = "sums of logged scalars, at the log interval and for a checkpoint"
    STATE = "the state, for a checkpoint or after one is loaded"
    FILE = "what is written to a file, and the hash of weights"
    START = "what a training measures before its first step"
    EVALUATION = "what metrics and histograms are of, at the evaluation interval"
    EMBEDDINGS = "embeddings: of images once a shard, of captions once a batch"
    STATISTICS = "embeddings that are counted in float64"
    IMAGES = "images that are done, a batch at once"
    EDIT = "what an edit decides by: losses, the best of several, convergence"


def on_host(tensor: Tensor, why: HostRead) -> Tensor:
    """The tensor on the CPU; a GPU is waited for."""
    assert isinstance(why, HostRead)
    return tensor.detach().cpu()


def numbers(scalars: Sequence[Tensor], why: HostRead) -> list[float]:
    """Their values; a GPU's are waited for once, together."""
    found = [float(scalar) if scalar.device.type == "cpu" else None for scalar in scalars]
    there = [scalar.double() for scalar in scalars if scalar.device.type != "cpu"]
    read = iter(on_host(torch.stack(there), why).tolist() if there else [])
    return [next(read) if number is None else number for number in found]
