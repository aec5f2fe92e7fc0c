"""A number of each step, known to the host two steps later: on a GPU it has been computed by then,
and nobody waits for it.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils.host_reads import HostRead, numbers

LAG = 2  # steps


class Lagged(nn.Module):
    """A queue of the last LAG numbers, one put and one taken a step. What is under way belongs to
    the state of a run.
    """

    under_way: Tensor  # [LAG], oldest first

    def __init__(self, initial: float):
        """`initial` comes out of the first LAG steps."""
        super().__init__()
        self.register_buffer("under_way", torch.full((LAG,), initial))
        self.register_load_state_dict_post_hook(self._read_state)
        start = torch.tensor(initial)
        self._here: deque[tuple[Tensor, Any]] = deque([(start, None)] * LAG)

    def put(self, value: Tensor) -> None:
        """The number of this step, a scalar on the device of the module."""
        newest = value.detach().to(self.under_way.dtype).view(1)
        self.under_way.copy_(torch.cat([self.under_way[1:], newest]))
        if value.device.type != "cuda":
            self._here.append((newest.clone()[0], None))
            return
        here = torch.empty((), dtype=newest.dtype, pin_memory=True)
        here.copy_(newest[0], non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._here.append((here, arrived))

    def take(self) -> float:
        """The number that was put LAG steps before."""
        value, arrived = self._here.popleft()
        if arrived is not None:
            arrived.synchronize()
        return numbers([value], HostRead.LAGGED)[0]

    def _read_state(self, *_: object) -> None:
        values = numbers(list(self.under_way), HostRead.STATE)
        self._here = deque((torch.tensor(value), None) for value in values)
