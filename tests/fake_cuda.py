"""A GPU that computes nothing: tensors of PyTorch's fake mode say that they are on one. Operations
that mix devices raise, and so do those that wait for a number of the GPU (`float`, `bool`,
`nonzero`, ...).
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Everything made inside is fake; what came before, such as data on the CPU, may take part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        patch.setattr(torch.Tensor, "backward", _backward)
        patch.setattr(torch.autograd, "grad", _grad)
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


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


def _grad(result: Tensor, leaf: Tensor, create_graph: bool = False) -> tuple[Tensor]:
    return (torch.zeros_like(leaf) + result.sum(),)


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
