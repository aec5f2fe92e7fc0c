"""Logged scalars, summed where they are computed and read when a line of the log is due."""

from collections.abc import Mapping

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.host_reads import HostRead, on_host

SKIPPED = "skipped"  # the other scalars of such a step, on the same device, are not counted


class LogSums:
    """Sums and counts since the last line: `here`, on the host, and since they were last read on
    the devices.
    """

    def __init__(self, here: dict[str, list[float]] | None = None):
        self.here = here or {}  # sum and count by name: belongs to a checkpoint
        self._there: dict[tuple[str, ...], Tensor] = {}  # [2, V] float64 of names on one device

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Those of one step."""
        for device in dict.fromkeys(value.device for value in values.values()):
            names = tuple(name for name, value in values.items() if value.device == device)
            new = torch.stack([values[name].detach().double() for name in names])
            counts = torch.ones_like(new)
            if SKIPPED in names:
                taken = values[SKIPPED] == 0
                counted = torch.tensor([name == SKIPPED for name in names])
                # a mask made of host numbers: sent once, not waited for
                counted = counted.to(device, non_blocking=True) | taken
                new, counts = torch.where(counted, new, 0.0), counted.double()
            block = torch.stack([new, counts])
            known = self._there.get(names)
            self._there[names] = block if known is None else known.add_(block)

    def read(self) -> dict[str, list[float]]:
        """All of them, averaged over processes, on the host from now on."""
        for names, block in self._there.items():
            parts = distributed.all_gather({"block": on_host(block, HostRead.LOG)})
            mean = torch.stack([part["block"] for part in parts]).mean(dim=0)
            for name, total, count in zip(names, *mean.tolist(), strict=True):
                before = self.here.get(name, [0.0, 0.0])
                self.here[name] = [before[0] + total, before[1] + count]
        self._there = {}
        return self.here

    def means(self) -> dict[str, float]:
        """Means of what was counted since the last call."""
        found = {name: total / count for name, (total, count) in self.read().items() if count}
        self.here = {}
        return found
