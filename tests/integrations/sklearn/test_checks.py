"""scikit-learn's checks of estimators. They use tables; each row is drawn as an image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from patchcore_plugin.integrations.sklearn import PatchCoreDetector
from tests.integrations.sklearn.pixels import Array

pytestmark = pytest.mark.slow


class TableDetector(PatchCoreDetector):
    """The detector for tables: a grey image is drawn of each row."""

    def fit(self, X: Any, y: object = None) -> Any:
        return super().fit(draw_rows(validate_data(self, X)))

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        return super().score_samples(draw_rows(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags


def draw_rows(rows: Array) -> npt.NDArray[np.float64]:
    """Draw tables [N, F] as images [N, F, 8], a bar for each number."""
    unit: npt.NDArray[np.float64] = np.arctan(rows.astype(np.float64)) / np.pi + 0.5
    return np.repeat(unit[:, :, None], 8, axis=2)


KNOWN = "predict uses a bank of all training images; fit_predict and labels_ use banks of the others"


MEANINGLESS = {"check_outliers_fit_predict": KNOWN, "check_outliers_train": KNOWN}
"""Checks that do not apply to PatchCore; docs/scikit-learn.md has the same list."""


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [TableDetector(backbone="pixels", preprocessing={"size": (8, 8)}, device="cpu")],
    expected_failed_checks=lambda estimator: MEANINGLESS,
)
def test_scikit_learn_checks(estimator: PatchCoreDetector, check: Any) -> None:
    check(estimator)


def test_the_page_lists_the_checks_that_fail() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scikit-learn.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `check_")]
    named = [set(re.findall(r"`(check_\w+)`", row)) for row in rows]
    assert set(MEANINGLESS) <= set().union(*named)
    assert all(hasattr(estimator_checks, name) for name in set().union(*named))


def test_tags() -> None:
    tags = get_tags(PatchCoreDetector())
    assert tags.estimator_type == "outlier_detector"
    assert (tags.input_tags.two_d_array, tags.input_tags.string, tags.requires_fit) == (False, True, True)
