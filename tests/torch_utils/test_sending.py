"""Several tensors as one message."""

import pytest
import torch

from torch_utils import sending


def test_tensors_of_every_dtype_arrive_in_one_buffer(monkeypatch: pytest.MonkeyPatch):
    """The way to a GPU, with the CPU in its place."""
    tensors = {
        "bool": torch.tensor([True, False, True]),
        "uint8": torch.arange(7, dtype=torch.uint8).view(7, 1),
        "int64": torch.tensor([2**40, -3]),
        "empty": torch.empty(0, 3),
        "float32": torch.randn(2, 3).T,
        "scalar": torch.tensor(4.5, dtype=torch.float64),
    }
    empty, pinned = torch.empty, []

    def plain(*size: int, pin_memory: bool = False, **options):
        pinned.append(pin_memory)
        return empty(*size, **options)

    class There:
        type = "cuda"

    class Buffer(torch.Tensor):
        def to(self, device, *, non_blocking: bool):
            assert isinstance(device, There)
            assert non_blocking
            return self.clone()

    monkeypatch.setattr(torch, "empty", lambda *s, **o: plain(*s, **o).as_subclass(Buffer))
    found = sending.send(tensors, There())  # type: ignore[arg-type]
    assert pinned == [True]
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].as_subclass(torch.Tensor), tensor), name


def test_on_the_cpu_nothing_is_copied():
    x = torch.ones(3)
    assert sending.send({"x": x}, torch.device("cpu"))["x"] is x
