"""What the photos score that a bank is made of, each judged by a bank that does not know it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from patchcore_plugin.calibration import fit_order
from patchcore_plugin.detector import Detector
from patchcore_plugin.features import PatchBuffer
from patchcore_plugin.learning import Kept, Learner, Progress


class TrainingScores(Detector):
    """A detector that keeps the patches of its training photos until it has judged them."""

    _features: PatchBuffer | None = None

    def _learner(self, capacity: int, progress: Progress | None) -> Learner:
        kept = Kept(self._parts, capacity, progress)
        self._features = kept.features
        return kept

    def training_scores(self) -> NDArray[np.float64]:
        """Return the image scores of the photos of the last fit, in their order; once, then their patches are gone.

        This is cross-validation: about a tenth of the photos at a time is judged by a bank of the others, as it is
        for the threshold. The bank of all photos knows every defect among them, since a greedy coreset keeps first
        what is unusual. Nor will it do to leave out a photo's own rows: those of a coreset are far from each other,
        so whoever has one would seem far from normal.

        Returns
        -------
        ndarray of float64, shape [N], N at least 2
        """
        features, self._features = self._features, None
        assert features is not None
        count = len(features)
        early, late = fit_order(count, self.seed)
        order = np.concatenate([early, late])
        known = count - len(late)
        rest = np.random.default_rng(self.seed).permutation(known)
        folds = [np.arange(known, count), *np.array_split(rest, math.ceil(known / len(late)))]
        scores = np.empty(count)
        for fold in folds:
            with _at_the_end(fold, features) as at_the_end:
                known = count - len(fold)
                index = self._parts.select(self._parts.sampler(), features.vectors(known))
                scorer = self._parts.fresh_scorer()
                scorer.fit(features.bank(index, known))
                # They are judged while they are there: a bank of all rows is no copy of the buffer.
                for place, photo in enumerate(at_the_end.tolist(), start=known):
                    with torch.inference_mode():
                        scores[order[photo]] = float(scorer(features.patches(place)).image[0])
        return scores


@contextmanager
def _at_the_end(fold: NDArray[np.int64], features: PatchBuffer) -> Iterator[NDArray[np.int64]]:
    """Let the last photos take the places of those in `fold`; yield which are the last ones then, in order.

    The others are the start of the buffer then, and need not be copied, which would double the memory.
    """
    now = np.arange(len(features))
    last = now[len(features) - len(fold) :].copy()
    places, movers = np.setdiff1d(fold, last), np.setdiff1d(last, fold)
    now[places], now[movers] = movers, places
    features.exchange(places.tolist(), movers.tolist())
    try:
        yield now[last]
    finally:
        features.exchange(places.tolist(), movers.tolist())
