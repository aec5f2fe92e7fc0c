"""The device that a process computes on."""

import pytest
import torch

from ops_cuda import library
from torch_utils import device as device_module
from torch_utils.device import pick_device, pick_dtype
from torch_utils.ops import native


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [("auto", "3", 3), ("cuda", "1", 1), ("cuda:2", "0", 2), ("auto", None, None)],
)
def test_a_gpu_becomes_the_current_one_of_its_process(
    name: str, rank: str | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
):
    """Else every process would make a context on the first GPU too."""
    done: list[tuple[str, torch.device]] = []
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(("set", device)))
    monkeypatch.setattr(torch, "empty", lambda *_, device: done.append(("touched", device)))
    policies: list[None] = []
    monkeypatch.setattr(device_module, "_set_policy", lambda: policies.append(None))
    device = torch.device("cuda") if expected is None else torch.device("cuda", expected)
    assert pick_device(name) == device
    assert done == [("set", device)] * (expected is not None) + [("touched", device)]
    assert policies == [None]


def test_float32_is_float32_on_a_gpu():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        device_module._set_policy()
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, True)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def test_the_cpu_sets_no_gpu(monkeypatch: pytest.MonkeyPatch):
    def refuse(_device: torch.device) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")


def test_an_operator_runs_under_the_guard_of_its_gpu(monkeypatch: pytest.MonkeyPatch):
    """PyTorch's own guard: it brings the former device back without a context on it."""
    done: list[object] = []

    class Guard:
        def __init__(self, device: torch.device):
            self.device = device

        def __enter__(self) -> None:
            done.append(self.device)

        def __exit__(self, *_: object) -> None:
            done.append("left")

    class Stream:
        cuda_stream = 7

    class Recorder:
        def call(self, name: str, place: library.Place, *_: object) -> None:
            done.append((name, place.device, place.stream))

    class OnGpu:
        device, dtype, is_cuda = torch.device("cuda", 2), torch.float32, True

    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream)
    monkeypatch.setattr(native, "_library", lambda _: Recorder())
    native.call("ls_to_rgb", OnGpu())  # type: ignore[arg-type]
    assert done == [torch.device("cuda", 2), ("ls_to_rgb", 2, 7), "left"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"cpu_name": "AMD EPYC 9R14", "avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),  # of a processor without a name
        ({"cpu_name": "AMD EPYC 7R13", "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_a_processor_multiplies_it_faster(
    found: dict[str, str | bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert pick_dtype("auto", torch.device("cpu")) is expected
