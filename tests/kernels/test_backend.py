"""The order in which backends are chosen, and what `describe` reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from patchcore_plugin.kernels import coreset, nearest
from patchcore_plugin.kernels._native import SWITCH, native
from patchcore_plugin.kernels.backend import Backend, describe, usable_backends
from patchcore_plugin.kernels.coreset.task import Task
from tests.kernels.vectors import normal


def names(k: int, dtype: torch.dtype = torch.float32) -> list[str]:
    bank = normal(20, 4).to(dtype)
    return [backend.name for backend in usable_backends(nearest.BACKENDS, bank, bank[:3], k)]


def test_backends_are_tried_in_order() -> None:
    assert [backend.name for backend in coreset.BACKENDS] == ["Triton", "compiled", "torch, float32"]
    assert [backend.name for backend in nearest.BACKENDS] == ["Triton", "compiled", "torch, int8", "torch, float32"]


def test_unusable_backends_are_skipped() -> None:
    def prepare(shared: Tensor) -> Callable[[int], int]:
        return lambda x: x

    backends: list[Backend[[int], int]] = [
        Backend("small", lambda shared, x: x < 3, prepare),
        Backend("medium", lambda shared, x: x < 10, prepare),
        Backend("any", lambda shared, x: True, prepare),
    ]
    assert [backend.name for backend in usable_backends(backends, torch.empty(0), 5)] == ["medium", "any"]


def test_compiled_kernels_come_before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    if native() is None:
        pytest.skip("patchcore-native is not installed")
    assert names(1)[0] == names(2)[0] == "compiled"
    (first, *_) = usable_backends(coreset.BACKENDS, normal(20, 4), Task(3))
    assert first.name == "compiled"
    assert describe().startswith("compiled (")


def test_float64_is_left_to_float32_products(kernels: str) -> None:
    assert names(1, torch.float64) == ["torch, float32"]


def test_8_bit_products_serve_one_neighbour_only(torch_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert names(1) == ["torch, int8", "torch, float32"]
    assert names(2) == ["torch, float32"]
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert names(1) == ["torch, float32"]


def test_description_without_compiled_kernels(torch_kernels: None) -> None:
    assert describe() == "torch"
    assert describe("mps") == "torch"
