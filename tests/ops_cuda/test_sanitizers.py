"""The emulated kernels under the address and the undefined-behaviour sanitizer."""

import os
import subprocess
import sys

import pytest

from ops_cuda import targets

SCRIPT = """
from ops_cuda import build, targets
from ops_cuda.library import Library
from tests.emulation import check
from tests.emulation_cases import all_cases
from tests.operators import emulated_target

lib = Library(build.build(emulated_target(sanitize=True)))
count = 0
for case in all_cases():
    check(case, lib)
    count += 1
print(count, "cases")
"""


@pytest.mark.slow
def test_sanitizers_find_nothing():
    compiler = targets.host_compiler()
    # the sanitizer comes first; it needs the C++ library beside it, whose exceptions it watches
    preloaded = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]
    assert int(done.stdout.split()[0]) >= 676
