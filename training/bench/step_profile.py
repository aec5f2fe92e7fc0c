"""Where the time of a training step goes, by operation as PyTorch dispatches it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lafite_shifted.encoders.clip import ClipEncoder
from torch_utils.ema import Ema
from training.bench.ops import seconds_of
from training.gan import step
from training.gan.features.backbone import Backbone
from training.gan.step import GanSteps
from training.gan.trainer import GanTrainer

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
Call = tuple[Any, ...]  # a convolution, its tensors described by what another can be made of
# whole calls with all that they differentiate, then functions of images, whose gradient comes later
_WHOLE = (
    *((GanTrainer, "sample_batch", "data"), (GanTrainer, "_apply", "optimizer")),
    *((Ema, "update", "optimizer"), (GanSteps, "_path_lengths", "regularisation")),
    (GanSteps, "_regularise", "regularisation"),
)
_OF_IMAGES = (
    *((step, "augment", "augmentation"), (ClipEncoder, "embed_images", "CLIP and features")),
    (Backbone, "forward", "CLIP and features"),
)


class StepProfile(TorchDispatchMode):
    """Seconds of the operations that run under it, by part of a step: `data`, `regularisation` and
    so on; what belongs to none is of the two networks, `convolutions`, `operators` (the native
    ones) or `other operations`. Counts the convolutions, wherever they are.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.convolutions: Counter[Call] = Counter()
        self._part: str | None = None
        self._fixed = False  # inside a whole call

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """func(*args), timed."""
        results = []
        seconds = seconds_of(lambda: results.append(func(*args, **(kwargs or {}))), self.device)
        self.seconds[self._part or _kind(func)] += seconds
        if func in CONVOLUTIONS:
            self.convolutions[(func, *map(_described, args))] += 1
        return results[0]

    @contextmanager
    def parts(self) -> Iterator["StepProfile"]:
        """Under it, with the parts of a GAN's step told apart."""
        with ExitStack() as stack:
            for owner, name, part in _WHOLE:
                stack.enter_context(_replaced(owner, name, self._whole(part)))
            for owner, name, part in _OF_IMAGES:
                stack.enter_context(_replaced(owner, name, self._of_images(part)))
            yield stack.enter_context(self)

    def _whole(self, part: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                before = self._part, self._fixed
                self._part, self._fixed = part, True
                try:
                    return function(*args, **kwargs)
                finally:
                    self._part, self._fixed = before

            return run

        return wrap

    def _of_images(self, part: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """The gradient comes by nodes of its own, between one of the results and one of the
        images: autograd's engine takes those last recorded first.
        """

        def move(before: str | None, after: str | None) -> Callable[[Tensor], None]:
            def hook(_gradient: Tensor) -> None:
                if not self._fixed and self._part in (before, after):
                    self._part = after

            return hook

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                args = tuple(x.view_as(x) if isinstance(x, Tensor) else x for x in args)
                for x in args:
                    if isinstance(x, Tensor) and x.requires_grad:
                        x.register_hook(move(part, None))
                before = self._part
                self._part = before if self._fixed else part
                result = function(*args, **kwargs)
                self._part = before
                for y in result if isinstance(result, (list, tuple)) else [result]:
                    if y.requires_grad:
                        y.register_hook(move(None, part))
                return result

            return run

        return wrap


def _kind(func: Any) -> str:
    if func in CONVOLUTIONS:
        return "convolutions"
    return "operators" if func.namespace == "lafite" else "other operations"


@contextmanager
def _replaced(owner: Any, name: str, wrap: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, wrap(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.Tensor, tuple(value.shape), value.stride(), value.dtype
    return tuple(value) if isinstance(value, list) else value


def convolution_of(call: Call, device: torch.device) -> Callable[[], object]:
    """The convolution, or the gradient of one, on tensors of its own."""
    func, *described = call

    def made(value: Any) -> Any:
        if not (isinstance(value, tuple) and value[:1] == (torch.Tensor,)):
            return list(value) if isinstance(value, tuple) else value
        _, shape, stride, dtype = value
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).normal_()

    args = [made(value) for value in described]
    return lambda: func(*args)
