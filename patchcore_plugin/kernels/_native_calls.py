"""Calls of the compiled kernels that the coreset and the nearest rows share: tensors in, tensors out.

For float32 on a CPU they compute what the torch kernels compute, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ._native import native
from .quantisation import Codes, Grid, encodable
from .screening import not_finite

ForEachPart = Callable[[Callable[[int, int], object], int, int], None]
"""Takes a function of (low, high), a total and a step, and calls the function for each part of the range."""


def usable(points: Tensor) -> bool:
    """Return whether the compiled kernels can process points [N, D]: on a CPU, exact in float32, D up to MAX_DIMS."""
    module = native()
    return (
        module is not None and points.device.type == "cpu" and encodable(points) and points.shape[1] <= module.MAX_DIMS
    )


def library() -> Any:
    """Return the C library; `usable` must have returned True."""
    return native().library()


def address(tensor: Tensor) -> int:
    """Return the address of a contiguous tensor."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def padded_lanes(count: int) -> int:
    """Return a number of points rounded up to whole panels."""
    return -(-count // int(native().LANES)) * int(native().LANES)


@contextmanager
def workers() -> Iterator[ForEachPart]:
    """Yield a function that splits a range between as many threads as torch uses; the threads end with the context."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, thread_name_prefix="patchcore") as pool:

        def for_each_part(work: Callable[[int, int], object], total: int, step: int) -> None:
            parts = [(low, min(low + step, total)) for low in range(0, total, step)]
            if len(parts) == 1 or threads == 1:
                for low, high in parts:
                    work(low, high)
            else:
                list(pool.map(lambda part: work(*part), parts))

        yield for_each_part


def encode(points: Tensor, grid: Grid, for_each_part: ForEachPart) -> Codes:
    """Return `grid.encode(points)` of contiguous float32 points, with rows of codes padded to multiples of 4 bytes."""
    count, dims = points.shape
    padded = -(-dims // 4) * 4
    codes = torch.empty(count, padded, dtype=torch.int8)
    norms, errors = torch.empty(count, dtype=torch.int32), torch.empty(count, dtype=torch.float32)

    def part(low: int, high: int) -> None:
        library().patchcore_encode(
            points.data_ptr() + 4 * low * dims,
            high - low,
            dims,
            padded,
            address(grid.centre),
            1.0 / grid.step,
            codes.data_ptr() + low * padded,
            norms.data_ptr() + 4 * low,
            errors.data_ptr() + 4 * low,
        )

    for_each_part(part, count, max(64, (1 << 18) // padded))
    if errors.isnan().any():
        raise not_finite()
    return Codes(codes, norms, errors)


def pack(codes: Codes, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return panels of the codes at `rows`, and norms and errors for each lane."""
    padded, lanes = codes.codes.shape[1], padded_lanes(len(rows))
    panels = torch.zeros(lanes * padded, dtype=torch.uint8)
    norms = torch.zeros(lanes, dtype=torch.int32)
    errors = torch.full((lanes,), native().NOWHERE, dtype=torch.float32)
    library().patchcore_pack(address(codes.codes), padded, address(rows), len(rows), address(panels))
    norms[: len(rows)], errors[: len(rows)] = codes.norms[rows], codes.errors[rows]
    return panels, norms, errors
