"""When a score is a defect, and which colours a map has: decided on good images that the bank does not know.

Let s_1, ..., s_n be the scores of such images. A new good image is as likely to rank anywhere among them, so that its
conformal p-value, p = (1 + number of s_i >= s) / (n + 1), is at most r with probability at most r (Vovk, Gammerman and
Shafer, "Algorithmic Learning in a Random World", 2005). To call an image anomalous where p <= r is to compare its score
with the k-th highest s_i, k = floor(r (n + 1)): the threshold for a false-alarm rate r, and there is none below
1 / (n + 1). The highest values of their maps give, likewise, a threshold for the map, which at most the same share of
good images passes anywhere.

The scores of a fit are cross-fitted: each image is judged by a bank of most of the others, a little poorer than the
final one, so that the rate that is kept is, if anything, lower than the one promised. A threshold that is chosen by
anything but a rate, such as F1 on these very images, promises none: what is said of it then is an estimate.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.errors import CalibrationError

HELD_OUT = 0.1
"""Fraction of the good images that is held out where patches are not kept."""
FOLDS, FEWER_FOLDS, MANY = 5, 3, 100
"""Into how many parts images are cut where patches are kept; each part is judged by a bank of the others. From `MANY`
images on into fewer: two thirds of them are a bank nearly as good, in less than half of the time."""
FALSE_ALARM_RATE = 0.01
"""The rate that is promised if none is asked for, or the smallest possible, if there are too few images for it."""

Criterion = Literal["false-alarms", "f1", "cost", "given"]


def held_out(count: int, seed: int) -> NDArray[np.int64]:
    """Return which of `count` images are held out: a tenth, at least one, ascending; none of a single image."""
    if count < 2:
        return np.empty(0, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: math.ceil(HELD_OUT * count)])


def fit_order(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order in which a fit reads `count` images: those that are not held out, then `held_out`.

    So what the calibration must not know is the end of one buffer, and nothing is copied.
    """
    late = held_out(count, seed)
    return np.setdiff1d(np.arange(count), late), late


