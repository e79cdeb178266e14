"""Both embeddings as small linear maps, applied before the upsampling.

Pooling over a neighbourhood, pooling over channels and bilinear upsampling are linear, and the first two are the same
at every position. They therefore commute: each layer is pooled on its own, coarser grid, and only the few remaining
values are upsampled. Patches are never unfolded.

All computations use the channels-last layout, [B, h, w, C] in memory. It is that of the result and of the feature maps
of backbones, and pooling is several times faster in it.
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
    channels: Sequence[Tensor] | None = None,
) -> Tensor:
    """Average each map over p x p neighbourhoods, upsample it to the grid of the first map, and concatenate.

    Zero padding counts as values, like in ``torch.nn.AvgPool2d(p, s, (p - 1) // 2)``.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, H_i, W_i], finest first.
    patch_size
        p, odd.
    stride
        s; the grid is that of the first map divided by s.
    upsample
        "bilinear" (the paper) or "nearest".
    channels
        Channels to use of each map, int64 [K_i] on its device, possibly empty; None for all channels.

    Returns
    -------
    Tensor
        [B, h, w, sum of K_i], contiguous.

    Examples
    --------
    >>> import torch
    >>> average_embedding([torch.ones(1, 8, 4, 4), torch.ones(1, 16, 2, 2)], 3, 1, "bilinear").shape
    torch.Size([1, 4, 4, 24])
    """
    counts = [features.shape[1] for features in maps] if channels is None else [len(chosen) for chosen in channels]
    out = _new_grid(maps[0], stride, sum(counts))
    filled = 0
    for number, features in enumerate(maps):
        if counts[number]:
            selected = features if channels is None else _select_channels(features, channels[number])
            filled = _write(out, _pool(selected, patch_size, stride), filled, filled, upsample)
    return out


def adaptive_embedding(maps: Sequence[Tensor], patch_size: int, stride: int, dims: int, upsample: str) -> Tensor:
    """Return the embedding of the PatchCore authors, which `reference.unfold_embedding` defines.

    Its two adaptive poolings together average, for each output, a run of the C x p x p values of a patch. A run spans
    few channels (two or three for common networks), so the outputs of a layer are a sum of that many depthwise
    convolutions over selected channels.

    Parameters
    ----------
    maps
        Feature maps [B, C_i, H_i, W_i], finest first.
    patch_size
        p, odd.
    stride
        s; the grid is that of the first map divided by s.
    dims
        Values per patch.
    upsample
        "bilinear" (the paper) or "nearest".

    Returns
    -------
    Tensor
        [B, h, w, dims], contiguous.

    Examples
    --------
    >>> import torch
    >>> adaptive_embedding([torch.ones(1, 8, 4, 4), torch.ones(1, 16, 2, 2)], 3, 1, 10, "bilinear").shape
    torch.Size([1, 4, 4, 10])
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
    """Write values [B, C, h', w'] to the outputs from `start` on, and return the number of outputs filled.

    Outputs below `filled` belong to two layers: the values are added to them.
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


def _select_channels(features: Tensor, chosen: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    # Selecting columns of a matrix is an order of magnitude faster than selecting channels of a map.
    rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
    return rows.index_select(1, chosen).view(batch, height, width, -1).permute(0, 3, 1, 2)


def _depthwise(features: Tensor, slots: Sequence[tuple[Tensor, Tensor]], patch_size: int, stride: int) -> Tensor:
    features = features.contiguous(memory_format=torch.channels_last)
    total: Tensor | None = None
    for chosen, kernels in slots:
        selected = _select_channels(features, chosen)
        part = F.conv2d(selected, kernels, stride=stride, padding=(patch_size - 1) // 2, groups=len(kernels))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


@lru_cache(maxsize=32)
def _slots(
    channels: int, patch_size: int, layers: int, layer: int, dims: int, device: torch.device, dtype: torch.dtype
) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """Return the first output of a layer, and the depthwise convolutions that sum to its outputs.

    Each convolution is an input channel per output, int64 [O], and kernels [O, 1, p, p].
    """
    taps = patch_size**2
    values = channels * taps
    # Bin i of the layer averages the values low to high - 1. An output averages `layers` consecutive bins.
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
    # The kernels of a run that ends early are padded with zeros, for which any channel will do.
    return start, [
        ((first + step).clamp(max=channels - 1).to(device), kernels[:, step].contiguous()) for step in range(reach)
    ]
