"""Memory of a fit: what it needs, how a budget is divided, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.kernels import device
from patchcore_plugin.models.fitting import memory


def like(dims: int = 8, *, descriptors: int = 0) -> pp.Patches:
    """Return the patches of an image on a grid of 8 x 8."""
    return pp.Patches(torch.zeros(1, 8, 8, dims), torch.zeros(1, descriptors) if descriptors else None)


def test_bytes_of_a_fit_grow_with_rows_and_values() -> None:
    needed = memory.fit_bytes(100, like())
    assert needed == pytest.approx(6400 * 8 * 4 * memory.COPIES)
    assert memory.fit_bytes(200, like()) == 2 * needed
    assert memory.fit_bytes(100, like(16)) == 2 * needed
    assert memory.fit_bytes(100, like(), bank_rows=6400) == 2 * needed
    half = pp.Patches(torch.zeros(1, 8, 8, 8, dtype=torch.float16))
    assert needed / 2 < memory.fit_bytes(100, half) < needed  # copies are float32


def test_too_little_memory_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda device: 100_000_000)
    assert memory.require_memory(100, like()) == memory.fit_bytes(100, like())
    with pytest.raises(pp.PatchcoreError, match=r"640,000 patches of 312 values.*1\.8 GB.*0\.1 GB.*aggregator\.stride"):
        memory.require_memory(10_000, like(312))
    monkeypatch.setattr(device, "available", lambda device: 10**15)
    memory.require_memory(10**9, like())


def test_the_member_that_needs_too_much_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are fitted one after the other, so that the sum may exceed the memory."""
    needed = memory.fit_bytes(100, like())
    monkeypatch.setattr(device, "available", lambda device: math.ceil(needed))
    memory.require_memory_of_members(100, [("first", like()), ("second", like())])
    with pytest.raises(pp.PatchcoreError, match=r"^second: 100 images"):
        memory.require_memory_of_members(100, [("first", like()), ("second", like(9))])


def test_a_budget_for_all_patches_needs_no_plan() -> None:
    needed = math.ceil(memory.fit_bytes(100, like()))
    assert memory.plan_budget(needed, 100, like(), batch=8) is None
    plan = memory.plan_budget(needed - 1, 100, like(), batch=8)
    assert plan is not None
    assert (plan.patches, plan.full) == (6400, memory.fit_bytes(100, like()))
    assert plan.bank <= memory.BANK * plan.rows


def test_image_descriptors_are_part_of_the_budget() -> None:
    budget = math.ceil(memory.fit_bytes(100, like()))
    plain = memory.plan_budget(budget - 1, 100, like(), batch=8)
    plan = memory.plan_budget(budget - 1, 100, like(descriptors=100), batch=8)
    assert plan is not None
    assert plain is not None
    assert plan.rows < plain.rows


@pytest.mark.parametrize("images", [3, 40, 100, 1000, 20_000])
@pytest.mark.parametrize("dims", [3, 312])
def test_the_budget_in_the_message_is_the_smallest(images: int, dims: int) -> None:
    low, high, message = 0, math.ceil(memory.fit_bytes(images, like(dims))), ""
    while high - low > 1:
        middle = (low + high) // 2
        try:
            memory.plan_budget(middle, images, like(dims), batch=8)
            high = middle
        except pp.PatchcoreError as error:
            low, message = middle, str(error)
    if images > 10:
        assert message.partition("pass at least ")[2].startswith(f"{memory.size_text(high)}, ")
        plan = memory.plan_budget(high, images, like(dims), batch=8)
        assert plan is not None
        assert plan.bank >= 0.01 * images * 64
        assert plan.rows - plan.bank >= 8 * 64


def test_a_budget_above_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available", lambda device: 10**5)
    with pytest.raises(pp.PatchcoreError, match=r"budget is 1\.0 GB, and 0\.1 MB are free"):
        memory.plan_budget(10**9, 100, like(), batch=8)


@pytest.mark.parametrize(
    ("size", "text"), [(10**9, "1.0 GB"), (1_210_000_000, "1.3 GB"), (999_000_000, "999.0 MB"), (1, "0.1 MB")]
)
def test_sizes_are_rounded_up(size: float, text: str) -> None:
    assert memory.size_text(size) == text


def test_free_memory_is_known_on_linux() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("needs Linux")
    free = device.available(torch.device("cpu"))
    assert free is not None
    assert 1e8 < free < 1e15
