"""The scores of one member for one image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from patchcore_plugin.plugins.protocols import Patches, Scorer


class ImageScores(NamedTuple):
    """The scores of one member for one image.

    Parameters
    ----------
    score
        Image score.
    map
        Patch scores, float32 [h, w]; None for scorers without maps.
    nearest
        Row of the memory bank nearest to each patch, int64 [h, w]; None if the scorer returns none.
    """

    score: float
    map: NDArray[np.float32] | None
    nearest: NDArray[np.int64] | None = None


@torch.inference_mode()
def score_patches(scorer: Scorer, patches: Patches) -> list[ImageScores]:
    """Return the scores of each image of a batch, on the CPU.

    Parameters
    ----------
    scorer
        A fitted scorer.
    patches
        Patches of a batch of images.
    """
    scores = scorer(patches)
    missing = [None] * len(scores.image)
    maps = missing if scores.map is None else scores.map.cpu().numpy()
    rows = missing if scores.nearest is None else scores.nearest.cpu().numpy()
    return [ImageScores(*fields) for fields in zip(scores.image.tolist(), maps, rows, strict=True)]
