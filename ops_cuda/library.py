"""A built library of native operators: the functions of lafite_ops.h through ctypes."""

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

from ops_cuda import build, targets

ABI = 5
MAX_TAPS = 64
DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
LAYOUTS = {"contiguous": 0, "channels_last": 1}
DISTRIBUTIONS = {"bits": 0, "uniform": 1, "normal": 2}
ACTIVATIONS = {"linear": 0, "leaky_relu": 1}


class Place(ctypes.Structure):
    """Where a function runs: CUDA device index and stream."""

    _fields_ = (("device", c_int32), ("stream", c_void_p))


class Activation(ctypes.Structure):
    """gain * activation, clamped; clamp < 0 does not clamp."""

    _fields_ = (("kind", c_int32), ("gain", c_double), ("clamp", c_double))


class EpilogueShape(ctypes.Structure):
    """See ls_epilogue_shape."""

    _fields_ = (
        ("n", c_int64),
        ("channels", c_int64),
        ("pixels", c_int64),
        ("noise_n", c_int64),
        ("layout", c_int32),
    )


class Upfirdn2dShape(ctypes.Structure):
    """See ls_upfirdn2d_shape."""

    _fields_ = (
        *((name, c_int64) for name in ("n", "channels", "in_height", "in_width")),
        *((name, c_int64) for name in ("out_height", "out_width")),
        ("layout", c_int32),
        *((name, c_int32) for name in ("up_y", "up_x", "down_y", "down_x", "pad_y", "pad_x")),
        *((name, c_int32) for name in ("num_taps_y", "num_taps_x")),
        ("taps_y", c_double * MAX_TAPS),
        ("taps_x", c_double * MAX_TAPS),
    )


_SIGNATURES = {
    "ls_bias_act": (Place, c_int, *[c_void_p] * 3, *[c_int64] * 3, Activation),
    "ls_bias_act_grad": (Place, c_int, *[c_void_p] * 3, c_int64, Activation),
    "ls_philox": (Place, c_int, *[c_void_p] * 2, *[c_int64] * 2, c_uint64, c_int32),
    "ls_synthesis_epilogue": (Place, c_int, *[c_void_p] * 7, EpilogueShape, Activation),
    "ls_synthesis_epilogue_grad": (
        *(Place, c_int, *[c_void_p] * 7),
        *(c_int64, EpilogueShape, Activation),
    ),
    "ls_synthesis_tail": (
        *(Place, c_int, *[c_void_p] * 12),
        *(*[POINTER(Upfirdn2dShape)] * 2, EpilogueShape, Activation),
    ),
    "ls_to_rgb": (Place, c_int, *[c_void_p] * 4, *[c_int64] * 3, c_int32),
    "ls_upfirdn2d": (Place, c_int, *[c_void_p] * 3, POINTER(Upfirdn2dShape)),
}


class Library:
    """The functions of one library. A function that fails raises RuntimeError with the reason."""

    def __init__(self, path: Path):
        self.path = path
        self._functions = _open(path)
        abi = self._functions.ls_abi()
        if abi != ABI:
            raise RuntimeError(f"{path} has interface {abi}, not {ABI}; `lafite-shifted ops clean`")
        self._functions.ls_error_string.restype = c_char_p
        for name, types in _SIGNATURES.items():
            if hasattr(self._functions, name):  # a test may build one kernel alone
                getattr(self._functions, name).argtypes = types

    @staticmethod
    def of(target: targets.Target) -> "Library":
        """The library of `target`, built where the cache holds none, or a damaged one. OSError
        where it is whole but cannot be loaded: building it again would not help.
        """
        return Library(build.build(target))

    def has(self, name: str) -> bool:
        """Whether the library has the function `name`: a test may build one kernel alone."""
        return hasattr(self._functions, name)

    def call(self, name: str, *arguments: object) -> None:
        """Call `name`; RuntimeError if it returns an error."""
        code = getattr(self._functions, name)(*arguments)
        if code:
            reason = self._functions.ls_error_string(code).decode()
            raise RuntimeError(f"{name} failed with error {code}: {reason}")


def _open(path: Path) -> ctypes.CDLL:
    """OpenMP's functions come from the library that torch has loaded; without one, the system's."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        if "GOMP" not in str(error) and "omp_" not in str(error):
            raise
    ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))
