"""Thresholds, p-values and colour scales from scores alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from patchcore_plugin.errors import CalibrationError
from patchcore_plugin.models.calibration import Calibration, HeldOutScore, fit_order, folds, held_out, require_rate


def of(scores: list[float], rate: float | None = None) -> Calibration:
    """Return the calibration of good images whose maps peak at ten times their scores."""
    return Calibration.from_held_out([HeldOutScore(score, 0.0, 10 * score) for score in scores], "drawn scores", rate)


def drawn(rng: np.random.Generator, count: int) -> list[float]:
    """Return scores, of which many are equal."""
    return [float(value) for value in rng.integers(0, max(2, count // 2), count) / 4]


# Which images


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 1), (10, 1), (11, 2), (50, 5)])
def test_a_tenth_is_held_out(count: int, expected: int) -> None:
    numbers = held_out(count, seed=3)
    assert len(numbers) == len(set(numbers.tolist())) == expected
    assert numbers.tolist() == sorted(held_out(count, seed=3).tolist())
    assert all(0 <= number < count for number in numbers)
    assert sorted(np.concatenate(fit_order(count, 3)).tolist()) == list(range(count))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, []), (2, [1, 1]), (5, [1] * 5), (12, [3, 3, 2, 2, 2]), (99, [20] * 4 + [19]), (100, [34, 33, 33])],
)
def test_each_image_is_in_one_fold(count: int, sizes: list[int]) -> None:
    parts = folds(count, seed=3)
    assert [len(part) for part in parts] == sizes
    assert Counter(number for part in parts for number in part.tolist()) == Counter(range(count if sizes else 0))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)


def test_another_seed_holds_out_others() -> None:
    assert held_out(100, 0).tolist() != held_out(100, 1).tolist()
    assert [part.tolist() for part in folds(100, 0)] != [part.tolist() for part in folds(100, 1)]


# Rates and p-values


@pytest.mark.parametrize("seed", range(40))
def test_a_image_is_anomalous_where_its_p_value_is_at_most_the_rate(seed: int) -> None:
    """Also where scores are equal, and at every rate that a few images can promise."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    scores = drawn(rng, count)
    rates = [k / (count + 1) for k in range(1, count + 1)]
    for rate in [*rates, *(rng.uniform(1 / (count + 1), 1, 5).tolist())]:
        found = of(scores, rate)
        assert found.threshold is not None
        for score in {*scores, *(value + 0.1 for value in scores), min(scores) - 1, max(scores) + 1}:
            p_value = found.p_value(score)
            assert p_value == (1 + sum(each >= score for each in scores)) / (count + 1)
            assert (score > found.threshold) == (p_value <= rate)
        assert found.false_alarm_rate is not None
        assert found.false_alarm_rate <= rate
        assert found.map_threshold == 10 * found.threshold


def test_the_promise_is_kept() -> None:
    """Of scores from one distribution, ties and all, the share above the threshold is at most the rate, on average."""
    rng = np.random.default_rng(0)
    above = []
    for _ in range(4000):
        values = rng.integers(0, 12, 20).tolist()
        found = of(values[:-1], 0.1)
        assert found.threshold is not None
        above.append(values[-1] > found.threshold)
    assert 0.02 < np.mean(above) <= 0.1
    distinct = rng.random((4000, 20))
    hit = np.mean([values[-1] > (of(values[:-1].tolist(), 0.1).threshold or 0) for values in distinct])
    assert hit == pytest.approx(0.1, abs=0.015)


def test_the_smallest_rate_is_accepted_whatever_it_is_in_binary() -> None:
    for count in range(1, 10_001):
        smallest = 1 / (count + 1)
        require_rate(smallest, count)
        with pytest.raises(CalibrationError):
            require_rate(smallest * (1 - 1e-6), count)
    for count in (*range(1, 400), 9_999):
        found = of([float(number) for number in range(count)], 1 / (count + 1))
        assert (found.threshold, found.smallest_rate) == (count - 1, 1 / (count + 1))
    # 0.1 x 10 and the like must be whole numbers.
    for count in range(1, 200):
        scores = [float(number) for number in range(count)]
        for place in range(1, count + 1):
            assert of(scores, place / (count + 1)).threshold == count - place
        for tenth in range(1, 10):
            place = math.floor(Fraction(tenth, 10) * (count + 1))
            if place:
                assert of(scores, tenth / 10).threshold == count - place


