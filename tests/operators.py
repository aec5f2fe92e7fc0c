"""Operators by an implementation that a test chooses: one library, plain PyTorch, or the CUDA
kernels compiled for the host.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ops_cuda import targets
from ops_cuda.library import Library
from torch_utils.ops import native

EMULATION = Path(__file__).parent / "ops_cuda" / "emulation_source"


@contextmanager
def using(library: Library | None) -> Iterator[None]:
    """Run the CPU's operators from this library (None: the reference), whatever was chosen."""
    libraries: dict[torch.device, Library | None] = {torch.device("cpu"): library}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_choice", native._Choice("auto", libraries))
        yield


def emulated_target(*, sanitize: bool = False) -> targets.Target:
    """The CUDA kernels compiled for the host against emulation.h."""
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all") if sanitize else ()
    include = (f"-I{EMULATION}", "-include", "emulation.h")
    flags = ("-std=c++17", "-O1", "-g", "-fPIC", "-x", "c++", *include)
    return targets.Target(
        name="emulated-sanitized" if sanitize else "emulated",
        sources=(
            *(f"{name}.cu" for name in targets.KERNELS),
            *("library.cu", str(EMULATION / "emulation.cpp")),
        ),
        compiler=targets.host_compiler(),
        compile_flags=(*flags, "-Wall", "-Wextra", "-Wno-unknown-pragmas", *checks),
        link_flags=("-shared", *checks),
    )
