"""The compiled kernels, where the distribution patchcore-native is installed: tensors in, tensors out.

They compute what the torch kernels beside them compute, to the same bits, for float32 on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .native import native
from .quantised import Codes, Grid, codable
from .screening import not_finite

Each = Callable[[Callable[[int, int], object], int, int], None]


def serves(points: Tensor) -> bool:
    """Whether the compiled kernels can take these points: [N, D], on a CPU, exactly representable in float32."""
    module = native()
    return module is not None and points.device.type == "cpu" and codable(points) and points.shape[1] <= module.MAX_DIMS


def library() -> Any:
    """Return the C library."""
    return native().library()


def address(tensor: Tensor) -> int:
    """Return where a contiguous tensor lies."""
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def lanes(count: int) -> int:
    """Return how many lanes the panels of so many points have."""
    return -(-count // int(native().LANES)) * int(native().LANES)


@contextmanager
def workers() -> Iterator[Each]:
    """Give a function that calls another for parts [low, high) of a range, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, thread_name_prefix="patchcore") as pool:

        def each(work: Callable[[int, int], object], total: int, step: int) -> None:
            parts = [(low, min(low + step, total)) for low in range(0, total, step)]
            if len(parts) == 1 or threads == 1:
                for low, high in parts:
                    work(low, high)
            else:
                list(pool.map(lambda part: work(*part), parts))

        yield each


def encode(points: Tensor, grid: Grid, each: Each) -> Codes:
    """Return `grid.encode(points)` of float32 points, with rows of codes padded to whole words."""
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

    each(part, count, max(64, (1 << 18) // padded))
    if errors.isnan().any():
        raise not_finite()
    return Codes(codes, norms, errors)


def pack(codes: Codes, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return panels of the codes at `rows`, with their norms and errors a lane."""
    padded, wide = codes.codes.shape[1], lanes(len(rows))
    panels = torch.zeros(wide * padded, dtype=torch.uint8)
    norms = torch.zeros(wide, dtype=torch.int32)
    errors = torch.full((wide,), native().NOWHERE, dtype=torch.float32)
    library().patchcore_pack(address(codes.codes), padded, address(rows), len(rows), address(panels))
    norms[: len(rows)], errors[: len(rows)] = codes.norms[rows], codes.errors[rows]
    return panels, norms, errors
