"""The scikit-learn adapter: scikit-learn's own checks, nested parameters, searches, pickles, PyOD's attributes."""

from __future__ import annotations

import functools
import io
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

import patchcore_plugin as pp
from patchcore_plugin.calibration import fit_order, folds
from patchcore_plugin.integrations.sklearn import PARTS, ArgumentError, PatchCoreDetector
from patchcore_plugin.preprocessing import prepare
from patchcore_plugin.recipe import Preprocessing
from tests.conftest import draw, write

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    cell: int = 2


class Pixels:
    """Means of small cells: a backbone without weights, for tests that fit hundreds of times."""

    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, config: PixelsConfig) -> None:
        self.cell = config.cell

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool2d(images, self.cell)]

    def to(self, device: object) -> Pixels:
        return self

    def weight_hash(self) -> str:
        return "none"


class WholePhoto:
    """A scorer without maps: the brightest patch."""

    def fit(self, bank: pp.MemoryBank) -> None:
        pass

    def __call__(self, patches: pp.Patches) -> pp.Scores:
        return pp.Scores(image=patches.grid.amax(dim=(1, 2, 3)))

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, bank: pp.MemoryBank, state: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    pass


def create_whole_photo(config: NoOptions) -> WholePhoto:
    return WholePhoto()


@pp.hookimpl
def patchcore_scorers() -> list[pp.ScorerSpec]:
    return [pp.ScorerSpec(name="whole-photo", config=NoOptions, create=create_whole_photo, summary="no maps")]


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    return [pp.BackboneSpec(name="pixels", config=PixelsConfig, create=Pixels, summary="means of cells")]


EXTRA = {"pixels": SimpleNamespace(patchcore_backbones=patchcore_backbones, patchcore_scorers=patchcore_scorers)}


@pytest.fixture(autouse=True)
def pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.integrations.sklearn.Host", functools.partial(pp.Host, extra=EXTRA))


def pixel_detector(**parameters: Any) -> PatchCoreDetector:
    base = {"backbone": "pixels", "preprocessing": {"size": (24, 32)}, "device": "cpu"}
    return PatchCoreDetector(**{**base, **parameters})


GOOD = np.stack([draw(seed) for seed in range(12)])
BAD = np.stack([draw(seed, defect=True) for seed in range(50, 54)])


# What scikit-learn checks is a table of numbers; these tests turn each row into a photo.


class OfRows(PatchCoreDetector):
    """The detector for tables: scikit-learn checks the table, a grey photo is drawn of each row."""

    def fit(self, X: Any, y: object = None) -> Any:
        return super().fit(drawn(validate_data(self, X)))

    def score_samples(self, X: Any) -> npt.NDArray[np.float64]:
        return super().score_samples(drawn(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = tags.input_tags.string = False
        return tags


def drawn(rows: Array) -> npt.NDArray[np.float64]:
    """Draw tables [N, F] as photos [N, F, 8], a bar for each number."""
    unit: npt.NDArray[np.float64] = np.arctan(rows.astype(np.float64)) / np.pi + 0.5
    return np.repeat(unit[:, :, None], 8, axis=2)


KNOWN = "predict asks a bank that knows the training photos; fit_predict and labels_ ask banks that do not"
MEANINGLESS = {"check_outliers_fit_predict": KNOWN, "check_outliers_train": KNOWN}
"""What does not make sense for PatchCore; docs/scikit-learn.md has the same list."""


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [OfRows(backbone="pixels", preprocessing={"size": (8, 8)}, device="cpu")],
    expected_failed_checks=lambda estimator: MEANINGLESS,
)
def test_scikit_learn_checks(estimator: PatchCoreDetector, check: Any) -> None:
    check(estimator)


def test_the_page_lists_what_is_not_met() -> None:
    page = (Path(__file__).parents[1] / "docs" / "scikit-learn.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `check_")]
    named = [set(re.findall(r"`(check_\w+)`", row)) for row in rows]
    assert set(MEANINGLESS) <= set().union(*named)
    assert all(hasattr(estimator_checks, name) for name in set().union(*named))


