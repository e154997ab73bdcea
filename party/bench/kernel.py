"""Group operations a second, by each kernel that runs here and by libsodium, on one core and on all.

The operations are decode-multiply-encode and hash-to-group-multiply-encode, with one secret scalar for the batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tidegate.protocols.primitives import group
from tidegate.protocols.primitives.group import ORDER, Offsets, Scalar

from .run import machine

LONG_ENOUGH_S = 0.5
DOMAIN = b"tidegate bench"

Multiply = Callable[[bytes, Scalar], bytes]
HashMultiply = Callable[[bytes, Offsets, bytes, Scalar], bytes]


def kernel_figures(elements: int) -> dict[str, Any]:
    """Elements a second by kernel, operation and cores: the best of the rounds that half a second has room for.

    Each is measured in a process of its own, held to its cores before it makes its threads.
    """
    figures = machine()
    every_core = sorted(os.sched_getaffinity(0))
    kernels = [] if group._native is None else group._native.kernels()
    for kernel in [*kernels, "libsodium"]:
        for label, cores in (("one core", every_core[:1]), ("all cores", every_core)):
            order = json.dumps({"kernel": kernel, "cores": cores, "elements": elements})
            spoken = subprocess.run(
                [sys.executable, "-m", __name__, order], capture_output=True, text=True, check=True
            ).stdout
            for operation, rate in json.loads(spoken).items():
                figures[f"{kernel}, {operation}/s, {label}"] = rate
    return figures


def _operations(kernel: str) -> tuple[Multiply, HashMultiply]:
    native = group._native
    if kernel == "libsodium" or native is None:
        group._native = None  # type: ignore[assignment]  # this process measures nothing else
        return group.multiply, group.hash_multiply

    def multiply(elements: bytes, scalar: Scalar) -> bytes:
        return native.multiply(elements, scalar.to_bytes(), kernel)

    def hash_multiply(data: bytes, offsets: Offsets, dst: bytes, scalar: Scalar) -> bytes:
        return native.hash_multiply(data, offsets.astype("<i8").tobytes(), dst, scalar.to_bytes(), kernel)

    return multiply, hash_multiply


def _measured(kernel: str, elements: int) -> dict[str, int]:
    multiply, hash_multiply = _operations(kernel)
    scalar = Scalar(ORDER // 3)
    names = np.arange(elements, dtype="<i8").tobytes()
    offsets = 8 * np.arange(elements + 1, dtype=np.int64)
    points = hash_multiply(names, offsets, DOMAIN, scalar)
    return {
        "multiplications": _rate(elements, lambda: multiply(points, scalar)),
        "hash-to-group": _rate(elements, lambda: hash_multiply(names, offsets, DOMAIN, scalar)),
    }


def _rate(elements: int, work: Callable[[], bytes]) -> int:
    best_s, begun = float("inf"), time.perf_counter()
    while time.perf_counter() < begun + LONG_ENOUGH_S:
        start = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - start)
    return round(elements / best_s)


def _main(order: dict[str, Any]) -> None:
    os.sched_setaffinity(0, order["cores"])
    sys.stdout.write(json.dumps(_measured(order["kernel"], order["elements"])))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
