"""The device that a user named."""

import torch

from lafite_shifted.errors import InputError
from torch_utils.device import pick_device


def resolve_device(name: str) -> torch.device:
    """The device called `name` ("auto": CUDA where there is a GPU); InputError where it is not
    available.
    """
    try:
        return pick_device(name)
    except ValueError as error:
        raise InputError(f"--device {name}: {error}. Use --device cpu or --device auto.") from error