def test_tags() -> None:
    tags = get_tags(PatchCoreDetector())
    assert tags.estimator_type == "outlier_detector"
    assert (tags.input_tags.two_d_array, tags.input_tags.string, tags.requires_fit) == (False, True, True)


# Scores, signs and thresholds.


def test_scores_are_the_detectors_with_scikit_learns_signs() -> None:
    estimator = pixel_detector(sampler={"ratio": 0.05}, random_state=3).fit(GOOD)
    changes: dict[str, Any] = {"backbone": "pixels", "sampler": {"ratio": 0.05}, "preprocessing": {"size": (24, 32)}}
    reference = pp.Detector.from_recipe("patchcore", seed=3, device="cpu", host=pp.Host(extra=EXTRA), **changes)
    reference.fit(list(GOOD))
    scores = [prediction.score for prediction in reference.predict(list(BAD))]
    assert estimator.score_samples(BAD).tolist() == [-score for score in scores]
    assert (estimator.threshold_, estimator.offset_) == (reference.threshold, -(reference.threshold or 0))
    assert estimator.decision_function(BAD).tolist() == (estimator.score_samples(BAD) + estimator.threshold_).tolist()
    assert estimator.predict(np.concatenate([BAD[:2], GOOD[:1]])).tolist() == [-1, -1, 1]
    assert torch.equal(estimator.detector_.bank.vectors, reference.bank.vectors)


@pytest.mark.parametrize("count", [2, 4, 5, 12])
def test_training_photos_are_judged_by_others(count: int) -> None:
    """With every patch in the banks, a score is the largest distance to patches of photos that are not judged along."""
    photos = np.concatenate([GOOD[: count - 1], BAD[:1]])
    estimator = pixel_detector(sampler="all", scorer={"reweight": False}, aggregator={"patch_size": 1}).fit(photos)
    cells = [F.avg_pool2d(prepare(photo, Preprocessing(size=(24, 32))), 2).flatten(1).T.double() for photo in photos]

    def distance(one: int, *others: int) -> float:
        return float(torch.cdist(cells[one], torch.cat([cells[each] for each in others])).amin(dim=1).max())

    read = np.concatenate(fit_order(count, 0))
    expected = np.empty(count)
    for fold in folds(count, 0):
        together = read[fold].tolist()
        others = [each for each in range(count) if each not in together]
        expected[together] = [distance(one, *others) for one in together]
    np.testing.assert_allclose(estimator.decision_scores_, expected, rtol=1e-5)
    np.testing.assert_allclose(estimator.score_samples(photos), 0, atol=1e-6)  # the last bank knows each of them


def test_the_scores_are_those_that_the_threshold_is_from() -> None:
    for count in (2, 9, 12):
        estimator = pixel_detector(random_state=count).fit(GOOD[:count])
        assert sorted(estimator.decision_scores_) == list(estimator.detector_.calibration.scores)
        assert estimator.decision_scores_.max() == estimator.threshold_


def test_outliers_among_the_training_photos_are_found() -> None:
    photos = np.concatenate([BAD[:1], GOOD, BAD[1:2]])
    estimator = pixel_detector(contamination=1 / 7)
    assert estimator.fit_predict(photos).tolist() == [-1, *[1] * 12, -1]
    assert estimator.labels_.tolist() == [1, *[0] * 12, 1]


def test_contamination_is_the_share_above_the_threshold() -> None:
    """As PyOD has it: decision_scores_, threshold_ and labels_."""
    for contamination, above in ((0.5, 6), (0.25, 3), (np.float32(0.01), 1)):
        estimator = pixel_detector(contamination=contamination).fit(GOOD)
        calibration = estimator.detector_.calibration
        assert estimator.labels_.sum() == above
        assert estimator.labels_.tolist() == (estimator.decision_scores_ > estimator.threshold_).tolist()
        assert estimator.detector_.threshold == estimator.threshold_ == -estimator.offset_
        above_map = sum(peak > (calibration.map_threshold or 0) for peak in calibration.peaks)
        assert above_map <= above
    assert "0.01 of 12 training photos" in calibration.source
    assert calibration.describe().startswith("1 of 12 good photos above it; 0.01 of 12 training photos")


