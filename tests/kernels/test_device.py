"""Which devices can be used, and how much memory they have."""

from __future__ import annotations

import psutil
import pytest
import torch

from patchcore_plugin.errors import TensorError
from patchcore_plugin.kernels.device import available, usable_device


def test_an_unusable_device_is_refused() -> None:
    with pytest.raises(TensorError, match=r"device 'nonsense' cannot be used .* use --device cpu or auto"):
        usable_device("nonsense")


def test_a_usable_device_is_returned() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    assert usable_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 0 < available(torch.device("cpu")) < psutil.virtual_memory().total
