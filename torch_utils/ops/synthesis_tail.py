"""All that lies between two convolutions of StyleGAN2's synthesis (arXiv:1912.04958, section 2.2):
the low-pass filter behind an upsampling one, the epilogue, the image of a resolution, the
modulation of what follows.

A chain of the other operators. Where no gradient is recorded, the compiled ones take it in one
pass: on a CPU each step works on what the one before it left in the cache, on a GPU in registers.
Shape letters: N batch, C channels, H W image.
"""

from typing import Any

import torch
from torch import Tensor

from ops_cuda.library import LAYOUTS
from torch_utils.ops import native
from torch_utils.ops.bias_act import DEFAULT_GAIN, native_activation
from torch_utils.ops.layouts import accumulator, is_channels_last, pointers, side_inputs
from torch_utils.ops.synthesis_epilogue import check_sides, native_shape, synthesis_epilogue
from torch_utils.ops.to_rgb import to_rgb
from torch_utils.ops.upfirdn2d import TAPS, native_filter, upfirdn2d, upsample

FUNCTION = "ls_synthesis_tail"


class SynthesisTail:
    """What follows one convolution, prepared before it: a call costs several times as much between
    two convolutions, which leave nothing of its code in the caches. To be called soon: what is done
    to the tensors in between may be overlooked; the operators must stay those that were chosen.

    demodulation, noise, strength and bias are those of synthesis_epilogue; noise is [N or 1, 1, H,
    W]. `filtered`: the convolution upsampled. `rgb`: the weight and bias of to_rgb, where there is
    an image. `after` [N, C]: the scale of the next layer. `dtype`: of the activations. ValueError
    for shapes that do not fit.
    """

    def __init__(
        self,
        demodulation: Tensor,
        noise: Tensor,
        strength: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype,
        filtered: bool = False,
        clamp: float | None = None,
        rgb: tuple[Tensor, Tensor] | None = None,
        after: Tensor | None = None,
    ):
        self.sides = (demodulation, noise, strength, bias)
        self.filtered, self.clamp, self.rgb, self.after = filtered, clamp, rgb, after
        size = noise.shape[2:]
        self.out_shape = (*demodulation.shape, *size)
        self.in_shape = (*demodulation.shape, *(length + filtered for length in size))
        self.lower_shape = (len(demodulation), 3, *(length // 2 for length in size))
        check_sides(self.out_shape, *self.sides, after)
        n, channels = demodulation.shape
        if rgb is not None and (rgb[0].shape != (n, 3, channels) or rgb[1].shape != (3,)):
            told = " and ".join(str(list(side.shape)) for side in rgb)
            raise ValueError(f"weight and bias {told} do not fit {n} of {channels} channels")
        if clamp is not None and not clamp >= 0:
            raise ValueError(f"clamp {clamp} must be at least 0")
        self.dtype = dtype
        self._prepared = None
        self._tensors = (*self.sides, after, *(rgb or ()))
        if native.has(FUNCTION, demodulation) and native.is_plain(self._tensors):
            self._prepared = self._prepare()

    def __call__(self, x: Tensor, lower: Tensor | None = None) -> tuple[Any, Any]:
        """The activations that the next convolution takes, and the image: tensors, or None.

        x is [N, C, H, W], or [N, C, H + 1, W + 1] as a transposed convolution at stride 2 leaves
        it, where it is to be filtered, with gain 4. The image [N, 3, H, W] is that of to_rgb,
        plus `lower` [N, 3, H / 2, W / 2], upsampled. The activations are multiplied by `after`;
        with an image and without `after` no layer follows, and they are None. Twice
        differentiable.
        """
        if lower is not None and self.rgb is None:
            raise ValueError("there is no image to add the lower one to")
        height, width = self.out_shape[2:]
        if lower is not None and (lower.shape != self.lower_shape or height % 2 or width % 2):
            raise ValueError(f"{list(lower.shape)} upsampled is not of the result's shape")
        if (
            self._prepared is not None
            and x.shape == self.in_shape
            and x.device == self.sides[0].device
            and x.dtype == self.dtype
            and is_channels_last(x)
            and native.are_plain((x, lower))
            and not (torch.is_grad_enabled() and not native.are_plain(self._tensors))
        ):
            return self._in_one_pass(x, lower)
        if self.filtered:
            x = upfirdn2d(x, TAPS, padding=(1, 1), gain=4.0)
        if self.rgb is None:
            return synthesis_epilogue(x, *self.sides, clamp=self.clamp, after=self.after), None
        y = synthesis_epilogue(x, *self.sides, clamp=self.clamp)
        image = to_rgb(y, *self.rgb)
        if lower is not None:
            image = upsample(lower.to(image.dtype), add=image)
        if self.after is None:
            return None, image
        return y * self.after.to(y.dtype)[:, :, None, None], image

    def _prepare(self) -> tuple:
        """The arguments of the interface that do not depend on the activations."""
        x = torch.empty(0, dtype=self.dtype, device=self.sides[0].device)
        inputs = side_inputs(x, *self.sides, self.after, *(self.rgb or (None, None)))
        n, channels, height, width = self.out_shape
        last, first = LAYOUTS["channels_last"], LAYOUTS["contiguous"]
        taps = up = None
        if self.filtered:
            taps = native_filter(self.in_shape, self.out_shape, layout=last, up=1, padding=1)
        if self.rgb is not None:
            whole = (n, 3, height, width)
            up = native_filter(self.lower_shape, whole, layout=first, up=2, padding=2)
        shape = native_shape(n, channels, height * width, self.sides[1].shape[0], last)
        activation = native_activation("leaky_relu", DEFAULT_GAIN["leaky_relu"], self.clamp)
        # the tensors are kept with their addresses
        return inputs, pointers(*inputs), (taps, up), (shape, activation)

    def _in_one_pass(self, x: Tensor, lower: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        assert self._prepared is not None
        _, addresses, (taps, up), numbers = self._prepared
        n, _, height, width = self.out_shape
        y = own = image = None
        follows = self.rgb is None or self.after is not None
        if follows or self.filtered:  # the filter leaves its result there
            last = torch.channels_last
            y = torch.empty(self.out_shape, dtype=x.dtype, device=x.device, memory_format=last)
        whole = {"size": (n, 3, height, width), "dtype": accumulator(x), "device": x.device}
        if self.rgb is not None:
            image = torch.empty(**whole)
        if lower is None:
            up = None
        else:
            own = None if x.is_cuda else torch.empty(**whole)
            (lower,) = side_inputs(x, lower)
        outputs = pointers(lower, y, own, image)
        native.call(FUNCTION, x, x.data_ptr(), *addresses, *outputs, taps, up, *numbers)
        return y if follows else None, image