def test_random_state() -> None:
    def bank(random_state: object) -> list[list[int]]:
        origin: list[list[int]] = pixel_detector(random_state=random_state).fit(GOOD[:4]).detector_.bank.origin.tolist()
        return origin

    before = str(np.random.get_state())  # noqa: NPY002
    assert bank(None) == bank(0) == bank(np.int64(0))
    assert bank(1) != bank(0)
    assert bank(np.random.RandomState(5)) == bank(np.random.RandomState(5))
    shared = np.random.RandomState(5)
    assert bank(shared) != bank(shared)
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_anomaly_maps() -> None:
    estimator = pixel_detector().fit(GOOD)
    large = cv2.resize(BAD[0], None, fx=2, fy=3)
    maps = estimator.anomaly_maps([BAD[0], large])
    assert [each.shape for each in maps] == [(72, 96), (216, 192)]
    assert {str(each.dtype) for each in maps} == {"float32"}
    blot = np.abs(BAD[0].astype(int) - draw(50)).max(axis=2) > 40
    assert blot[np.unravel_index(maps[0].argmax(), blot.shape)]
    with pytest.raises(pp.PatchcoreError, match=r"^scorer 'whole-photo' makes no maps; choose another$"):
        pixel_detector(scorer="whole-photo").fit(GOOD).anomaly_maps(BAD)


