"""Devices: which can be used, and how much memory they have."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from patchcore_plugin.errors import TensorError


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of that name, or the best one for "auto"; TensorError if it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=torch.device(name))
        probe.item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise TensorError(f"device {str(name)!r} cannot be used ({reason}); use --device cpu or auto") from error
    # With its number: the one that is current is so in one thread only.
    return probe.device


def available(device: torch.device) -> int | None:
    """Return the bytes that can be had on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
