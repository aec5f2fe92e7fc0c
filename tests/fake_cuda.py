"""A GPU that computes nothing: tensors of PyTorch's fake mode say that they are on one. Operations
that mix devices raise, and so do those that wait for a number of the GPU (`float`, `bool`,
`nonzero`, ...). Copies that the host would wait for raise too, inside `no_waiting`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from tests import processes
from torch_utils import host_reads
from torch_utils.host_reads import HostRead

CUDA = torch.device("cuda", 0)


def in_a_process_of_its_own(function: Callable[[], None]) -> None:
    """function(), of a module's top level, must not raise. Graphs of fake tensors may end a process
    that tidies up behind them: this one does not.
    """
    module = function.__module__
    lines = (
        "import os",
        f"from {module} import {function.__name__} as run",
        "run()",
        "os._exit(0)",
    )
    done = processes.run([sys.executable, "-c", "\n".join(lines)], timeout=300)
    assert done.returncode == 0, done.stderr


@contextmanager
def fake_cuda() -> Iterator[None]:
    """What is on the GPU is fake; what is on the CPU is there, and computed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        patch.setattr(torch.Tensor, "backward", _backward)
        patch.setattr(torch.autograd, "grad", _grad)
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch, "empty", _unpinned(torch.empty))
        with FakeTensorMode(allow_non_fake_inputs=True), _RealHost():
            yield


class _RealHost(TorchDispatchMode):
    """Operations on the CPU alone are not faked."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        values = tree_leaves((args, kwargs))
        devices = [v.device if isinstance(v, Tensor) else v for v in values]
        if any(isinstance(d, torch.device) and d.type == "cuda" for d in devices):
            return func(*args, **kwargs)
        with _disable_current_modes():
            return func(*args, **kwargs)


_INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)


class WaitedError(AssertionError):
    """The host would have waited for a GPU."""


class no_waiting(TorchDispatchMode):  # a context manager
    """Copies between host and GPU raise WaitedError unless they are `non_blocking`, and so do
    indices on the host: what `torch.cuda.set_sync_debug_mode("error")` refuses of them. In
    `fake_cuda`, whose own errors tell of the rest.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _INDEXING and args[0].device.type == "cuda":
            here = [i for i in args[1] if i is not None and i.device.type == "cpu"]
            if here:  # it is sent first
                raise WaitedError(f"an index from cpu into {list(args[0].shape)} on a GPU")
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            is_copy = func is torch.ops.aten.copy_.default
            source = args[1] if is_copy else args[0]
            target = args[0].device if is_copy else kwargs.get("device") or source.device
            non_blocking = args[2] if is_copy and len(args) > 2 else kwargs.get("non_blocking")
            if target.type != source.device.type and not non_blocking:
                raise WaitedError(f"{list(source.shape)} from {source.device} to {target}")
        return func(*args, **kwargs)


@contextmanager
def noted_host_reads() -> Iterator[list[HostRead]]:
    """The reasons for which the host reads numbers of a GPU, each of which gives zeros."""
    reasons: list[HostRead] = []

    def on_host(tensor: Tensor, why: HostRead) -> Tensor:
        if tensor.device.type == "cpu":
            return tensor.detach()
        reasons.append(why)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def numbers(scalars: Sequence[Tensor], why: HostRead) -> list[float]:
        reasons.append(why)
        return [0.0] * len(scalars)

    with in_every_module(on_host=on_host, numbers=numbers):
        yield reasons


@contextmanager
def in_every_module(**stand_ins: Callable[..., Any]) -> Iterator[None]:
    """Functions of `torch_utils.host_reads` replaced, wherever they have been imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            own = getattr(host_reads, name)
            for module in list(sys.modules.values()):
                if vars(module).get(name) is own:
                    patch.setattr(module, name, stand_in)
        yield


class _Event:
    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def _unpinned(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Pinned memory is the driver's."""
    return lambda *size, pin_memory=False, **options: empty(*size, **options)


def _backward(loss: Tensor) -> None:
    """Gradients for every leaf; autograd's own engine asks the driver for the GPU."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [before for before, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)


def _grad(
    result: Tensor, leaves: Tensor | Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor, ...]:
    leaves = [leaves] if isinstance(leaves, Tensor) else leaves
    return tuple(torch.zeros_like(leaf) + result.sum() for leaf in leaves)


def _apply(module: nn.Module, convert, recurse: bool = True) -> nn.Module:
    """nn.Module's own would swap tensors in place, which fake ones do not take."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = convert(parameter.detach())
                part._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = convert(buffer)
    return module
