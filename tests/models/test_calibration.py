"""Thresholds, p-values and colour scales from scores alone."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from patchcore_plugin.errors import CalibrationError
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from patchcore_plugin.models.rates import require_defective, require_rate


def calibrate(scores: list[float], rate: float | None = None) -> Calibration:
    """Return the calibration by good images whose maps peak at ten times their scores."""
    return Calibration.from_held_out([HeldOutScore(score, 0.0, 10 * score) for score in scores], "drawn scores", rate)


def draw(rng: np.random.Generator, count: int) -> list[float]:
    """Return scores, many of which are equal."""
    return [float(value) for value in rng.integers(0, max(2, count // 2), count) / 4]


# Rates and p-values


@pytest.mark.parametrize("seed", range(40))
def test_an_image_is_anomalous_where_its_p_value_is_at_most_the_rate(seed: int) -> None:
    """Also where scores are equal, and at every rate that the number of images supports."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    scores = draw(rng, count)
    rates = [k / (count + 1) for k in range(1, count + 1)]
    for rate in [*rates, *(rng.uniform(1 / (count + 1), 1, 5).tolist())]:
        calibration = calibrate(scores, rate)
        assert calibration.threshold is not None
        for score in {*scores, *(value + 0.1 for value in scores), min(scores) - 1, max(scores) + 1}:
            p_value = calibration.p_value(score)
            assert p_value == (1 + sum(each >= score for each in scores)) / (count + 1)
            assert (score > calibration.threshold) == (p_value <= rate)
        assert calibration.false_alarm_rate is not None
        assert calibration.false_alarm_rate <= rate
        assert calibration.map_threshold == 10 * calibration.threshold


def test_the_rate_is_guaranteed() -> None:
    """The average share of scores above the threshold is at most the rate, for scores with ties as well."""
    rng = np.random.default_rng(0)
    above = []
    for _ in range(4000):
        values = rng.integers(0, 12, 20).tolist()
        calibration = calibrate(values[:-1], 0.1)
        assert calibration.threshold is not None
        above.append(values[-1] > calibration.threshold)
    assert 0.02 < np.mean(above) <= 0.1
    distinct = rng.random((4000, 20))
    hit = np.mean([values[-1] > (calibrate(values[:-1].tolist(), 0.1).threshold or 0) for values in distinct])
    assert hit == pytest.approx(0.1, abs=0.015)


def test_rates_do_not_depend_on_their_binary_rounding() -> None:
    for count in (*range(1, 1000), *range(1000, 10_001, 37)):
        smallest = 1 / (count + 1)
        require_rate(smallest, count)
        with pytest.raises(CalibrationError):
            require_rate(smallest * (1 - 1e-6), count)
    for count in (*range(1, 400), 9_999):
        calibration = calibrate([float(number) for number in range(count)], 1 / (count + 1))
        assert (calibration.threshold, calibration.smallest_rate) == (count - 1, 1 / (count + 1))
    # Products such as 0.1 x 10 are whole numbers.
    for count in range(1, 100):
        scores = [float(number) for number in range(count)]
        for place in range(1, count + 1):
            assert calibrate(scores, place / (count + 1)).threshold == count - place
        for tenth in range(1, 10):
            place = math.floor(Fraction(tenth, 10) * (count + 1))
            if place:
                assert calibrate(scores, tenth / 10).threshold == count - place


def test_a_rate_near_one_calls_all_but_the_lowest_anomalous() -> None:
    calibration = calibrate([1.0, 2.0, 3.0], math.nextafter(1, 0))
    assert calibration.threshold == 1.0
    assert calibration.false_alarm_rate == 0.75


@pytest.mark.parametrize(
    ("rate", "images", "facts"),
    [
        (0.01, 50, r"at least 99 .*there are 50, which guarantee 0\.0197 "),
        (0.0001, 2, r"at least 9,999 .*there are 2, which guarantee 0\.3334 "),
        (0.5, 0, "at least 1 .*there are 0, which guarantee nothing"),
        (0.0, 9, "between 0 and 1.*got 0$"),
        (1.0, 9, "between 0 and 1.*got 1$"),
        (math.nan, 9, "between 0 and 1.*got nan$"),
    ],
)
def test_a_rate_that_cannot_be_guaranteed_is_refused(rate: float, images: int, facts: str) -> None:
    with pytest.raises(CalibrationError, match=facts):
        require_rate(rate, images)


