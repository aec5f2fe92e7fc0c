"""Operators of the networks, each with a pure-PyTorch reference and compiled kernels; twice
differentiable.
"""

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.synthesis_epilogue import synthesis_epilogue
from torch_utils.ops.synthesis_tail import SynthesisTail
from torch_utils.ops.to_rgb import to_rgb
from torch_utils.ops.upfirdn2d import upfirdn2d

__all__ = ["SynthesisTail", "bias_act", "synthesis_epilogue", "to_rgb", "upfirdn2d"]
