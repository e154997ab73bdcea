"""The environment of a worker's process, the same at parties and at the coordinator."""

from __future__ import annotations

import os

_OURS = {
    # The threads of numpy's linear algebra wait in a loop. Beside another busy process that takes seconds, and what
    # they have to do here takes milliseconds.
    "OPENBLAS_NUM_THREADS": "1",
    # Frames and blocks of rows are about 1 MiB each. By default the C library gives such memory back at every turn and
    # takes page faults to get it again, which costs a receiver a third of its time. So much of it is kept instead.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}


def environment() -> dict[str, str]:
    """What a worker is started with: this process's own, and how its libraries are to behave."""
    return {**os.environ, **_OURS}
