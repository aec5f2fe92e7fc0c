"""Networks that are about to be filled from a file need no random weights: making them takes longer
than reading the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_IN_PLACE = frozenset(  # methods of tensors, and functions of torch.nn.init
    ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_")
)


class _NoRandomNumbers(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _IN_PLACE:
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            return torch.zeros(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def without_random_weights() -> Iterator[None]:
    """Within the block, weights that would be random are whatever the memory holds. All of them
    must be loaded afterwards, by a strict `load_state_dict`.
    """
    with _NoRandomNumbers():
        yield
