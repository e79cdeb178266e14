"""Peak memory of this process, as reported by the operating system."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Return the peak resident memory of this process so far.

    It covers everything: Python, libraries, backbone, patches, memory bank and images. It never decreases; to measure
    one task, run it in a separate process.

    Returns
    -------
    int or None
        Bytes; None if the system does not report it.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _maximum_resident()
    # Not ru_maxrss: on Linux a process inherits it from its parent.
    match = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else _maximum_resident()


def peak_gpu_memory() -> int | None:
    """Return the peak memory of torch's tensors so far, summed over all GPUs.

    Returns
    -------
    int or None
        Bytes; None if no GPU was used.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count()))


def _maximum_resident() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
