"""Peak memory of a process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """if True:
    from patchcore_plugin.evaluation.peak_memory import peak_gpu_memory, peak_memory
    before = peak_memory()
    block = bytearray(300 << 20)
    after = peak_memory()
    del block
    print(before, after, peak_memory(), peak_gpu_memory())
"""


@pytest.mark.e2e
def test_peak_memory_is_that_of_the_process_alone() -> None:
    ballast = np.ones(40_000_000)
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    before, after, later, gpu = process.stdout.split()
    # The memory of this process, the parent, is not included.
    assert int(before) < ballast.nbytes
    assert int(after) >= 300 << 20
    # It does not decrease, up to the batches of pages in which the kernel counts.
    assert int(later) >= int(after) - (1 << 20)
    assert gpu == "None"
