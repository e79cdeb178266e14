"""Devices: which can be used, and how much memory they have free."""

from __future__ import annotations

import psutil
import torch

from patchcore_plugin.errors import TensorError


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device after a test allocation on it.

    Parameters
    ----------
    name
        A torch device, or "auto" for the current GPU if there is one and the CPU otherwise.

    Returns
    -------
    torch.device
        With its index if it is a GPU: the current GPU can differ between threads.

    Raises
    ------
    TensorError
        If the device cannot be used.

    Examples
    --------
    >>> usable_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=torch.device(name))
        probe.item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise TensorError(f"device {str(name)!r} cannot be used ({reason}); use --device cpu or auto") from error
    return probe.device


def available(device: torch.device) -> int:
    """Return the free memory of a device, in bytes.

    For a GPU, this is what CUDA reports as free. For any other device, it is the memory of the machine that can be
    allocated without swapping.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
