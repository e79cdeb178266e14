"""What the images score that a bank is made of, each judged by a bank that does not know it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.types import Progress
from patchcore_plugin.models.calibration import fit_order
from patchcore_plugin.models.detector import Detector
from patchcore_plugin.models.fitting.learners import Judged, Kept, Learner
from patchcore_plugin.models.fitting.reading import Read


class TrainingScores(Detector):
    """A detector that remembers what its training images got when they were judged for the threshold."""

    training_scores: NDArray[np.float64]
    """Their image scores, in the order in which they were given: float64 [N]. The bank of all images could not tell:
    it knows every defect among them, since a greedy coreset keeps first what is unusual."""

    def _learner(self, capacity: int, progress: Progress | None) -> Learner:
        # Whatever the scorer could do: only kept patches allow to judge all of them.
        return Kept(self._parts, capacity, progress)

    def _finish(self, learning: Learner, read: Read, rate: float | None) -> list[Judged]:
        judged = super()._finish(learning, read, rate)
        order = np.concatenate(fit_order(len(judged), self.seed))
        self.training_scores = np.empty(len(judged))
        self.training_scores[order] = [found.score for found in judged]
        return judged
