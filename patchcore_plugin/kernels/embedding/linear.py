"""Both embeddings as the small linear maps that they are, applied before the upsampling.

Pooling over a neighbourhood, pooling over channels and bilinear upsampling are linear, and the first two
act on every position alike, so the order may be changed: pool each layer on its own, coarser, grid and upsample
the few values that are left. No unfolded patch is ever held.

Everything runs channels-last, [B, h, w, C] in memory: that is the layout of the result and of the backbones'
maps, and pooling in it is several times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def average_embedding(
    maps: Sequence[Tensor],
    patch_size: int,
    stride: int,
    upsample: str,
    chosen: Sequence[Tensor] | None = None,
) -> Tensor:
    """Average each map over p x p neighbourhoods, upsample to the first map's grid, and concatenate.

    Zero padding counts as values, as in ``AvgPool2d(p, s, (p - 1) // 2)``.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, H_i, W_i], finest first.
    patch_size
        p, odd.
    stride
        s; the grid is that of the first map, divided by s.
    upsample
        "bilinear" (the paper) or "nearest".
    chosen
        Channels that are wanted of each map, int64 [K_i] on its device, none perhaps; all of them if not given.

    Returns
    -------
    Tensor
        [B, h, w, sum of C_i, or of K_i], contiguous.
    """
    counts = [each.shape[1] for each in maps] if chosen is None else [len(each) for each in chosen]
    out = _new_grid(maps[0], stride, sum(counts))
    filled = 0
    for number, features in enumerate(maps):
        if counts[number]:
            wanted = features if chosen is None else _channels(features, chosen[number])
            filled = _write(out, _pool(wanted, patch_size, stride), filled, filled, upsample)
    return out


def adaptive_embedding(maps: Sequence[Tensor], patch_size: int, stride: int, dims: int, upsample: str) -> Tensor:
    """Return the authors' embedding, that of `reference.unfold_embedding`, [B, h, w, dims], contiguous.

    Their two adaptive poolings together average, for each output, a run of the C x p x p values of a patch.
    A run touches few channels (two or three for common networks), so the layer's outputs are a sum of
    as many depthwise convolutions over selected channels.
    """
    out = _new_grid(maps[0], stride, dims)
    filled = 0
    for layer, features in enumerate(maps):
        start, slots = _slots(features.shape[1], patch_size, len(maps), layer, dims, features.device, features.dtype)
        filled = _write(out, _depthwise(features, slots, patch_size, stride), start, filled, upsample)
    return out


def _new_grid(features: Tensor, stride: int, dims: int) -> Tensor:
    batch, _, height, width = features.shape
    return features.new_empty(batch, (height - 1) // stride + 1, (width - 1) // stride + 1, dims)


def _write(out: Tensor, values: Tensor, start: int, filled: int, upsample: str) -> int:
    """Write values [B, C, h', w'] to the outputs from `start` on, and return how many outputs are filled then.

    Those below `filled` belong to two layers, and are added to.
    """
    if values.shape[2:] != out.shape[1:3]:
        align = False if upsample == "bilinear" else None
        values = F.interpolate(values, size=out.shape[1:3], mode=upsample, align_corners=align)
    values = values.permute(0, 2, 3, 1)
    stop, shared = start + values.shape[3], filled - start
    if shared:
        out[..., start:filled] += values[..., :shared]
    out[..., filled:stop] = values[..., shared:]
    return stop


def _pool(features: Tensor, patch_size: int, stride: int) -> Tensor:
    features = features.contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(features, patch_size, stride, (patch_size - 1) // 2)


def _channels(features: Tensor, chosen: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    # Selecting columns of a matrix is an order of magnitude faster than selecting channels of a map.
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
    return rows.index_select(1, chosen).view(batch, height, width, -1).permute(0, 3, 1, 2)


def _depthwise(features: Tensor, slots: Sequence[tuple[Tensor, Tensor]], patch_size: int, stride: int) -> Tensor:
    features = features.contiguous(memory_format=torch.channels_last)
    total: Tensor | None = None
    for chosen, kernels in slots:
        selected = _channels(features, chosen)
        part = F.conv2d(selected, kernels, stride=stride, padding=(patch_size - 1) // 2, groups=len(kernels))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


@lru_cache(maxsize=32)
def _slots(
    channels: int, patch_size: int, layers: int, layer: int, dims: int, device: torch.device, dtype: torch.dtype
) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """Return the first output of a layer, and the depthwise convolutions that sum to its outputs.

    Each is a choice of input channel per output (int64 [O]), with kernels [O, 1, p, p].
    """
    taps = patch_size**2
    values = channels * taps
    # Bin i of the layer averages the values low to high - 1; an output averages `layers` bins in a row of all layers'.
    low = torch.arange(dims) * values // dims
    high = -(-torch.arange(1, dims + 1) * values // dims)
    output = (torch.arange(dims) + layer * dims) // layers
    start = int(output[0])
    output -= start
    first = torch.full((int(output[-1]) + 1,), channels).scatter_reduce(0, output, low // taps, "amin")
    reach = int(((high - 1) // taps - first[output]).max()) + 1
    position = torch.arange(reach * taps) + first[output, None] * taps
    inside = (position >= low[:, None]) & (position < high[:, None])
    bins = inside.double() / (layers * (high - low))[:, None]
    kernels = torch.zeros(len(first), reach * taps, dtype=torch.float64).index_add_(0, output, bins)
    kernels = kernels.view(-1, reach, 1, patch_size, patch_size).to(device, dtype)
    # A run that ends early has zeros for the rest of its kernels; any channel will do there.
    return start, [
        ((first + step).clamp(max=channels - 1).to(device), kernels[:, step].contiguous()) for step in range(reach)
    ]
