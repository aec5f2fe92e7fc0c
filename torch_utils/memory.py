"""Memory of the process, as the C library hands it out."""

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

# of malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def keep_freed_memory() -> bool:
    """Let the process keep the memory of tensors that it frees; whether the C library can.

    glibc gives large blocks back to the kernel at once, and each new tensor of that size is then
    filled page by page with zeros by page faults. Call it before the first large tensor is made.
    """
    return _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1})  # no block apart; never trimmed


def return_freed_memory() -> bool:
    """The opposite, as glibc does by itself after some large blocks: to measure what it costs."""
    options = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**26}
    return _set(options)


def _set(options: dict[int, int]) -> bool:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all([libc.mallopt(option, value) for option, value in options.items()])


def available_bytes(root: Path = Path("/")) -> int:
    """Main memory that this process may still take: what the machine has to give, or what is left
    to the process's control group where that is less.
    """
    info = root / "proc/meminfo"
    if not info.is_file():  # not on macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE)
    available = int(found[1]) * 1024 if found else 0
    return min([available, *_left_to_groups(root)])


def _left_to_groups(root: Path) -> Iterator[int]:
    """Bytes left to the control group of this process, and to those above it, of version 2 and of
    version 1, whose memory controller is a tree of its own.
    """
    own = _text(root / "proc/self/cgroup")
    top = root / "sys/fs/cgroup"
    trees = (
        (top, r"^0::/(.*)$", "memory.max", "memory.current", "inactive_file"),
        (
            top / "memory",
            r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:/(.*)$",
            *("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    )
    for tree, pattern, most_name, used_name, cached_name in trees:
        found = re.search(pattern, own, re.MULTILINE)
        group = tree / (found[1] if found else "")
        while True:
            most, used = _text(group / most_name).strip(), _text(group / used_name).strip()
            if most.isdigit() and used.isdigit():
                # files that were read and can be dropped at any time
                stat = _text(group / "memory.stat")
                cached = re.search(rf"^{cached_name} (\d+)", stat, re.MULTILINE)
                yield max(int(most) - int(used) + (int(cached[1]) if cached else 0), 0)
            if group == tree:
                break
            group = group.parent


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