def folds(count: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the parts of `count` images, each ascending, as equal in size as can be; none of a single one."""
    if count < 2:
        return []
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(part) for part in np.array_split(order, FEWER_FOLDS if count >= MANY else min(FOLDS, count))]


class GoodImage(NamedTuple):
    """What a good image got from a model that does not know it.

    Parameters
    ----------
    score
        Its image score.
    usual, highest
        Median and maximum of its anomaly map; None without one.
    """

    score: float
    usual: float | None = None
    highest: float | None = None

    @classmethod
    def of(cls, score: float, anomaly_map: NDArray[np.float32] | None) -> GoodImage:
        """Return that of an image with this score and map [H, W]."""
        if anomaly_map is None:
            return cls(score)
        return cls(score, float(np.median(anomaly_map)), float(anomaly_map.max()))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What scores and maps are compared with.

    Parameters
    ----------
    threshold
        Image scores above it are defects; None if nothing is known of good images' scores.
    source
        Where the scores come from, in words.
    map_scale
        Map values of the lowest and highest colour, the same for all images.
    map_threshold
        Map values above it belong to defects; None without maps.
    scores, peaks
        Image scores of good images that the model does not know, and highest values of their maps; ascending.
    defective
        Image scores of defective images, where some were given; ascending.
    criterion
        What the threshold was chosen by.
    cost
        Cost of a missed defect, in false alarms; where the threshold was chosen by it.
    rate
        The false-alarm rate that was asked for; None for `FALSE_ALARM_RATE`, or the smallest above it.
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
    def none(cls, why: str, highest: float = 1.0) -> Calibration:
        """Return that of a model by which no unknown image was judged; `highest` is a map's last colour."""
        return cls(threshold=None, source=f"none: {why}", map_scale=(0.0, highest))

    @classmethod
    def of_good(cls, good: Sequence[GoodImage], source: str, rate: float | None = None) -> Calibration:
        """Return that of good images, at least one; see `at_rate` for the rate."""
        peaks = [image.highest for image in good if image.highest is not None]
        scale = (0.0, 1.0)
        if peaks:
            usual = float(np.median([image.usual for image in good if image.usual is not None]))
            highest = max(peaks)
            # Most of a good part has no colour and its most unusual spot a little; the rest is for defects.
            low = (usual + highest) / 2
            scale = (low, max(highest + 0.5 * abs(highest), low + 1e-6))
        scores = _ascending(image.score for image in good)
        plain = cls(threshold=None, source=source, map_scale=scale, scores=scores, peaks=_ascending(peaks))
        return plain.at_rate(rate)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-alarm rate that so many good images can promise, 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    @property
    def false_alarm_rate(self) -> float | None:
        """The share of good images that are above `threshold` at most; an estimate, where it was not chosen for a rate.

        None for a threshold below all scores, which says nothing, and where no scores are known.
        """
        if self.threshold is None or not self.scores:
            return None
        above = self._above(self.threshold)
        return (above + 1) / (len(self.scores) + 1) if above < len(self.scores) else None

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value of an image score: how rare good images with such a score are, at most.

        None where the scores of good images are not known.
        """
        if not self.scores:
            return None
        at_least = len(self.scores) - bisect_left(self.scores, score)
        return (at_least + 1) / (len(self.scores) + 1)

    def at_rate(self, rate: float | None = None) -> Calibration:
        """Return it with the threshold for a false-alarm rate; `FALSE_ALARM_RATE`, or the smallest above it, if None.

        Raises
        ------
        CalibrationError
            If so few images cannot promise the rate.
        """
        asked = rate
        if rate is None:
            rate = max(FALSE_ALARM_RATE, self.smallest_rate)
        require_rate(rate, len(self.scores))
        # A rate of 1/49 and 48 images must give 1, whatever 1/49 is in binary.
        place = min(math.floor(rate * (len(self.scores) + 1) * (1 + 1e-12)), len(self.scores))
        return dataclasses.replace(
            self,
            threshold=self.scores[-place],
            map_threshold=self.peaks[-place] if self.peaks else None,
            criterion="false-alarms",
            cost=None,
            rate=asked,
        )

    def at_threshold(self, threshold: float) -> Calibration:
        """Return it with a threshold chosen elsewhere, and that for maps which as many good images pass.

        Raises
        ------
        CalibrationError
            If it is not finite.
        """
        if not math.isfinite(threshold):
            raise CalibrationError(f"a threshold must be a finite number, got {threshold:g}")
        return self._at(float(threshold), "given")

    def with_defective(self, scores: Iterable[float]) -> Calibration:
        """Return it with the image scores of defective images; the threshold stays."""
        return dataclasses.replace(self, defective=_ascending(scores))

    def at_best_f1(self) -> Calibration:
        """Return it with the threshold that has the highest F1 score on the good and defective images.

        Raises
        ------
        CalibrationError
            If no defective images were given.
        """

        def loss(missed: int, alarms: int) -> float:
            found = len(self.defective) - missed
            return -2 * found / (2 * found + missed + alarms)

        return self._at_least(loss, "f1", None)

    def at_least_cost(self, cost: float) -> Calibration:
        """Return it with the threshold of least cost on the good and defective images.

        Parameters
        ----------
        cost
            What a missed defect costs, in false alarms.

        Raises
        ------
        CalibrationError
            If no defective images were given, or the cost is not above 0.
        """
        if not (math.isfinite(cost) and cost > 0):
            raise CalibrationError(f"the cost of a missed defect, in false alarms, must be above 0, got {cost:g}")
        return self._at_least(lambda missed, alarms: cost * missed + alarms, "cost", cost)

    def _at_least(self, loss: Callable[[int, int], float], criterion: Criterion, cost: float | None) -> Calibration:
        require_defective(criterion, self.defective)
        good, bad = np.array(self.scores), np.array(self.defective)
        values = np.unique(np.concatenate([good, bad]))
        # In the middle of each gap, so that no image lies on the threshold.
        between = np.concatenate([[np.nextafter(values[0], -np.inf)], (values[:-1] + values[1:]) / 2, values[-1:]])
        losses = [loss(int((bad <= each).sum()), int((good > each).sum())) for each in between]
        best = min(losses)
        # Of those that are equally good, the one with fewest false alarms.
        threshold = float(max(each for each, value in zip(between, losses, strict=True) if value <= best))
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
        """Say in words what the threshold is and where it comes from."""
        if self.threshold is None or not self.scores:
            return self.source
        if self.criterion == "false-alarms":
            return f"at most {self.false_alarm_rate:.2%} false alarms; {self.source}"
        chosen = {"f1": "best F1 score, ", "cost": f"least cost where a miss costs {self.cost or 0:g} false alarms, "}
        above = f"{self._above(self.threshold)} of {len(self.scores)} good images above it"
        return f"{chosen.get(self.criterion, '')}{above}; {self.source}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like data; `from_dict` takes it back."""
        return {**dataclasses.asdict(self), "map_scale": list(self.map_scale)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Return what `to_dict` described, by this version or an older one, which knew fewer of its fields."""
        known = {field.name for field in dataclasses.fields(cls)}
        lists = ("map_scale", "scores", "peaks", "defective")
        values: dict[str, Any] = {key: tuple(each) if key in lists else each for key, each in data.items()}
        return cls(**{key: value for key, value in values.items() if key in known})


def require_rate(rate: float, images: int) -> None:
    """Refuse a false-alarm rate that so many judged good images cannot promise.

    Raises
    ------
    CalibrationError
        If it is below 1 / (images + 1), or not below 1.
    """
    if not 0 < rate < 1:
        raise CalibrationError(f"a false-alarm rate lies between 0 and 1, such as 0.01 for 1 %; got {rate:g}")
    if rate * (images + 1) * (1 + 1e-12) < 1:
        needed = math.ceil(1 / rate * (1 - 1e-12)) - 1
        # Rounded up: what is said to be possible must be.
        best = (
            f"which can promise {math.ceil(1e4 / (images + 1)) / 1e4:g} at best"
            if images
            else "which can promise nothing"
        )
        raise CalibrationError(
            f"a false-alarm rate of {rate:g} needs at least {needed:,} good images that the bank does not know, and "
            f"there are {images:,}, {best}; give more good images, or ask for a higher rate"
        )


def require_defective(criterion: Criterion, defective: Sequence[object]) -> None:
    """Refuse a criterion that needs defective images where there are none; CalibrationError."""
    if not defective:
        raise CalibrationError(f"a threshold by {criterion} needs images of defective parts; give some (--defective)")


def _ascending(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted(float(value) for value in values))
