"""Tensors of a file against what they should be."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lafite_shifted.errors import InputError


def check_finite(tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """InputError if a number is infinite or none at all."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise InputError(
            f"{path} holds numbers that are not finite, such as in {bad[0]!r} ({len(bad)} of "
            f"{len(tensors)} tensors). Copy or download it again; if it was trained here, take an "
            "earlier one."
        )


def check_like(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """InputError unless names, shapes and kinds of numbers are those of `expected`, and all numbers
    are finite.
    """
    if missing := sorted(expected.keys() - tensors.keys()):
        raise InputError(f"{path} lacks {missing[0]!r}. Copy or download it again.")
    for name, like in expected.items():
        found = tensors[name]
        same_kind = found.is_floating_point() == like.is_floating_point()
        if found.shape != like.shape or found.is_complex() or not same_kind:
            raise InputError(
                f"{path}: {name!r} is {found.dtype} of shape {list(found.shape)}, not "
                f"{like.dtype} of {list(like.shape)}. Copy or download it again, or pack the "
                "model again."
            )
    check_finite(tensors, path)
