"""How a shard actor's process holds its memory. Payloads come and go all the time, hundreds of kilobytes each.

Left alone, glibc gives each back to the kernel and takes fresh pages for the next, which the kernel clears: a fifth of
all the time of a busy actor was that (docs/BENCHMARKS.md).
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
KEPT_BYTES_MAX = 256 * 1024 * 1024
"""How much that is free at the end of the heap stays with the process."""
_ARENA_PIECE_BYTES = 64 * 1024 * 1024
"""The piece in which glibc takes and gives back the memory of a thread's own arena (HEAP_MAX_SIZE)."""
_HEAP_BYTES_MAX = 32 * 1024 * 1024  # the most that glibc takes for the second; larger pieces are mapped one by one


def keep_memory() -> None:
    """Let malloc and Arrow reuse what they have freed; for a process that does nothing else. Only glibc can."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES_MAX)
    libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
    libc.mallopt(_M_TOP_PAD, _ARENA_PIECE_BYTES)  # with as much to spare, an arena keeps the pieces that fall empty
    pa.set_memory_pool(pa.system_memory_pool())
