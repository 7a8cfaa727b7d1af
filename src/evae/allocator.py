"""Memory of a process that trains on CPU: kept from one step for the next."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Options of glibc's mallopt (malloc.h), and what they are where nobody sets them.
_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD = -1, 128 * 1024
_MMAP_MAX, _DEFAULT_MMAP_MAX = -4, 65536


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have the C library keep what is freed, and hand it back at the end, as far as it can.

    Every step allocates and frees the same large tensors. By default glibc hands such memory back to the system, which
    clears it and maps it anew, page by page: some 3,000 page faults a step of Appendix C.1's networks, a twentieth of
    the processor's time. Peak memory stays what it was. Does nothing without glibc, or where its MALLOC_ variables
    are set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)  # large allocations come from the heap, too
    libc.mallopt(_TRIM_THRESHOLD, -1)  # whose free end is never cut off
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        libc.malloc_trim(0)