@pytest.mark.parametrize("method", ["score_samples", "decision_function", "predict", "anomaly_maps"])
def test_not_fitted(method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(pixel_detector(), method)(BAD)


# Photos.


def test_photos_come_as_arrays_and_as_paths(tmp_path: Path) -> None:
    grey = np.ascontiguousarray(GOOD[:4, ..., 0])
    paths = [write(tmp_path / f"{number}.png", photo) for number, photo in enumerate(grey)]
    scores = pixel_detector().fit(grey).decision_scores_
    same: list[Any] = [
        list(grey),
        np.repeat(grey[..., None], 3, axis=3),
        torch.from_numpy(grey),
        grey.astype(np.uint16) * np.uint16(257),
        grey / 255,
        paths,
        [str(path) for path in paths],
        np.array(paths),
        np.asfortranarray(grey),
        np.broadcast_to(grey[..., None], (*grey.shape, 3)),  # read-only
        np.array([str(path) for path in paths]),
        [paths[0], *grey[1:]],
    ]
    for photos in same:
        np.testing.assert_allclose(pixel_detector().fit(photos).decision_scores_, scores, rtol=1e-4)


EXPECTED = "X must be photos: an array [N, H, W, 3] or [N, H, W], or a sequence of such photos or of paths; got "


@pytest.mark.parametrize(
    ("photos", "words"),
    [
        (np.ones((5, 3)), EXPECTED + "ndarray of shape [5, 3]"),
        (scipy.sparse.csr_array(np.ones((5, 3))), EXPECTED + "csr_array of shape [5, 3]"),
        (np.ones(4), EXPECTED + "ndarray of shape [4]"),
        (np.ones((8, 9, 3)), EXPECTED + "ndarray of shape [8, 9, 3]; of a single photo, pass photo[None]"),
        ("part.png", EXPECTED + "a single path, 'part.png'"),
        ([1.0, 2.0], EXPECTED + "X[0] of float64 and shape []"),
        (np.ones((2, 3, 8, 9)), "an array of shape [3, 8, 9] is not a photo: pass [H, W], [H, W, 1]"),
        (np.ones((2, 8, 9), dtype=complex), "a photo of complex128 numbers has no known white"),
        (np.full((2, 8, 9), np.nan), "a photo of float64 numbers must be finite and in 0..1"),
        ([], "X has 0 samples; pass at least one photo"),
        (np.ones((0, 8, 9, 3)), "X has 0 samples; pass at least one photo"),
        (np.ones((1, 8, 9, 3)), "X has 1 sample; a threshold needs at least 2 photos"),
        (["nowhere.png", "nowhere.png"], "nowhere.png: no such file"),
    ],
)
def test_what_is_no_photo_is_told(photos: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        pixel_detector().fit(photos)
    assert str(caught.value).startswith(words)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, pp.PatchcoreError)


def test_what_is_no_photo_is_told_by_a_fitted_one_too() -> None:
    estimator = pixel_detector().fit(GOOD[:2])
    with pytest.raises(ArgumentError, match="a photo of float64 numbers must be finite"):
        estimator.predict(np.full((2, 8, 9), np.inf))
    with pytest.raises(ArgumentError, match=r"^X must be photos"):
        estimator.score_samples(np.ones((5, 3)))


# Parameters.


def test_options_are_nested_parameters() -> None:
    estimator = PatchCoreDetector()
    nested = {key: value for key, value in estimator.get_params().items() if "__" in key}
    assert {key.partition("__")[0] for key in nested} == set(PARTS)
    assert nested["sampler__ratio"] == 0.1
    assert nested["backbone__layers"] == ("layer2", "layer3")
    assert nested["preprocessing__size"] == (256, 256)
    assert estimator.get_params(deep=False).keys() == estimator.get_params().keys() - nested.keys()
    assert "sampler__seed" not in nested  # random_state decides

    estimator.set_params(sampler__ratio=0.01, sampler__seed=7, map__sigma=2.0, scorer__neighbours=np.int64(3))
    params = clone(estimator).get_params()
    assert params["sampler"] == {"ratio": 0.01, "seed": 7}
    assert (params["sampler__ratio"], params["sampler__seed"], params["map__sigma"]) == (0.01, 7, 2.0)
    assert type(params["scorer__neighbours"]) is int
    assert params["preprocessing"] is None


def test_options_follow_the_component() -> None:
    estimator = PatchCoreDetector(sampler={"ratio": 0.5})
    estimator.set_params(sampler__count=9, sampler="random", recipe="patchcore-1")
    assert estimator.sampler == {"name": "random", "count": 9}
    given = {"name": "random", "count": 9}
    estimator = PatchCoreDetector(sampler=given).set_params(sampler__count=5)
    assert (given["count"], estimator.get_params()["sampler__count"]) == (9, 5)
    recipe = pp.Recipe.load("patchcore").change("sampler", {"ratio": 0.3})
    assert clone(PatchCoreDetector(recipe)).get_params()["sampler__ratio"] == 0.3
    assert PatchCoreDetector(sampler={"name": "nothing", "x": 1}).get_params()["sampler__x"] == 1  # fit refuses it


def test_parameters_taken_from_another_give_the_same_model() -> None:
    one = pixel_detector(random_state=4)
    other = PatchCoreDetector().set_params(**one.get_params())
    assert one.fit(GOOD).score_samples(BAD).tolist() == other.fit(GOOD).score_samples(BAD).tolist()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"sampler__ratoi": 1}, "sampler 'greedy-coreset': unknown option 'ratoi'; did you mean 'ratio'?"),
        ({"sampler": "random", "sampler__radius": 1}, "sampler 'random': unknown option 'radius'"),
        ({"sampler": "rando", "sampler__ratio": 1}, "unknown sampler 'rando'; did you mean 'random'?"),
        ({"map__sigm": 1}, "map: unknown option 'sigm'; did you mean 'sigma'?"),
        ({"recipe": "patchcor", "sampler__ratio": 1}, "unknown recipe 'patchcor'; did you mean 'patchcore'?"),
        ({"ratio": 1}, "Invalid parameter 'ratio' for estimator PatchCoreDetector("),
        ({"head__ratio": 1}, "Invalid parameter 'head' for estimator PatchCoreDetector("),
    ],
)
def test_a_parameter_that_is_not_there(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        PatchCoreDetector().set_params(**params)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"sampler__ratio": 5}, "sampler 'greedy-coreset': option 'ratio' must be less than or equal to 1, got 5"),
        ({"sampler": {"ratoi": 1}}, "sampler 'greedy-coreset': unknown option 'ratoi'"),
        ({"sampler": 5}, "sampler must be a component's name or a dict of options, got 5"),
        ({"preprocessing": "large"}, "preprocessing must be a dict of options, got 'large'"),
        ({"preprocessing": {"size": (2, 2)}}, "preprocessing: option 'size' must be greater than or equal to 8"),
        ({"backbone": "pixel"}, "unknown backbone 'pixel'; did you mean 'pixels'?"),
        ({"recipe": 5}, "recipe must be a name, the path of a .toml file or a Recipe, got 5"),
        ({"contamination": 0.6}, "contamination must be 'auto' or a number in (0, 0.5], got 0.6"),
        ({"contamination": "a few"}, "contamination must be 'auto' or a number in (0, 0.5], got 'a few'"),
        ({"random_state": -1}, "random_state must be None, an integer of 0 or more, or a RandomState, got -1"),
        ({"precision": "fp8"}, "precision must be fp32 or bf16, got 'fp8'"),
    ],
)
def test_a_value_that_will_not_do_is_told_by_fit(params: dict[str, Any], words: str) -> None:
    estimator = pixel_detector().set_params(**params)
    repr(estimator)
    estimator.get_params()
    with pytest.raises(ArgumentError) as caught:
        estimator.fit(GOOD)
    assert str(caught.value).startswith(words)


