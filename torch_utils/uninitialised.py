"""Networks that are about to be filled from a file need no random weights: making them takes longer
than reading the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset(  # methods of tensors, and functions of torch.nn.init
    ("normal_", "uniform_", "kaiming_uniform_", "kaiming_normal_")
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
        name = getattr(func, "__name__", "")
        if name in _DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            # a parameter alone: trunc_normal_ draws into other tensors until all are within bounds
            if isinstance(tensor, nn.Parameter):
                with torch.no_grad():
                    return tensor.fill_(kwargs.get("mean", 0.0) if len(args) < 2 else args[1])
        if func is torch.randn:
            return torch.zeros(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def without_random_weights() -> Iterator[None]:
    """Within the block, weights that would be random are a constant, or whatever the memory holds.
    All of them must be loaded afterwards, by a strict `load_state_dict`.
    """
    with _NoRandomNumbers():
        yield
