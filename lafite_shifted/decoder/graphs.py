"""A function of tensors as CUDA graphs, one for each shape of its inputs: a small batch's kernels
take less time than launching them one by one.

A graph reads and writes the same memory whenever it is replayed. So inputs are copied into static
buffers, the result is copied out of one, and a lock lets one thread at a time do so.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WARM_UP = 3  # calls before a capture: libraries choose algorithms, kernels are loaded
MOST = 8  # graphs, each with memory of its own; the oldest goes

Run = Callable[..., Tensor]
# (a call without inputs, its device) -> what replays it, and the tensor that each replay writes
Capture = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], None], Tensor]]


def capture_on_cuda(
    call: Callable[[], Tensor], device: torch.device
) -> tuple[Callable[[], None], Tensor]:
    """Capture, after calls that warm up on a stream of their own."""
    with torch.cuda.device(device):  # of the model, whatever the thread's current one is
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may allocate meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = call()
    return graph.replay, result


@dataclass(frozen=True)
class _Captured:
    replay: Callable[[], None]
    inputs: Sequence[Tensor]
    result: Tensor
    state: tuple[tuple[int, int], ...]  # of what it reads beside the inputs


class Graphed:
    """`run`, a function of tensors alone, by graphs. It is captured again where a tensor of
    `reads()`, all that it reads beside its inputs, lies elsewhere or has changed since.
    """

    def __init__(
        self,
        run: Run,
        reads: Callable[[], Sequence[Tensor]],
        *,
        capture: Capture = capture_on_cuda,
    ):
        self._run, self._reads, self._capture = run, reads, capture
        self._graphs: dict[tuple, _Captured] = {}
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """run(*inputs), without gradients; threads may call it, all on one stream."""
        key = tuple((x.shape, x.dtype, x.device) for x in inputs)
        state = tuple((x.data_ptr(), x._version) for x in self._reads())
        with self._lock:
            found = self._graphs.get(key)
            if found is None or found.state != state:
                found = self._captured(inputs, state)
                self._graphs.pop(key, None)
                self._graphs[key] = found
                if len(self._graphs) > MOST:
                    del self._graphs[next(iter(self._graphs))]
            for static, given in zip(found.inputs, inputs, strict=True):
                static.copy_(given)
            found.replay()
            return found.result.clone()

    def _captured(self, inputs: Sequence[Tensor], state: tuple) -> _Captured:
        static = [x.detach().clone(memory_format=torch.contiguous_format) for x in inputs]
        replay, result = self._capture(lambda: self._run(*static), static[0].device)
        return _Captured(replay, static, result, state)
