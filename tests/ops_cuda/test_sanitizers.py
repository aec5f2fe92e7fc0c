"""The emulated kernels under the address and the undefined-behaviour sanitizer."""

import os
import subprocess
import sys

import pytest

from ops_cuda import build

SCRIPT = """
from ops_cuda import build
from ops_cuda.library import Library
from tests.emulation import all_cases, check

lib = Library(build.build(build.emulated_target(sanitize=True)))
count = 0
for case in all_cases():
    check(case, lib)
    count += 1
print(count, "cases")
"""


@pytest.mark.slow
def test_sanitizers_find_nothing():
    compiler = build.host_compiler()
    library = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = os.environ | {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert int(done.stdout.split()[0]) >= 572
