"""The compiled operators as PyTorch sees them: their registration, the way past the dispatcher,
`torch.compile`, forward mode and transforms.

On each implementation, see conftest.py.
"""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.torch_utils.ops.on_images import OPERATORS, TAPS, normal
from torch_utils.ops import bias_act, native, synthesis_epilogue, to_rgb, upfirdn2d


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck's own
@pytest.mark.parametrize("name", ["bias_act", "epilogue", "to_rgb", "up 2"])
def test_the_registration_is_complete(name: str):
    """torch.library.opcheck: schema, fake tensors, autograd."""
    x = normal(2, 16, 6, 8).float().requires_grad_()
    if not native.is_compiled(x):
        assert not native.is_compiled(x.detach())
        return
    arguments = {
        "bias_act": (torch.ops.lafite.bias_act, (x, torch.ones(16), "leaky_relu", 1.4, None)),
        "epilogue": (
            torch.ops.lafite.synthesis_epilogue,
            (
                x,
                torch.ones(2, 16),
                torch.ones(2, 1, 6, 8),
                torch.ones(()),
                torch.ones(16),
                torch.full((2, 16), 0.5).requires_grad_(),
                1.4,
                None,
            ),
        ),
        "to_rgb": (
            torch.ops.lafite.to_rgb,
            (x, torch.ones(2, 3, 16).requires_grad_(), torch.ones(3).requires_grad_()),
        ),
        "up 2": (
            torch.ops.lafite.upfirdn2d,
            (x, None, list(TAPS), [2, 2], [1, 1], [2, 2], [12, 16]),
        ),
    }
    operator, given = arguments[name]
    result = torch.library.opcheck(operator.default, given)
    assert set(result.values()) == {"SUCCESS"}


# --- the way past PyTorch's dispatcher


def chosen(*arguments: object) -> str:
    """Which of the two native.run takes."""
    return native.run(lambda *_: "operator", lambda *_: "kernel", *arguments)


def test_ordinary_tensors_without_a_gradient_pass_the_dispatcher_by():
    x = torch.ones(2, 3)
    assert chosen(x, None, 2.0, [1, 2]) == "kernel"
    weight = torch.nn.Parameter(x)
    assert chosen(x, weight) == "operator"
    with torch.no_grad():
        assert chosen(x, weight) == "kernel"
    assert chosen(x, weight.requires_grad_(False)) == "kernel"


class Watch(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[override]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_whoever_looks_on_sees_the_operators():
    x = torch.ones(2, 3)
    with FakeTensorMode() as mode:
        assert chosen(x) == "operator"
    assert chosen(x, mode.from_tensor(x)) == "operator"
    with Watch():
        assert chosen(x) == "operator"
    assert torch.func.vmap(lambda row: torch.zeros(()) + (chosen(row) == "operator"))(x).all()
    assert torch.func.vmap(lambda row: row.sum() * 0 + (chosen(x) == "operator"))(x).all()
    with torch.autograd.forward_ad.dual_level():
        assert chosen(x) == "operator"
    assert chosen(x, torch._neg_view(x)) == "operator"
    assert chosen(torch.empty(2, device="meta")) == "operator"


def test_the_operators_are_what_is_seen():
    x = normal(2, 16, 6, 8).float()
    if not native.is_compiled(x):
        return
    weight, bias = normal(2, 3, 16, seed=1).float(), torch.ones(3)
    with torch.no_grad(), Watch() as watch:
        for run in OPERATORS.values():
            run(x)
        to_rgb(x, weight, bias)
    names = {name for name in watch.seen if name.startswith("lafite")}
    assert names == {
        f"lafite.{name}.default"
        for name in ("bias_act", "synthesis_epilogue", "to_rgb", "upfirdn2d")
    }
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert to_rgb(x, weight, bias).shape == (2, 3, 6, 8)


@pytest.mark.parametrize("name", OPERATORS)
def test_both_ways_give_the_same_bits(name: str):
    x = normal(2, 16, 6, 8).float()
    with torch.no_grad():
        direct = OPERATORS[name](x)
        with Watch():
            assert OPERATORS[name](x).equal(direct)


def test_torch_compile_takes_the_operators():
    x = normal(2, 16, 6, 8).float()
    bias = torch.ones(16)

    def chain(x: Tensor) -> Tensor:
        y = bias_act(x, bias, activation="leaky_relu")
        return upfirdn2d(y, TAPS, up=2, padding=(2, 1)) * 2

    compiled = torch.compile(chain, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), chain(x))


FORWARD = {
    "bias_act": lambda x: bias_act(x, torch.ones(4, dtype=x.dtype), activation="leaky_relu"),
    "synthesis_epilogue": lambda x: synthesis_epilogue(x, *sides_of(x)),
    "to_rgb": lambda x: to_rgb(x, torch.ones(2, 3, 4, dtype=x.dtype), torch.ones(3).to(x)),
}


def sides_of(x: Tensor) -> list[Tensor]:
    n, channels, height, width = x.shape
    shapes = [(n, channels), (n, 1, height, width), (), (channels,)]
    return [torch.full(shape, 0.7, dtype=x.dtype) for shape in shapes]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_and_transforms_are_right(name: str):
    """The compiled operators know neither: the reference takes them."""
    run = FORWARD[name]
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    _, tangent = torch.func.jvp(run, (x,), (v,))
    step = 1e-6
    expected = (run(x + step * v) - run(x - step * v)) / (2 * step)
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)
    gradient = torch.func.grad(lambda y: run(y).square().sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(run(leaf).square().sum(), leaf)[0])
