"""Arguments: images in every form, and options as nested parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import clone

import patchcore_plugin as pp
from patchcore_plugin.integrations.sklearn import SECTIONS, ArgumentError, PatchCoreDetector
from tests.conftest import write
from tests.integrations.sklearn.pixels import BAD, GOOD, pixel_detector

pytestmark = pytest.mark.slow

# Images


def test_images_are_arrays_or_paths(tmp_path: Path) -> None:
    grey = np.ascontiguousarray(GOOD[:4, ..., 0])
    paths = [write(tmp_path / f"{number}.png", image) for number, image in enumerate(grey)]
    scores = pixel_detector().fit(grey).decision_scores_
    forms: list[Any] = [
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
    for images in forms:
        np.testing.assert_allclose(pixel_detector().fit(images).decision_scores_, scores, rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "fact"),
    [
        (np.ones((5, 3)), "got ndarray of shape [5, 3]"),
        (scipy.sparse.csr_array(np.ones((5, 3))), "got csr_array of shape [5, 3]"),
        (np.ones(4), "got ndarray of shape [4]"),
        (np.ones((8, 9, 3)), "got ndarray of shape [8, 9, 3]; for a single image, pass image[None]"),
        ("part.png", "got a single path, 'part.png'"),
        ([1.0, 2.0], "got X[0] of float64 and shape []"),
        (np.ones((2, 3, 8, 9)), "an array of shape [3, 8, 9] is not an image: pass [H, W], [H, W, 1]"),
        (np.ones((2, 8, 9), dtype=complex), "images of dtype complex128 are not supported"),
        (np.full((2, 8, 9), np.nan), "values of a float64 image must be finite and in 0..1"),
        ([], "X has 0 samples; pass at least one image"),
        (np.ones((0, 8, 9, 3)), "X has 0 samples; pass at least one image"),
        (np.ones((1, 8, 9, 3)), "X has 1 sample; a threshold needs at least 2 images"),
        (["nowhere.png", "nowhere.png"], "nowhere.png: no such file"),
    ],
)
def test_other_arguments_are_refused(images: Any, fact: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        pixel_detector().fit(images)
    assert fact in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, pp.PatchcoreError)


def test_a_fitted_estimator_refuses_them_as_well() -> None:
    estimator = pixel_detector().fit(GOOD[:2])
    with pytest.raises(ArgumentError, match="values of a float64 image must be finite"):
        estimator.predict(np.full((2, 8, 9), np.inf))
    with pytest.raises(ArgumentError, match=r"^X must be images"):
        estimator.score_samples(np.ones((5, 3)))


# Parameters


def test_options_are_nested_parameters() -> None:
    estimator = PatchCoreDetector()
    nested = {key: value for key, value in estimator.get_params().items() if "__" in key}
    assert {key.partition("__")[0] for key in nested} == set(SECTIONS)
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


def test_parameters_of_another_estimator_give_the_same_model() -> None:
    one = pixel_detector(random_state=4)
    other = PatchCoreDetector().set_params(**one.get_params())
    assert one.fit(GOOD).score_samples(BAD).tolist() == other.fit(GOOD).score_samples(BAD).tolist()


@pytest.mark.parametrize(
    ("params", "fact"),
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
def test_an_unknown_parameter_is_refused(params: dict[str, Any], fact: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        PatchCoreDetector().set_params(**params)
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("params", "fact"),
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
        ({"device": "gpu"}, "device 'gpu' cannot be used ("),
        ({"backbone": {"name": "resnet18", "weights": "nowhere.pth"}}, "backbone resnet18: weights: no file nowhere"),
        ({"scorer": "gaussian"}, "scorer 'gaussian' needs every patch"),
    ],
)
def test_a_wrong_value_is_refused_by_fit(params: dict[str, Any], fact: str) -> None:
    estimator = pixel_detector().set_params(**params)
    repr(estimator)
    estimator.get_params()
    with pytest.raises(ArgumentError) as caught:
        estimator.fit(GOOD)
    assert fact in str(caught.value)