def test_the_rate_that_the_message_names_is_possible() -> None:
    for count in range(1, 3000):
        with pytest.raises(CalibrationError) as caught:
            require_rate(1e-9, count)
        require_rate(float(str(caught.value).partition("which guarantee ")[2].split()[0]), count)


@pytest.mark.parametrize(("count", "threshold"), [(3, 2.0), (98, 97.0), (99, 98.0), (199, 197.0)])
def test_the_default_is_one_percent_or_the_lowest_possible(count: int, threshold: float) -> None:
    calibration = calibrate([float(number) for number in range(count)])
    assert calibration.threshold == threshold
    assert calibration.false_alarm_rate == pytest.approx(max(0.01, 1 / (count + 1)))


# Defective images


def all_counts(good: list[float], bad: list[float]) -> list[tuple[int, int]]:
    """Return (missed, false alarms) for all different thresholds."""
    values = sorted({*good, *bad})
    thresholds = [values[0] - 1, *values]
    return [(sum(each <= t for each in bad), sum(each > t for each in good)) for t in thresholds]


@pytest.mark.parametrize("seed", range(30))
def test_f1_and_cost_are_the_best_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good, bad = draw(rng, int(rng.integers(1, 15))), [each + 1 for each in draw(rng, int(rng.integers(1, 9)))]
    calibration = calibrate(good).with_defective(bad)

    def counts(calibration: Calibration) -> tuple[int, int]:
        assert calibration.threshold is not None
        assert calibration.threshold not in {*good, *bad} - {max(*good, *bad)}
        return sum(each <= calibration.threshold for each in bad), sum(each > calibration.threshold for each in good)

    def f1(missed: int, alarms: int) -> Fraction:
        return Fraction(2 * (len(bad) - missed), 2 * (len(bad) - missed) + missed + alarms)

    possible = all_counts(good, bad)
    best = counts(calibration.at_best_f1())
    assert f1(*best) == max(f1(*each) for each in possible)
    assert best[1] == min(alarms for missed, alarms in possible if f1(missed, alarms) == f1(*best))
    for cost in (0.25, 1.0, 10.0):
        chosen = calibration.at_lowest_cost(cost)
        missed, alarms = counts(chosen)
        assert cost * missed + alarms == min(cost * m + a for m, a in possible)
        assert (chosen.criterion, chosen.cost) == ("cost", cost)
        if alarms < len(good):
            # At most as many good images have a region as are above the threshold.
            assert sum(peak > (chosen.map_threshold or 0) for peak in chosen.peaks) <= alarms
            assert chosen.false_alarm_rate == (alarms + 1) / (len(good) + 1)


def test_the_threshold_is_in_the_middle_of_the_gap() -> None:
    calibration = calibrate([1.0, 2.0]).with_defective([4.0, 5.0])
    assert calibration.at_best_f1().threshold == calibration.at_lowest_cost(3).threshold == 3.0


def test_a_rate_replaces_another_criterion() -> None:
    calibration = calibrate([1.0, 2.0, 3.0]).with_defective([9.0])
    assert calibration.at_lowest_cost(2).at_rate(0.5) == calibration.at_rate(0.5)
    assert calibration.at_lowest_cost(2).at_best_f1() == calibration.at_best_f1()


@pytest.mark.parametrize("criterion", ["f1", "cost"])
def test_a_criterion_without_defective_images_is_refused(criterion: str) -> None:
    calibration = calibrate([1.0, 2.0])
    with pytest.raises(CalibrationError, match=f"{criterion} needs .*--defective"):
        calibration.at_best_f1() if criterion == "f1" else calibration.at_lowest_cost(1)
    with pytest.raises(CalibrationError, match="--defective"):
        require_defective(criterion, [])
    require_defective(criterion, [1.0])


@pytest.mark.parametrize("cost", [0.0, -1.0, math.inf, math.nan])
def test_the_cost_must_be_above_zero(cost: float) -> None:
    with pytest.raises(CalibrationError, match=f"above 0, got {cost:g}"):
        calibrate([1.0]).with_defective([2.0]).at_lowest_cost(cost)


