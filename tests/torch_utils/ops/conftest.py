"""The tests of this folder run on each implementation: plain PyTorch, the CPU kernels, and the CUDA
kernels emulated on the host.
"""

from collections.abc import Iterator

import pytest

from ops_cuda import build, targets
from ops_cuda.library import Library
from tests.operators import emulated_target, using

TARGETS = {"cpu": targets.cpu_target, "emulated": emulated_target}


@pytest.fixture(scope="module", autouse=True, params=["reference", *TARGETS])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    target = TARGETS.get(request.param)
    with using(Library(build.build(target())) if target else None):
        yield request.param
