"""How much memory this process has taken at most, as the system counts it."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """Return the largest resident memory of this process so far, in bytes; None where the system does not say.

    Everything counts: Python, the libraries, the backbone, patches, bank, and images on their way. It never falls, so
    whoever wants the peak of one piece of work gives it a process of its own.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _maximum_resident()
    # Not ru_maxrss: Linux carries it over from the process that started this one.
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else _maximum_resident()


def peak_gpu_memory() -> int | None:
    """Return the most bytes that torch's tensors took on all GPUs so far; None if no GPU was used."""
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
