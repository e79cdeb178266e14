"""Numbers as text."""

from __future__ import annotations

import pytest

from patchcore_plugin.evaluation.report.format import MISSING, number, percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, MISSING),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.875, "87.5%"),
        (1 / 31, "3.23%"),
        (2499 / 2500, "99.96%"),
        (0.99995, "99.99%"),
        (0.9999999, "99.99%"),
        (0.9994, "99.9%"),
        (1e-6, "0.0001%"),
    ],
)
def test_only_one_is_100_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, MISSING), (0, "0"), (52.88, "52.88"), (-2.5, "-2.500"), (1234.5, "1,234"), (1e-5, "1e-05"), (2e9, "2e+09")],
)
def test_numbers_of_any_magnitude(value: float | None, text: str) -> None:
    assert number(value) == text
