"""The threshold of a model and the colour scale of its maps, from scores of held-out good images.

Let s_1, ..., s_n be the scores of n good images that the model was not fitted on. A new good image is equally likely to
take any rank among them, and its conformal p-value, p = (1 + number of s_i >= s) / (n + 1), is at most r with
probability at most r (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005). Calling an image
anomalous where p <= r means comparing its score with the k-th highest s_i, k = floor(r (n + 1)). This is the threshold
for a false-alarm rate r; there is none for rates below 1 / (n + 1). The highest values of the maps of these images give
a threshold for maps in the same way: at most a share r of good images exceeds it anywhere.

The scores of a fit are cross-fitted: each image is scored by a memory bank of most other images, which is slightly
poorer than the final one, so the false-alarm rate is, if anything, lower than guaranteed. A threshold that was
chosen by anything but a rate, such as the F1 score on these very images, has no guarantee, only an estimate.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from patchcore_plugin.errors import CalibrationError

from .held_out_score import HeldOutScore
from .rates import require_defective, require_rate

FALSE_ALARM_RATE = 0.01
"""Default target; with too few images for it, the lowest rate that they support."""

Criterion = Literal["false-alarms", "f1", "cost", "given"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Threshold and colour scale of a model.

    Parameters
    ----------
    threshold
        Images with higher scores are defective; None if no good image was scored.
    source
        Origin of the scores, for messages.
    map_scale
        Map values of the first and the last colour, the same for all images.
    map_threshold
        Higher map values belong to defects; None without maps.
    scores, peaks
        Image scores of held-out good images, and maxima of their maps; ascending.
    defective
        Image scores of defective images, if any; ascending.
    criterion
        How the threshold was chosen.
    cost
        Cost of a missed defect in false alarms, for the criterion "cost".
    rate
        Target false-alarm rate; None for `FALSE_ALARM_RATE`, or the lowest above it that the number of images supports.

    Examples
    --------
    >>> calibration = Calibration.from_held_out([HeldOutScore(score) for score in (1.0, 2.0, 3.0)], "three images")
    >>> calibration.threshold, calibration.false_alarm_rate, calibration.p_value(2.5)
    (3.0, 0.25, 0.5)
    """

    threshold: float | None
    source: str
    map_scale: tuple[float, float]
    map_threshold: float | None = None
    scores: tuple[float, ...] = ()
    peaks: tuple[float, ...] = ()
    defective: tuple[float, ...] = ()
    criterion: Criterion = "false-alarms"
    cost: float | None = None
    rate: float | None = None

    @classmethod
    def without_threshold(cls, reason: str, highest: float = 1.0) -> Calibration:
        """Return the calibration of a model without held-out scores.

        Parameters
        ----------
        reason
            Why there are none.
        highest
            Map value of the last colour.
        """
        return cls(threshold=None, source=f"none: {reason}", map_scale=(0.0, highest))

    @classmethod
    def from_held_out(cls, good: Sequence[HeldOutScore], source: str, rate: float | None = None) -> Calibration:
        """Return the calibration by held-out scores.

        Parameters
        ----------
        good
            Scores of one or more good images.
        source
            Origin of the scores, for messages.
        rate
            Target false-alarm rate; None for the default. See `at_rate`.
        """
        peaks = [image.highest for image in good if image.highest is not None]
        scale = (0.0, 1.0)
        if peaks:
            usual = float(np.median([image.usual for image in good if image.usual is not None]))
            highest = max(peaks)
            # Most of a good part stays without colour and its most unusual spot gets a little.
            low = (usual + highest) / 2
            scale = (low, max(highest + 0.5 * abs(highest), low + 1e-6))
        scores = _ascending(image.score for image in good)
        plain = cls(threshold=None, source=source, map_scale=scale, scores=scores, peaks=_ascending(peaks))
        return plain.at_rate(rate)

    @property
    def smallest_rate(self) -> float:
        """Lowest false-alarm rate that n held-out scores can guarantee, 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    @property
    def false_alarm_rate(self) -> float | None:
        """Guaranteed false-alarm rate; an estimate, if the threshold was not chosen by a rate.

        None for a threshold below all held-out scores, or without any.
        """
        if self.threshold is None or not self.scores:
            return None
        above = self._above(self.threshold)
        return (above + 1) / (len(self.scores) + 1) if above < len(self.scores) else None

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value of an image score; None without held-out scores.

        At most a share p of good images has a p-value of at most p.
        """
        if not self.scores:
            return None
        at_least = len(self.scores) - bisect_left(self.scores, score)
        return (at_least + 1) / (len(self.scores) + 1)

    def at_rate(self, rate: float | None = None) -> Calibration:
        """Return a calibration with the threshold for a false-alarm rate.

        Parameters
        ----------
        rate
            Between 0 and 1; None for `FALSE_ALARM_RATE`, or the lowest that the number of held-out scores supports.

        Raises
        ------
        CalibrationError
            If there are too few held-out scores for the rate.
        """
        requested = rate
        if rate is None:
            rate = max(FALSE_ALARM_RATE, self.smallest_rate)
        require_rate(rate, len(self.scores))
        # The tolerance makes a rate of 1/49 with 48 images give 1, although 1/49 is rounded in binary.
        place = min(math.floor(rate * (len(self.scores) + 1) * (1 + 1e-12)), len(self.scores))
        return dataclasses.replace(
            self,
            threshold=self.scores[-place],
            map_threshold=self.peaks[-place] if self.peaks else None,
            criterion="false-alarms",
            cost=None,
            rate=requested,
        )

    def at_threshold(self, threshold: float) -> Calibration:
        """Return a calibration with a given threshold, and the map threshold that as many good images exceed.

        Raises
        ------
        CalibrationError
            If it is not finite.
        """
        if not math.isfinite(threshold):
            raise CalibrationError(f"the threshold must be a finite number, got {threshold:g}")
        return self._at(float(threshold), "given")

    def with_defective(self, scores: Iterable[float]) -> Calibration:
        """Return a calibration with the image scores of defective images; the threshold stays."""
        return dataclasses.replace(self, defective=_ascending(scores))

    def at_best_f1(self) -> Calibration:
        """Return a calibration with the threshold of the highest F1 score on good and defective images.

        Raises
        ------
        CalibrationError
            If no defective images were given.
        """

        def loss(missed: int, alarms: int) -> float:
            hits = len(self.defective) - missed
            return -2 * hits / (2 * hits + missed + alarms)

        return self._at_lowest(loss, "f1", None)

    def at_lowest_cost(self, cost: float) -> Calibration:
        """Return a calibration with the threshold of the lowest cost on good and defective images.

        Parameters
        ----------
        cost
            Cost of a missed defect, in false alarms.

        Raises
        ------
        CalibrationError
            If no defective images were given, or the cost is not above 0.
        """
        if not (math.isfinite(cost) and cost > 0):
            raise CalibrationError(f"the cost of a missed defect, in false alarms, must be above 0, got {cost:g}")
        return self._at_lowest(lambda missed, alarms: cost * missed + alarms, "cost", cost)

    def extend(self, good: Sequence[HeldOutScore]) -> Calibration:
        """Return a calibration with further held-out scores, and a threshold chosen in the same way.

        The colour scale stays, so that maps before and after can be compared; scores of defective images stay, too.
        """
        if not good:
            return self
        count = len(self.scores) + len(good)
        source = f"scores of {count} good images, each scored before the model was fitted on it"
        new = Calibration.from_held_out(good, source)
        if not self.scores:
            return new.with_defective(self.defective)
        extended = dataclasses.replace(
            self,
            source=source,
            scores=_ascending(self.scores + new.scores),
            peaks=_ascending(self.peaks + new.peaks),
        )
        if self.criterion == "f1":
            return extended.at_best_f1()
        if self.criterion == "cost":
            return extended.at_lowest_cost(self.cost or 1.0)
        if self.criterion == "given" and self.threshold is not None:
            return extended.at_threshold(self.threshold)
        return extended.at_rate(self.rate)

    def _at_lowest(self, loss: Callable[[int, int], float], criterion: Criterion, cost: float | None) -> Calibration:
        require_defective(criterion, self.defective)
        good, bad = np.array(self.scores), np.array(self.defective)
        values = np.unique(np.concatenate([good, bad]))
        # In the middle of each gap, so that no image lies on the threshold.
        between = np.concatenate([[np.nextafter(values[0], -np.inf)], (values[:-1] + values[1:]) / 2, values[-1:]])
        losses = [loss(int((bad <= candidate).sum()), int((good > candidate).sum())) for candidate in between]
        best = min(losses)
        # Among equally good thresholds, the one with the fewest false alarms.
        threshold = float(max(candidate for candidate, value in zip(between, losses, strict=True) if value <= best))
        return self._at(threshold, criterion, cost)

    def _at(self, threshold: float, criterion: Criterion, cost: float | None = None) -> Calibration:
        above = self._above(threshold)
        peak = self.peaks[-above - 1 if above < len(self.peaks) else 0] if self.peaks else None
        return dataclasses.replace(
            self, threshold=threshold, map_threshold=peak, criterion=criterion, cost=cost, rate=None
        )

    def _above(self, threshold: float) -> int:
        return len(self.scores) - bisect_right(self.scores, threshold)

    def describe(self) -> str:
        """Return a line about the threshold and where its scores come from."""
        if self.threshold is None or not self.scores:
            return self.source
        if self.criterion == "false-alarms":
            return f"at most {self.false_alarm_rate:.2%} false alarms; {self.source}"
        chosen = {
            "f1": "best F1 score, ",
            "cost": f"lowest cost with a missed defect counted as {self.cost or 0:g} false alarms, ",
        }
        above = f"{self._above(self.threshold)} of {len(self.scores)} good images above it"
        return f"{chosen.get(self.criterion, '')}{above}; {self.source}"

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON-like data; `from_dict` takes it back."""
        return {**dataclasses.asdict(self), "map_scale": list(self.map_scale)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` of this or an older version described."""
        known = {field.name for field in dataclasses.fields(cls)}
        lists = ("map_scale", "scores", "peaks", "defective")
        values: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in data.items()}
        return cls(**{key: value for key, value in values.items() if key in known})


def _ascending(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted(float(value) for value in values))
