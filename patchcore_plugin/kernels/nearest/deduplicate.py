"""Removal of duplicate rows."""

from __future__ import annotations

import torch
from torch import Tensor

from patchcore_plugin.kernels.screening import chunk_rows


def distinct_rows(bank: Tensor) -> Tensor:
    """Return the rows of a bank [M, D] that equal no earlier row, ascending, int64."""
    bits = bank.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[bank.element_size()])
    weights = torch.randint(1, 2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0)) | 1
    weights = weights.to(bank.device)
    # Integer sums wrap around but never round, so equal rows have equal keys.
    keys = torch.cat([(part.long() * weights).sum(dim=1) for part in bits.split(chunk_rows(bits))])
    order = keys.argsort(stable=True)
    same_key = keys[order[1:]] == keys[order[:-1]]
    later, earlier = order[1:][same_key], order[:-1][same_key]
    copies = torch.ones_like(later, dtype=torch.bool)
    for low in range(0, len(later), chunk_rows(bank)):
        part = slice(low, low + chunk_rows(bank))
        copies[part] = (bank[later[part]] == bank[earlier[part]]).all(dim=1)
    distinct = torch.ones(len(bank), dtype=torch.bool, device=bank.device)
    distinct[later[copies]] = False
    return distinct.nonzero().flatten()
