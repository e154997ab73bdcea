from __future__ import annotations

import json
import subprocess
import sys

from tidegate.protocols.primitives import group


def test_bench_kernel_measures_each_kernel_that_runs_here_and_libsodium() -> None:
    command = [sys.executable, "-m", "tidegate", "bench", "kernel", "--elements", "256", "--json"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout)
    kernels = [] if group._native is None else group._native.kernels()
    for kernel in [*kernels, "libsodium"]:
        for operation in ("multiplications", "hash-to-group"):
            for cores in ("one core", "all cores"):
                assert figures[f"{kernel}, {operation}/s, {cores}"] > 0
    assert figures["group"] == group.backend()