def test_a_rate_near_one_calls_all_but_the_lowest_anomalous() -> None:
    found = of([1.0, 2.0, 3.0], math.nextafter(1, 0))
    assert found.threshold == 1.0
    assert found.false_alarm_rate == 0.75


@pytest.mark.parametrize(
    ("rate", "images", "said"),
    [
        (
            0.01,
            50,
            "a false-alarm rate of 0.01 needs at least 99 good images that the bank does not know, and there are 50, "
            "which can promise 0.0197 at best; give more good images, or ask for a higher rate",
        ),
        (
            0.0001,
            2,
            "a false-alarm rate of 0.0001 needs at least 9,999 good images that the bank does not know, and there are "
            "2, which can promise 0.3334 at best; give more good images, or ask for a higher rate",
        ),
        (
            0.5,
            0,
            "a false-alarm rate of 0.5 needs at least 1 good images that the bank does not know, and there are 0, "
            "which can promise nothing; give more good images, or ask for a higher rate",
        ),
        (0.0, 9, "a false-alarm rate lies between 0 and 1, such as 0.01 for 1 %; got 0"),
        (1.0, 9, "a false-alarm rate lies between 0 and 1, such as 0.01 for 1 %; got 1"),
        (math.nan, 9, "a false-alarm rate lies between 0 and 1, such as 0.01 for 1 %; got nan"),
    ],
)
def test_a_rate_that_cannot_be_promised(rate: float, images: int, said: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        require_rate(rate, images)
    assert str(caught.value) == said


def test_the_rate_that_is_said_to_be_possible_is() -> None:
    for count in range(1, 3000):
        with pytest.raises(CalibrationError) as caught:
            require_rate(1e-9, count)
        require_rate(float(str(caught.value).partition("can promise ")[2].split()[0]), count)


@pytest.mark.parametrize(("count", "threshold"), [(3, 2.0), (98, 97.0), (99, 98.0), (199, 197.0)])
def test_one_percent_or_as_little_as_can_be(count: int, threshold: float) -> None:
    found = of([float(number) for number in range(count)])
    assert found.threshold == threshold
    assert found.false_alarm_rate == pytest.approx(max(0.01, 1 / (count + 1)))


# Defective images


def brute(good: list[float], bad: list[float]) -> list[tuple[int, int]]:
    """Return (missed, false alarms) for all thresholds that differ."""
    values = sorted({*good, *bad})
    thresholds = [values[0] - 1, *values]
    return [(sum(each <= t for each in bad), sum(each > t for each in good)) for t in thresholds]


@pytest.mark.parametrize("seed", range(30))
def test_f1_and_cost_are_the_best_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good, bad = drawn(rng, int(rng.integers(1, 15))), [each + 1 for each in drawn(rng, int(rng.integers(1, 9)))]
    known = of(good).with_defective(bad)

    def counted(found: Calibration) -> tuple[int, int]:
        assert found.threshold is not None
        assert found.threshold not in {*good, *bad} - {max(*good, *bad)}
        return sum(each <= found.threshold for each in bad), sum(each > found.threshold for each in good)

    def f1(missed: int, alarms: int) -> Fraction:
        return Fraction(2 * (len(bad) - missed), 2 * (len(bad) - missed) + missed + alarms)

    possible = brute(good, bad)
    best = counted(known.at_best_f1())
    assert f1(*best) == max(f1(*each) for each in possible)
    assert best[1] == min(alarms for missed, alarms in possible if f1(missed, alarms) == f1(*best))
    for cost in (0.25, 1.0, 10.0):
        found = known.at_lowest_cost(cost)
        missed, alarms = counted(found)
        assert cost * missed + alarms == min(cost * m + a for m, a in possible)
        assert (found.criterion, found.cost) == ("cost", cost)
        if alarms < len(good):
            # As many good images have a region as are above the threshold.
            assert sum(peak > (found.map_threshold or 0) for peak in found.peaks) <= alarms
            assert found.false_alarm_rate == (alarms + 1) / (len(good) + 1)


def test_what_is_apart_is_told_apart_in_the_middle() -> None:
    known = of([1.0, 2.0]).with_defective([4.0, 5.0])
    assert known.at_best_f1().threshold == known.at_lowest_cost(3).threshold == 3.0


def test_a_rate_forgets_how_the_threshold_was_chosen_before() -> None:
    known = of([1.0, 2.0, 3.0]).with_defective([9.0])
    assert known.at_lowest_cost(2).at_rate(0.5) == known.at_rate(0.5)
    assert known.at_lowest_cost(2).at_best_f1() == known.at_best_f1()


@pytest.mark.parametrize("criterion", ["f1", "cost"])
def test_without_defective_images_there_is_nothing_to_choose_by(criterion: str) -> None:
    known = of([1.0, 2.0])
    with pytest.raises(CalibrationError) as caught:
        known.at_best_f1() if criterion == "f1" else known.at_lowest_cost(1)
    assert str(caught.value) == f"a threshold by {criterion} needs images of defective parts; give some (--defective)"


@pytest.mark.parametrize("cost", [0.0, -1.0, math.inf, math.nan])
def test_a_miss_costs_something(cost: float) -> None:
    with pytest.raises(CalibrationError) as caught:
        of([1.0]).with_defective([2.0]).at_lowest_cost(cost)
    assert str(caught.value) == f"the cost of a missed defect, in false alarms, must be above 0, got {cost:g}"


def test_a_threshold_from_elsewhere_takes_that_of_the_map_along() -> None:
    known = of([1.0, 2.0, 3.0])
    assert (known.at_threshold(2.5).map_threshold, known.at_threshold(2.0).map_threshold) == (20.0, 20.0)
    assert known.at_threshold(9.0).map_threshold == 30.0
    below = known.at_threshold(0.5)
    assert (below.map_threshold, below.false_alarm_rate) == (10.0, None)
    with pytest.raises(CalibrationError, match="a threshold must be a finite number, got nan"):
        known.at_threshold(math.nan)


# Words, colours and files


def test_it_says_where_the_threshold_comes_from() -> None:
    known = of([1.0, 2.0, 3.0]).with_defective([2.5])
    assert known.describe() == "at most 25.00% false alarms; drawn scores"
    assert known.at_best_f1().describe() == "best F1 score, 1 of 3 good images above it; drawn scores"
    assert known.at_lowest_cost(0.5).describe() == (
        "least cost where a miss costs 0.5 false alarms, 0 of 3 good images above it; drawn scores"
    )
    assert known.at_threshold(0.0).describe() == "3 of 3 good images above it; drawn scores"
    assert Calibration.without_threshold("not fitted").describe() == "none: not fitted"
    assert Calibration.without_threshold("not fitted").p_value(1.0) is None


@pytest.mark.parametrize("offset", [0.0, -100.0, 1000.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_the_scale_rises_and_leaves_room_above_good_parts(offset: float, spread: float) -> None:
    grid = np.linspace(offset, offset + spread, 64, dtype=np.float32).reshape(8, 8)
    found = Calibration.from_held_out([HeldOutScore.summarise(score, grid) for score in (1.0, 3.0)], "maps")
    low, high = found.map_scale
    assert offset <= low <= offset + spread
    assert high > low
    assert high >= offset + spread
    assert found.map_threshold == offset + spread


def test_methods_without_maps_have_no_threshold_for_them() -> None:
    found = Calibration.from_held_out(
        [HeldOutScore.summarise(score, None) for score in (1.0, 3.0)], "no maps"
    ).with_defective([2.0])
    for each in (found, found.at_best_f1(), found.at_threshold(2)):
        assert (each.map_threshold, each.map_scale, each.peaks) == (None, (0.0, 1.0), ())


def test_round_trip() -> None:
    known = of([3.0, 1.0]).with_defective([7.0, 4.0])
    for each in (known, known.at_lowest_cost(2.5), Calibration.without_threshold("x")):
        assert Calibration.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert known.threshold == 3.0


def test_what_older_versions_wrote_is_read() -> None:
    old = {"threshold": 2.5, "source": "highest score of 2 of 12 good images, held out", "map_scale": [0.5, 2.0]}
    found = Calibration.from_dict(old)
    assert (found.threshold, found.map_threshold, found.p_value(9.0), found.false_alarm_rate) == (2.5, None, None, None)
    assert found.describe() == old["source"]
