"""How a shard actor's process holds its memory. Payloads come and go all the time, hundreds of kilobytes each.

Left alone, glibc gives each back to the kernel and takes fresh pages for the next, which the kernel clears: a fifth of
all the time of a busy actor was that (docs/BENCHMARKS.md).
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
KEPT_BYTES_MAX = 256 * 1024 * 1024
"""How much that is free at the end of the heap stays with the process."""
_HEAP_BYTES_MAX = 32 * 1024 * 1024  # the most that glibc takes for the second; larger pieces are mapped one by one


def keep_memory() -> None:
    """Let malloc and Arrow reuse what they have freed; for a process that does nothing else. Only glibc can."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES_MAX)
    libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
    pa.set_memory_pool(pa.system_memory_pool())