def test_a_given_threshold_has_a_threshold_for_maps() -> None:
    calibration = calibrate([1.0, 2.0, 3.0])
    assert (calibration.at_threshold(2.5).map_threshold, calibration.at_threshold(2.0).map_threshold) == (20.0, 20.0)
    assert calibration.at_threshold(9.0).map_threshold == 30.0
    below = calibration.at_threshold(0.5)
    assert (below.map_threshold, below.false_alarm_rate) == (10.0, None)
    with pytest.raises(CalibrationError, match="finite number, got nan"):
        calibration.at_threshold(math.nan)


# Descriptions, colours and data


def test_the_description_has_criterion_and_source() -> None:
    calibration = calibrate([1.0, 2.0, 3.0]).with_defective([2.5])
    descriptions = {
        "25.00% false alarms": calibration,
        "best F1 score, 1 of 3 good images above it": calibration.at_best_f1(),
        "0.5 false alarms, 0 of 3 good images above it": calibration.at_lowest_cost(0.5),
        "3 of 3 good images above it": calibration.at_threshold(0.0),
    }
    for fact, each in descriptions.items():
        assert fact in each.describe()
        assert each.describe().endswith("; drawn scores")
    none = Calibration.without_threshold("not fitted")
    assert none.describe() == "none: not fitted"
    assert (none.p_value(1.0), none.false_alarm_rate, none.map_scale) == (None, None, (0.0, 1.0))


def test_further_scores_keep_the_criterion() -> None:
    more = [HeldOutScore(score, 0.0, 10 * score) for score in (6.0, 0.5, 4.5, 7.0)]
    old = calibrate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert old.at_rate(0.4).extend(more).threshold == 4.5  # the 4th of 9, floor(0.4 x 10)
    assert old.extend(more).threshold == 7.0
    assert old.at_threshold(2.5).extend(more).threshold == 2.5
    defective = old.with_defective([5.5, 8.0, 9.0])
    assert defective.at_best_f1().threshold == 5.25
    assert defective.at_best_f1().extend(more).threshold == 7.5
    cheap = defective.at_lowest_cost(10.0).extend(more)
    assert (cheap.threshold, cheap.criterion, cheap.cost) == (5.25, "cost", 10.0)
    assert cheap.defective == defective.defective
    assert (cheap.map_scale, cheap.peaks[-1]) == (old.map_scale, 70.0)
    none = Calibration.without_threshold("too few").extend(more)
    assert none.scores == (0.5, 4.5, 6.0, 7.0)
    assert old.extend([]) is old


@pytest.mark.parametrize("offset", [0.0, -100.0, 1000.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_colours_start_within_good_images_and_end_above_them(offset: float, spread: float) -> None:
    grid = np.linspace(offset, offset + spread, 64, dtype=np.float32).reshape(8, 8)
    calibration = Calibration.from_held_out([HeldOutScore.summarise(score, grid) for score in (1.0, 3.0)], "maps")
    low, high = calibration.map_scale
    assert offset <= low <= offset + spread
    assert high > low
    assert high >= offset + spread
    assert calibration.map_threshold == offset + spread


def test_scorers_without_maps_have_no_threshold_for_maps() -> None:
    calibration = Calibration.from_held_out(
        [HeldOutScore.summarise(score, None) for score in (1.0, 3.0)], "no maps"
    ).with_defective([2.0])
    for each in (calibration, calibration.at_best_f1(), calibration.at_threshold(2)):
        assert (each.map_threshold, each.map_scale, each.peaks) == (None, (0.0, 1.0), ())


def test_a_calibration_is_restored_from_its_data() -> None:
    calibration = calibrate([3.0, 1.0]).with_defective([7.0, 4.0])
    for each in (calibration, calibration.at_lowest_cost(2.5), Calibration.without_threshold("x")):
        assert Calibration.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert calibration.threshold == 3.0


def test_data_of_older_versions_are_read() -> None:
    old = {"threshold": 2.5, "source": "highest score of 2 of 12 good images, held out", "map_scale": [0.5, 2.0]}
    calibration = Calibration.from_dict(old)
    assert (
        calibration.threshold,
        calibration.map_threshold,
        calibration.p_value(9.0),
        calibration.false_alarm_rate,
    ) == (2.5, None, None, None)
    assert calibration.describe() == old["source"]
