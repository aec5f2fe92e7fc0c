"""How much memory is free: what the machine and the control groups leave."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from torch_utils.memory import available_bytes


def test_this_machine_has_some():
    assert 2**20 < available_bytes() < 2**50


def test_control_groups_bound_what_the_machine_has(tmp_path: Path):
    def write(name: str, content: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    write("proc/meminfo", "MemTotal: 64 kB\nMemAvailable:      4096 kB\n")
    assert available_bytes(tmp_path) == 4096 * 1024
    write("proc/self/cgroup", "0::/a/b\n")
    write("sys/fs/cgroup/a/b/memory.max", "max\n")
    write("sys/fs/cgroup/a/b/memory.current", "1000\n")
    assert available_bytes(tmp_path) == 4096 * 1024
    write("sys/fs/cgroup/a/memory.max", "3000\n")
    write("sys/fs/cgroup/a/memory.current", "2600\n")
    write("sys/fs/cgroup/a/memory.stat", "active_file 7\ninactive_file 100\n")
    assert available_bytes(tmp_path) == 500


def test_control_groups_of_version_1_bound_it_too(tmp_path: Path):
    """Their memory controller has a folder of its own; in a container the group's own path may not
    be there, and the mount is the group.
    """

    def write(name: str, content: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    write("proc/meminfo", "MemAvailable:   250000000 kB\n")
    write("proc/self/cgroup", "9:cpu,cpuacct:/x\n8:memory:/docker/ab\n1:name=systemd:/y\n")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n")
    assert available_bytes(tmp_path) == 250000000 * 1024
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n")
    write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n")
    assert available_bytes(tmp_path) == 4100
    write("sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "3000\n")
    write("sys/fs/cgroup/memory/docker/ab/memory.usage_in_bytes", "2600\n")
    assert available_bytes(tmp_path) == 400


KEEPS_WHAT_IS_FREED = """
import ctypes, torch
from torch_utils.memory import keep_freed_memory, return_freed_memory

libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p

def heap_after(bytes):
    torch.empty(bytes, dtype=torch.uint8)  # not touched: no page is taken
    return libc.sbrk(0)

assert return_freed_memory()
before = libc.sbrk(0)
assert heap_after(3 * 2**30) - before < 2**28
assert keep_freed_memory()
assert heap_after(3 * 2**30) - before > 2.5 * 2**30
assert heap_after(2**20) - before > 2.5 * 2**30
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's")
def test_the_process_keeps_what_it_frees_of_any_size():
    subprocess.run([sys.executable, "-c", KEEPS_WHAT_IS_FREED], check=True)
