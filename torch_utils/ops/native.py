"""Which implementation of the operators runs: the compiled library of a device, or the reference.

One choice a process, made at its start (`--ops`): `auto` takes the compiled operators where they
can be built, `compiled` insists on them, `reference` is pure PyTorch. Built on first use.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ops_cuda import build, targets
from ops_cuda.library import DTYPES, Library, Place

Mode = Literal["auto", "compiled", "reference"]


class OperatorsMissingError(RuntimeError):
    """`compiled` was asked for and cannot be had; the message says why."""


@dataclass
class _Choice:
    mode: Mode = "auto"
    libraries: dict[torch.device, Library | None] = field(default_factory=dict)
    reasons: dict[torch.device, str] = field(default_factory=dict)  # why a device has none


_choice = _Choice()
_HOST = Place(0, None)
_DTYPES = {getattr(torch, name): number for name, number in DTYPES.items()}
# Who of PyTorch looks on: at a tensor, and at every call of the thread. There is no public way to
# ask; a PyTorch without this one always takes its dispatcher.
_tensor_keys = getattr(torch._C, "_dispatch_keys", lambda _: None)
_thread_keys = getattr(torch._C, "_dispatch_tls_local_include_set", lambda: None)
# of ordinary tensors, by device; a GPU's when its library is probed
_PLAIN_TENSORS = {"cpu": _tensor_keys(torch.empty(0, device="cpu"))}
_PLAIN_THREAD = _thread_keys()
_functorch = getattr(torch._C, "_functorch", None)
_transforms = getattr(_functorch, "peek_interpreter_stack", lambda: None)


def choose(mode: Mode) -> None:
    """Set the process's choice."""
    _choice.mode = mode


def mode() -> Mode:
    """The process's choice."""
    return _choice.mode


def status(device: torch.device) -> str:
    """What runs on this device, in words: "compiled (PATH)" or "reference (REASON)". Builds the
    library where there is none yet; OperatorsMissingError where `compiled` was asked for in vain.
    """
    found = _library(device)
    if found is not None:
        return f"compiled ({found.path})"
    return f"reference ({_choice.reasons.get(device, 'as asked for')})"


def is_compiled(x: Tensor) -> bool:
    """Whether `x` goes through the compiled operators. Forward-mode derivatives and torch.func's
    transforms, which those do not know, are taken of the reference.
    """
    if _choice.mode == "reference" or x.dtype not in _DTYPES or _is_transformed():
        return False
    return _library(x.device) is not None


def _is_transformed() -> bool:
    if torch.compiler.is_compiling():
        return False
    return _has_tangents() or _transforms() is not None


def _has_tangents() -> bool:
    return getattr(forward_ad, "_current_level", -1) >= 0


def run(operator: Callable[..., Any], kernel: Callable[..., Any], *arguments: object) -> Any:
    """kernel(*arguments), the implementation of `operator`, where PyTorch's dispatcher would
    come to it with nothing else to do; else operator(*arguments). The dispatcher costs a small
    tensor more than the kernel, several times so after a convolution, when the caches are cold.
    """
    return kernel(*arguments) if is_plain(arguments) else operator(*arguments)


def is_plain(arguments: tuple[object, ...]) -> bool:
    """Whether these are ordinary tensors, no gradient is recorded and nothing traces, transforms or
    intercepts calls.
    """
    if torch.compiler.is_compiling() or _PLAIN_TENSORS["cpu"] is None or _PLAIN_THREAD is None:
        return False
    return _thread_keys() == _PLAIN_THREAD and are_plain(arguments)


def are_plain(arguments: tuple[object, ...]) -> bool:
    """is_plain without a look at the thread, which costs more."""
    if _has_tangents():
        return False
    recording, plain = torch.is_grad_enabled(), _PLAIN_TENSORS.values()
    for value in arguments:
        if isinstance(value, Tensor) and (
            (recording and value.requires_grad) or _tensor_keys(value) not in plain
        ):
            return False
    return True


def has(name: str, x: Tensor) -> bool:
    """Whether the library of x's device has the function `name`."""
    library = _library(x.device)
    return library is not None and library.has(name)


def call(name: str, x: Tensor, *arguments: object) -> None:
    """Call a function of the library of x's device, with the place and the dtype of `x` before the
    other arguments.
    """
    library = _library(x.device)
    if library is None:
        raise OperatorsMissingError(f"the compiled operators are not there for {x.device}")
    if not x.is_cuda:
        library.call(name, _HOST, _DTYPES[x.dtype], *arguments)
        return
    with torch.cuda.device(x.device):  # PyTorch's own guard makes no context where there is none
        place = Place(x.device.index or 0, torch.cuda.current_stream(x.device).cuda_stream)
        library.call(name, place, _DTYPES[x.dtype], *arguments)


def _library(device: torch.device) -> Library | None:
    if _choice.mode == "reference":
        return None
    if device not in _choice.libraries:
        _choice.libraries[device] = _build(device)
    found = _choice.libraries[device]
    if found is None and _choice.mode == "compiled" and device.type != "meta":
        raise OperatorsMissingError(
            f"the compiled operators are not there for {device}: {_choice.reasons.get(device)}"
        )
    return found


def _build(device: torch.device) -> Library | None:
    try:
        if device.type == "cpu":
            target = targets.cpu_target()
        elif device.type == "cuda":
            target = targets.cuda_target(torch.cuda.get_device_capability(device))
        else:
            _choice.reasons[device] = f"there are none for {device.type}"
            return None
        library = Library.of(target)
        if device.type == "cuda":
            _probe(library, device)
        return library
    except (*build.ERRORS, OSError, RuntimeError) as error:
        _choice.reasons[device] = str(error)
        return None


def _probe(library: Library, device: torch.device) -> None:
    """One launch whose result is known: RuntimeError where the GPU cannot run the machine code."""
    from ops_cuda.library import ACTIVATIONS, Activation

    with torch.inference_mode(False):
        x, y = torch.full((1, 1, 4), 3.0, device=device), torch.zeros(1, 1, 4, device=device)
    shape = (x.data_ptr(), None, y.data_ptr(), 1, 1, 4)
    twice = Activation(ACTIVATIONS["linear"], 2.0, -1.0)
    with torch.cuda.device(device):
        place = Place(device.index or 0, torch.cuda.current_stream(device).cuda_stream)
        library.call("ls_bias_act", place, DTYPES["float32"], *shape, twice)
    if y.flatten().tolist() != [6.0] * 4:
        raise RuntimeError("a probe of the CUDA operators gave a wrong result")
    _PLAIN_TENSORS[device.type] = _tensor_keys(x)
