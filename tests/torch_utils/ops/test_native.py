"""The compiled operators inside PyTorch: dtypes, layouts, odd tensors, higher derivatives.

On each implementation, see conftest.py.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lafite_shifted.decoder.discriminator import Discriminator, DiscriminatorConfig
from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from tests.operators import using
from torch_utils.ops import bias_act, native, synthesis_epilogue, to_rgb, upfirdn2d
from training.gan.augment.geometry import SYM6

TAPS = (0.5, -1.0, 2.0, 0.25)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((2, 16, 6, 8), (2, 3, 5, 7), (1, 1, 1, 1), (3, 5, 1, 4))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def epilogue(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    sides = [normal(n, channels, seed=1), normal(n, 1, height, width, seed=2)]
    sides += [torch.tensor(0.3), normal(channels, seed=3)]
    return synthesis_epilogue(x, *(side.to(kind) for side in sides))


def activated(x: Tensor) -> Tensor:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return bias_act(x, normal(x.shape[1], seed=1).to(kind), activation="leaky_relu", clamp=1.5)


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "bias_act": activated,
    "epilogue": epilogue,
    "up 2": lambda x: upfirdn2d(x, TAPS, up=2, padding=(2, 1), gain=4.0),
    "down 2": lambda x: upfirdn2d(x, TAPS, down=2, padding=(2, 2)),
    "filter": lambda x: upfirdn2d(x, TAPS, padding=(2, 1)),
    "up 2, 12 taps": lambda x: upfirdn2d(x, SYM6, up=2, padding=(6, 5), gain=4.0),
    "down 2, 12 taps": lambda x: upfirdn2d(x, SYM6, down=2, padding=(11, 10)),
    "any": lambda x: upfirdn2d(x, TAPS[:3], up=3, down=2, padding=(4, -1)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_error_is_at_most_twice_that_of_plain_pytorch(
    name: str, dtype: torch.dtype, layout: torch.memory_format
):
    run = OPERATORS[name]
    for shape in SHAPES:
        x = normal(*shape).to(dtype).contiguous(memory_format=layout)
        found = run(x)
        with using(None):
            exact, plain = run(x.double()), run(x)
        assert found.dtype == dtype
        unit = torch.finfo(dtype).eps * exact.abs().max().clamp(min=1)
        if dtype == torch.float64:  # its own reference, which adds up in another order
            unit *= 8
        bound = 2 * (plain.double() - exact).abs().max() + unit
        assert (found.double() - exact).abs().max() <= bound, shape


@pytest.mark.parametrize("name", OPERATORS)
def test_channels_last_stays_and_is_read_without_a_copy(name: str):
    x = normal(2, 16, 6, 8).float().contiguous(memory_format=torch.channels_last)
    with torch.profiler.profile() as profile:
        y = OPERATORS[name](x)
    if native.is_compiled(x):
        assert y.is_contiguous(memory_format=torch.channels_last)
        copied = [event for event in profile.key_averages() if event.key == "aten::clone"]
        assert copied == []


@pytest.mark.parametrize("name", OPERATORS)
def test_any_strides_give_the_same(name: str):
    run, x = OPERATORS[name], normal(2, 6, 8, 9).float()
    for odd in (
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([x, x], dim=1)[:, :6],
        torch.stack([x, x], dim=-1)[..., 0],
    ):
        assert not odd.is_contiguous()
        torch.testing.assert_close(run(odd), run(x))


@pytest.mark.parametrize("name", OPERATORS)
def test_empty_batches_pass_with_their_gradient(name: str):
    x = torch.empty(0, 4, 6, 6, requires_grad=True)
    y = OPERATORS[name](x)
    assert y.shape[:2] == (0, 4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(name: str, bad: float):
    x = normal(1, 16, 6, 8).float()
    x[0, 3, 2, 2] = bad
    y = OPERATORS[name](x)
    with using(None):
        expected = OPERATORS[name](x)
    assert (~y.isfinite()).equal(~expected.isfinite())


@pytest.mark.parametrize("name", ["epilogue", "up 2", "down 2", "bias_act"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_first_and_second_derivatives_match_finite_differences(
    name: str, layout: torch.memory_format
):
    x = normal(2, 2, 4, 4).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(OPERATORS[name], (x,))
    assert torch.autograd.gradgradcheck(lambda x: OPERATORS[name](x).square(), (x,))


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


def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator(
        GeneratorConfig(
            resolution=16, condition_dim=8, channel_base=128, channel_max=16, z_dim=8, w_dim=8
        )
    )
    discriminator = Discriminator(
        DiscriminatorConfig(resolution=16, condition_dim=8, channel_base=128, channel_max=16)
    )
    for layer in generator.layers:
        torch.nn.init.constant_(layer.noise_strength, 0.3)
    return generator, discriminator


def assert_close_as_a_whole(found: list[Tensor], expected: list[Tensor]) -> None:
    """Each tensor to 1e-5 of its length, and to float32's precision of the length of all: a noise
    strength's gradient is one number, the sum of terms that cancel.
    """
    whole = float(torch.stack([other.detach().norm() for other in expected]).norm())
    for one, other in zip(found, expected, strict=True):
        one, other = one.detach(), other.detach()
        precision = torch.finfo(torch.float32).eps * whole
        assert float((one - other).norm()) <= 1e-5 * float(other.norm()) + precision


def test_networks_and_their_r1_gradient_match_the_reference():
    """The case the operators exist for: parameters' gradients of a squared input gradient."""
    generator, discriminator = networks()
    z, condition = normal(4, 8).float(), normal(4, 8, seed=1).float()

    def run() -> list[Tensor]:
        images = generator(z, condition)
        leaf = images.detach().requires_grad_()
        realness, feature = discriminator(leaf)
        logit = realness + (feature * condition).sum(dim=1)
        (slope,) = torch.autograd.grad(logit.sum(), leaf, create_graph=True)
        parameters = list(discriminator.parameters())
        r1 = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
        through = torch.autograd.grad(discriminator(images)[0].sum(), list(generator.parameters()))
        return [images, *(g for g in r1 if g is not None), *through]

    found = run()
    with using(None):
        expected = run()
    assert_close_as_a_whole(found, expected)


def test_path_length_gradient_matches_the_reference():
    """G is differentiated twice by path-length regularisation."""
    generator, _ = networks()
    w = generator.mapping(normal(2, 8).float()).detach().requires_grad_()
    condition, noise = normal(2, 8, seed=1).float(), normal(2, 3, 16, 16, seed=2).float()

    def run() -> list[Tensor]:
        images = generator.synthesise(w, condition)
        (slope,) = torch.autograd.grad((images * noise).sum(), w, create_graph=True)
        parameters = [p for n, p in generator.named_parameters() if "mapping" not in n]
        grads = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
        return [g for g in grads if g is not None]

    found = run()
    with using(None):
        expected = run()
    assert len(found) > 10
    assert_close_as_a_whole(found, expected)


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
