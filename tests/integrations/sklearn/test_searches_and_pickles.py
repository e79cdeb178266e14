"""Searches, pipelines, other processes and pickles."""

from __future__ import annotations

import functools
import io
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from patchcore_plugin.integrations.sklearn import PatchCoreDetector
from tests.integrations.sklearn.pixels import BAD, GOOD, Array, pixel_detector

pytestmark = pytest.mark.slow


def crop(images: Sequence[Array]) -> list[Array]:
    return [image[4:-4] for image in images]


def test_grid_search_and_pipeline() -> None:
    images, y = [*GOOD, *BAD], np.r_[np.ones(len(GOOD)), -np.ones(len(BAD))]
    good, bad = np.flatnonzero(y == 1), np.flatnonzero(y == -1)
    splits = [(good[train], np.r_[good[test], bad]) for train, test in KFold(3).split(good)]
    estimator = PatchCoreDetector(backbone="pixels", preprocessing={"size": (24, 32)}, device="cpu")
    pipeline = make_pipeline(FunctionTransformer(crop), estimator)
    # A blot is dark, so that a scorer for bright patches misses it.
    grid = [{"patchcoredetector__sampler__ratio": [0.01, 0.1]}, {"patchcoredetector__scorer": ["whole-image"]}]
    search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=splits, refit=False, error_score="raise")
    search.fit(images, y)
    scores = search.cv_results_["mean_test_score"]
    assert min(scores[:2]) == 1
    assert scores[2] < 0.9
    assert search.best_params_ == {"patchcoredetector__sampler__ratio": 0.01}
    pipeline.set_params(**search.best_params_).fit(list(GOOD))
    assert len(pipeline[-1].detector_.bank.vectors) == np.ceil(0.01 * 12 * 12 * 16)
    assert roc_auc_score(y, pipeline.decision_function(images)) == 1


def test_several_processes() -> None:
    """Estimators are pickled to other processes before the fit, and back after it."""
    estimator = PatchCoreDetector(backbone="efficientnet-lite0", preprocessing={"size": (32, 32)}, device="cpu")
    images, y = [*GOOD[:9], *BAD[:1]], [1] * 9 + [-1]
    splits = [(np.arange(6), np.arange(6, 10)), (np.arange(3, 9), np.array([0, 9]))]
    search = functools.partial(
        cross_validate, estimator, images, y, cv=splits, scoring="roc_auc", return_estimator=True, error_score="raise"
    )
    for here, there in zip(search()["estimator"], search(n_jobs=2)["estimator"], strict=True):
        np.testing.assert_allclose(there.score_samples(images), here.score_samples(images), rtol=1e-4)
        np.testing.assert_allclose(there.decision_scores_, here.decision_scores_, rtol=1e-4)


def test_pickle() -> None:
    estimator = pixel_detector(contamination=0.25, sampler={"ratio": 0.05}).fit(GOOD)
    modules = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    again = Recorder(io.BytesIO(pickle.dumps(estimator))).load()
    assert modules <= {"patchcore_plugin", "numpy"}
    assert again.get_params() == estimator.get_params()
    assert again.score_samples(BAD).tolist() == estimator.score_samples(BAD).tolist()
    assert again.predict(BAD).tolist() == estimator.predict(BAD).tolist()
    assert again.detector_.threshold == estimator.threshold_ == again.threshold_
    assert again.decision_scores_.tolist() == estimator.decision_scores_.tolist()
    assert pickle.loads(pickle.dumps(pixel_detector())).get_params() == pixel_detector().get_params()  # noqa: S301


def test_torch_is_imported_by_fit() -> None:
    script = """
        import sys
        from sklearn.base import clone
        from patchcore_plugin.integrations.sklearn import PatchCoreDetector
        clone(PatchCoreDetector()).set_params(sampler__ratio=0.01).get_params()
        sys.exit(repr({"torch", "cv2"} & sys.modules.keys()))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.stderr.strip() == "set()"