# In scikit-learn's company.


def cut(photos: Sequence[Array]) -> list[Array]:
    return [photo[4:-4] for photo in photos]


def test_grid_search_and_pipeline() -> None:
    photos, y = [*GOOD, *BAD], np.r_[np.ones(len(GOOD)), -np.ones(len(BAD))]
    good, bad = np.flatnonzero(y == 1), np.flatnonzero(y == -1)
    splits = [(good[train], np.r_[good[test], bad]) for train, test in KFold(3).split(good)]
    estimator = PatchCoreDetector(backbone="pixels", preprocessing={"size": (24, 32)}, device="cpu")
    pipeline = make_pipeline(FunctionTransformer(cut), estimator)
    # A blot is dark, so the scorer that looks for what is bright does not see it.
    grid = [{"patchcoredetector__sampler__ratio": [0.01, 0.1]}, {"patchcoredetector__scorer": ["whole-photo"]}]
    search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=splits, refit=False, error_score="raise")
    search.fit(photos, y)
    scores = search.cv_results_["mean_test_score"]
    assert min(scores[:2]) == 1
    assert scores[2] < 0.9
    assert search.best_params_ == {"patchcoredetector__sampler__ratio": 0.01}
    pipeline.set_params(**search.best_params_).fit(list(GOOD))
    assert len(pipeline[-1].detector_.bank.vectors) == np.ceil(0.01 * 12 * 12 * 16)
    assert roc_auc_score(y, pipeline.decision_function(photos)) == 1


def test_several_processes() -> None:
    """Estimators cross to other processes unfitted, and back fitted."""
    estimator = PatchCoreDetector(backbone="efficientnet-lite0", preprocessing={"size": (32, 32)}, device="cpu")
    photos, y = [*GOOD[:9], *BAD[:1]], [1] * 9 + [-1]
    splits = [(np.arange(6), np.arange(6, 10)), (np.arange(3, 9), np.array([0, 9]))]
    search = functools.partial(
        cross_validate, estimator, photos, y, cv=splits, scoring="roc_auc", return_estimator=True, error_score="raise"
    )
    for here, there in zip(search()["estimator"], search(n_jobs=2)["estimator"], strict=True):
        np.testing.assert_allclose(there.score_samples(photos), here.score_samples(photos), rtol=1e-4)
        np.testing.assert_allclose(there.decision_scores_, here.decision_scores_, rtol=1e-4)


def test_pickle() -> None:
    estimator = pixel_detector(contamination=0.25, sampler={"ratio": 0.05}).fit(GOOD)
    modules = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    again = Noting(io.BytesIO(pickle.dumps(estimator))).load()
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
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr.strip() == "set()"
