"""Memory of a command's process: kept from one step for the next."""

import ctypes
import os
import platform

# Options of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_memory() -> None:
    """Have the C library keep freed memory for the process, from now on.

    Every training step allocates and frees the same large tensors. By default glibc returns such memory to the system,
    which clears it and maps it anew, page by page: some 3,000 page faults per step of Appendix C.1's networks, a
    twentieth of the processor's time, and half of it in ``evae evaluate --features``. Peak memory stays the same.

    For a process of its own, the command line's: it changes the allocator of the whole process. Does nothing without
    glibc, or where its MALLOC_ variables are set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)  # large allocations come from the heap, too
    libc.mallopt(_TRIM_THRESHOLD, -1)  # whose free end is never returned
