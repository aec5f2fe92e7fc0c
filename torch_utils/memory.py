"""Memory of the process, as the C library hands it out."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep the memory of tensors that it frees; whether the C library can.

    glibc gives blocks above 32 MiB back to the kernel at once, and each new tensor of that size is
    then filled page by page with zeros by page faults: on a CPU that takes longer than the work of
    most operators. Call it before the first large tensor is made.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, 2**31 - 1) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
