"""Cases of each function of the kernels' C interface: shapes, layouts, dtypes, the reference."""

import ctypes
import functools
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ops_cuda import library
from ops_cuda.library import Activation, EpilogueShape, Upfirdn2dShape
from tests.emulation import DTYPES, Case
from torch_utils.ops import SynthesisTail, bias_act, synthesis_epilogue, to_rgb, upfirdn2d
from torch_utils.ops.bias_act import DEFAULT_GAIN
from torch_utils.ops.philox import philox
from torch_utils.ops.upfirdn2d import native_filter


def normal(*shape: int, dtype: torch.dtype, last: bool = False, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if last and x.ndim == 4 else x


def side(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def slope(y: Tensor) -> Tensor:
    """Derivative of 1.5 * leaky ReLU where its output is y, float64."""
    return torch.where(y > 0, 1.5, 1.5 * 0.2 * torch.ones((), dtype=torch.float64))


def bias_act_cases(dtype: torch.dtype) -> Iterator[Case]:
    shapes = [((2, 3, 4, 8), False), ((2, 3, 3, 5), False), ((2, 16, 3, 5), True)]
    shapes += [((2, 3, 4, 5), True), ((9, 16), False), ((1, 1, 1, 1), False)]
    shapes += [((2, 16, 24, 24), True)]  # several blocks
    for (shape, last), with_bias, shift in itertools.product(shapes, (True, False), (0, 1)):
        x = normal(*shape, dtype=dtype, last=last)
        bias = normal(shape[1], dtype=side(dtype), seed=1) if with_bias else None
        is_last = last or x.ndim == 2
        inner = 1 if is_last else shape[2] * shape[3]
        outer = x.numel() // (shape[1] * inner)
        for kind, clamp in (("leaky_relu", None), ("linear", 0.5)):
            function = Activation(library.ACTIVATIONS[kind], 1.5, -1.0 if clamp is None else clamp)

            def reference(to: torch.dtype, x=x, bias=bias, kind=kind, clamp=clamp) -> list[Tensor]:
                return [bias_act(x.to(to), bias, activation=kind, gain=1.5, clamp=clamp)]

            name = f"bias_act {kind} {shape} last={last} bias={with_bias} shift={shift} {dtype}"
            arguments = [outer, shape[1], inner, function]
            yield Case(
                name, "ls_bias_act", dtype, [x, bias], [x], arguments, reference, shift=shift
            )


def bias_act_grad_cases(dtype: torch.dtype) -> Iterator[Case]:
    for count, shift in itertools.product((1, 15, 4099), (0, 1)):
        dy = normal(count, dtype=dtype)
        y = normal(count, dtype=dtype, seed=1)
        function = Activation(1, 1.5, 0.75)

        def reference(to: torch.dtype, dy=dy, y=y) -> list[Tensor]:
            return [dy.to(to) * (slope(y) * (y.abs() < 0.75)).to(to)]

        name = f"bias_act_grad {count} shift={shift} {dtype}"
        arguments = [count, function]
        yield Case(
            name, "ls_bias_act_grad", dtype, [dy, y], [dy], arguments, reference, shift=shift
        )


def epilogue_cases(dtype: torch.dtype) -> Iterator[Case]:
    shapes = [((2, 3, 4, 8), False), ((2, 3, 3, 5), False), ((2, 16, 3, 5), True)]
    shapes += [((2, 3, 4, 5), True), ((1, 40, 9, 9), True), ((2, 2, 24, 64), False)]
    shapes += [((1, 32, 9, 7), True), ((1, 264, 3, 5), True)]  # few columns; more than one group
    for (shape, last), shared in itertools.product(shapes, (False, True)):
        n, channels, height, width = shape
        x = normal(*shape, dtype=dtype, last=last)
        kind = side(dtype)
        demodulation = normal(n, channels, dtype=kind, seed=1)
        noise = normal(1 if shared else n, 1, height, width, dtype=kind, seed=2)
        strength = torch.tensor(0.3, dtype=kind)
        bias = normal(channels, dtype=kind, seed=3)
        layout = library.LAYOUTS["channels_last" if last else "contiguous"]
        size = EpilogueShape(n, channels, height * width, len(noise), layout)
        function = Activation(1, 1.5, -1.0)
        sides = [demodulation, noise, strength, bias]

        def forward(to: torch.dtype, x=x, sides=sides, after=None, clamp=None) -> list[Tensor]:
            return [synthesis_epilogue(x.to(to), *sides, gain=1.5, clamp=clamp, after=after)]

        name = f"{shape} last={last} shared={shared} {dtype}"
        scale = normal(n, channels, dtype=kind, seed=5)
        for after, clamp in ((None, None), (scale, None), (scale, 0.75)):
            clamped = Activation(1, 1.5, -1.0 if clamp is None else clamp)
            yield Case(
                f"synthesis_epilogue {name} after={after is not None} clamp={clamp}",
                *("ls_synthesis_epilogue", dtype, [x, *sides, after], [x], [size, clamped]),
                functools.partial(forward, after=after, clamp=clamp),
            )
        y = forward(torch.float64)[0].to(dtype)
        y = y.contiguous(memory_format=torch.channels_last) if last else y
        dy = normal(*shape, dtype=dtype, last=last, seed=4)
        for parts in (1, 3):

            def backward(to: torch.dtype, dy=dy, y=y, x=x, d=demodulation, z=noise, parts=parts):
                g = dy.to(to) * slope(y).to(to)
                dx = g * d.to(to)[:, :, None, None]
                terms = (g * x.to(to), g, g * z.to(to))
                flat = torch.stack([t.to(side(to)).flatten(2) for t in terms])  # [3, N, C, P]
                chunk = -(-flat.shape[-1] // parts)
                pieces = flat.split(chunk, dim=3)
                sums = [piece.sum(dim=3) for piece in pieces]
                sums += [torch.zeros_like(sums[0])] * (parts - len(sums))
                return [dx, torch.stack(sums, dim=2)]

            sums = torch.empty(3, n, parts, channels, dtype=kind)
            yield Case(
                f"synthesis_epilogue_grad {name} parts={parts}",
                *("ls_synthesis_epilogue_grad", dtype, [dy, y, x, demodulation, noise]),
                *([x, sums], [parts, size, function], backward),
            )


def tail_cases(dtype: torch.dtype) -> Iterator[Case]:
    """`filtered` and `rgb`, then what may be left out: after, the lower image."""
    kinds = [(True, False, True, False), (True, True, True, True), (False, False, True, False)]
    kinds += [(False, True, True, True), (False, True, False, True), (False, True, True, False)]
    shapes = [(2, 16, 6, 4), (2, 3, 4, 6), (1, 40, 8, 8), (1, 264, 2, 4), (1, 8, 24, 26)]
    for shape, (filtered, with_rgb, with_after, with_lower) in itertools.product(shapes, kinds):
        n, channels, height, width = shape
        kind = side(dtype)
        x = normal(n, channels, height + filtered, width + filtered, dtype=dtype, last=True)
        sides = [
            normal(n, channels, dtype=kind, seed=1),
            normal(1 if with_lower else n, 1, height, width, dtype=kind, seed=2),
            torch.tensor(0.3, dtype=kind),
            normal(channels, dtype=kind, seed=3),
        ]
        after = normal(n, channels, dtype=kind, seed=4) if with_after else None
        rgb: list[Tensor | None] = [None, None]
        if with_rgb:
            rgb = [normal(n, 3, channels, dtype=kind, seed=5), normal(3, dtype=kind, seed=6)]
        lower = None
        if with_lower:
            lower = normal(n, 3, height // 2, width // 2, dtype=kind, seed=7)
        clamp = 0.75 if filtered else None
        own = torch.empty(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        image = torch.empty(n, 3, height, width, dtype=kind)
        outputs = [*([own] if with_after else []), *([image] if with_rgb else [])]

        def reference(
            to: torch.dtype,
            *,
            x=x,
            sides=sides,
            after=after,
            rgb=rgb,
            lower=lower,
            clamp=clamp,
            filtered=filtered,
        ) -> list[Tensor]:
            options = {"filtered": filtered, "clamp": clamp, "after": after, "dtype": to}
            tail = SynthesisTail(*sides, rgb=None if rgb[0] is None else tuple(rgb), **options)
            made = tail(x.to(to), lower)
            return [y for y in made if y is not None]

        last, plain = library.LAYOUTS["channels_last"], library.LAYOUTS["contiguous"]
        taps = native_filter(tuple(x.shape), shape, layout=last, up=1, padding=1)
        half = (n, 3, height // 2, width // 2)
        up = native_filter(half, tuple(image.shape), layout=plain, up=2, padding=2)
        size = EpilogueShape(n, channels, height * width, len(sides[1]), last)
        function = Activation(1, DEFAULT_GAIN["leaky_relu"], -1.0 if clamp is None else clamp)
        inputs = [x, *sides, after, *rgb, lower, None, None, None]
        first = len(inputs)  # of the outputs; the last three inputs stand for what is not there
        places = iter(range(first, first + len(outputs)))
        order = [*range(9), next(places) if with_after else 9, 10, next(places, 11)]
        yield Case(
            f"synthesis_tail {shape} filtered={filtered} rgb={with_rgb} after={with_after} "
            f"lower={with_lower} {dtype}",
            *("ls_synthesis_tail", dtype, inputs, outputs),
            [taps if filtered else None, up if with_lower else None, size, function],
            reference,
            order=order,
        )


def to_rgb_cases(dtype: torch.dtype) -> Iterator[Case]:
    shapes = [((2, 3, 4, 8), False), ((2, 3, 3, 5), False), ((2, 16, 6, 4), True)]
    shapes += [((2, 3, 4, 5), True), ((2, 16, 3, 5), True), ((1, 2, 48, 64), False)]
    shapes += [((1, 16, 40, 40), True)]  # several blocks
    for (shape, last), shift in itertools.product(shapes, (0, 1)):
        n, channels, height, width = shape
        x = normal(*shape, dtype=dtype, last=last)
        weight = normal(n, 3, channels, dtype=side(dtype), seed=1)
        bias = normal(3, dtype=side(dtype), seed=2)

        def reference(to: torch.dtype, x=x, weight=weight, bias=bias) -> list[Tensor]:
            return [to_rgb(x.to(to), weight, bias)]

        out = torch.empty(n, 3, height, width, dtype=side(dtype))
        layout = library.LAYOUTS["channels_last" if last else "contiguous"]
        name = f"to_rgb {shape} last={last} shift={shift} {dtype}"
        arguments = [n, channels, height * width, layout]
        inputs: list[Tensor | None] = [x, weight, bias]
        yield Case(name, "ls_to_rgb", dtype, inputs, [out], arguments, reference, shift=shift)


def philox_cases(dtype: torch.dtype) -> Iterator[Case]:
    if dtype != torch.float32:
        return
    key = 0x9E3779B97F4A7C15
    for n, count, distribution in itertools.product(
        (1, 3), (1, 4, 7, 300, 1040), ("uniform", "normal")
    ):
        indices = torch.tensor([5, -1, 2**40 + 3])[:n]

        def reference(
            to: torch.dtype, indices=indices, count=count, distribution=distribution
        ) -> list[Tensor]:
            if distribution == "normal" and to == torch.float64:
                return [exact_normal(indices, count, key)]
            return [philox(indices, count, key=key, distribution=distribution)]

        yield Case(
            f"philox {n} x {count} {distribution}",
            *("ls_philox", dtype, [indices], [torch.empty(n, count)]),
            [n, count, key, library.DISTRIBUTIONS[distribution]],
            reference,
        )


def exact_normal(indices: Tensor, count: int, key: int) -> Tensor:
    """Box and Muller in float64, of numbers that are float32 before."""
    bits = philox(indices, count + -count % 4, key=key, distribution="bits").long()
    x, y = bits[:, 0::2] % 2**32, bits[:, 1::2]
    radius = (-2 * ((x.float() + 0.5) * 2.0**-32).double().log()).sqrt()
    angle = y.float().double() * (math.pi * 2.0**-31)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2)
    return pairs.flatten(1)[:, :count].contiguous()


FILTERS = (  # up, down, taps, (before, after)
    *((1, 1, 4, (1, 1)), (2, 1, 4, (2, 1)), (1, 2, 4, (1, 1))),  # the fast paths
    *((1, 1, 4, (-1, 3)), (2, 1, 4, (-1, 2)), (1, 2, 4, (3, -2))),
    *((3, 2, 5, (4, -2)), (2, 2, 3, (1, 1)), (1, 1, 1, (0, 0))),
)


def upfirdn2d_cases(dtype: torch.dtype) -> Iterator[Case]:
    shapes = [((2, 3, 8, 16), False), ((1, 2, 7, 9), False), ((2, 16, 6, 5), True)]
    shapes += [((2, 3, 6, 5), True), ((1, 2, 40, 144), False)]
    for (shape, last), (up, down, num_taps, padding) in itertools.product(shapes, FILTERS):
        taps = [0.5, -1.0, 2.0, 0.25, 0.7][:num_taps]  # asymmetric: [1, 3, 3, 1] hides a flip
        x = normal(*shape, dtype=dtype, last=last)
        add_needed = (up, down) != (1, 2)

        def reference(
            to: torch.dtype, x=x, taps=taps, up=up, down=down, padding=padding, add=None
        ) -> list[Tensor]:
            y = upfirdn2d(x.to(to), taps, up=up, down=down, padding=padding)
            return [y if add is None else y + add.to(to)]

        y = reference(torch.float64)[0]
        add = normal(*y.shape, dtype=dtype, last=last, seed=1) if add_needed else None
        out = torch.empty(y.shape, dtype=dtype)
        out = out.contiguous(memory_format=torch.channels_last) if last else out
        padded = (ctypes.c_double * library.MAX_TAPS)(*taps[::-1])
        layout = library.LAYOUTS["channels_last" if last else "contiguous"]
        size = Upfirdn2dShape(
            *(*shape, *y.shape[2:], layout, up, up, down, down, padding[0], padding[0]),
            *(num_taps, num_taps, padded, padded),
        )

        def expected(to: torch.dtype, make=reference, add=add, last=last) -> list[Tensor]:
            y = make(to, add=add)[0]
            return [y.contiguous(memory_format=torch.channels_last) if last else y.contiguous()]

        name = (
            f"upfirdn2d {shape} last={last} up={up} down={down} taps={num_taps} {padding} {dtype}"
        )
        yield Case(name, "ls_upfirdn2d", dtype, [x, add], [out], [ctypes.byref(size)], expected)


CASES = {
    "bias_act": bias_act_cases,
    "bias_act_grad": bias_act_grad_cases,
    "synthesis_epilogue": epilogue_cases,
    "synthesis_tail": tail_cases,
    "philox": philox_cases,
    "to_rgb": to_rgb_cases,
    "upfirdn2d": upfirdn2d_cases,
}


def all_cases() -> Iterator[Case]:
    for make, dtype in itertools.product(CASES.values(), DTYPES):
        yield from make(dtype)
