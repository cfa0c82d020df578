"""Memory of a training process."""

import ctypes
import sys

# Names in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_HUGE = 2**31 - 1


def keep_freed_memory() -> None:
    """Has the C library keep what this process frees, for the next tensor of the size.

    Otherwise every batch's large tensors are given back to the system and asked for again, which clears each page on
    first touch. ``benchmarks/freed_memory.py`` measures what that costs. Does nothing where the C library is not
    glibc, and nothing to memory on a GPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _HUGE)
        mallopt(_M_MMAP_MAX, 0)
