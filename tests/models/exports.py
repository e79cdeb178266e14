"""Small models of every kind that can be exported, and the comparison of predictions."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import patchcore_plugin as pp
from patchcore_plugin import Detector

Image = NDArray[Any]
SIZES = ((72, 96), (48, 64), (131, 61), (200, 150), (9, 8))


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    layers: tuple[str, ...] = ("fine", "coarse")
    seed: int = 0


def tiny(config: TinyConfig) -> pp.StagedBackbone:
    stages = nn.Sequential()
    stages.add_module("fine", nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU()))
    stages.add_module("coarse", nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()))
    pp.initialise(stages, config.seed)
    return pp.StagedBackbone("tiny", stages, config.layers)


class ByNumpy:
    """A backbone that torch.export cannot trace."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(images.numpy()[:, :, ::8, ::8].copy())]

    def to(self, device: object) -> ByNumpy:
        return self

    def weight_hash(self) -> str:
        return "0"


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    return [
        pp.BackboneSpec(name="tiny", config=TinyConfig, create=tiny, summary="two convolutions"),
        pp.BackboneSpec(name="by-numpy", config=TinyConfig, create=lambda config: ByNumpy(), summary="every 8th pixel"),
    ]


PLUGIN = types.SimpleNamespace(patchcore_backbones=patchcore_backbones)
HOST = pp.Host(extra={"tiny": PLUGIN}, entry_points=False)


def draw(seed: int, size: tuple[int, int] = (72, 96)) -> Image:
    """Return a noisy disc on a plate; every second one has a dark blot."""
    height, width = size
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 200.0)
    cv2.circle(image, (width // 2 + int(rng.integers(-3, 4)), height // 2), height // 3, (90.0, 140.0, 90.0), -1)
    if seed % 2:
        cv2.circle(image, (width // 2 + height // 5, height // 2), height // 9, (10.0, 10.0, 60.0), -1)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


GOOD = [draw(2 * number) for number in range(10)]
SIZE = {"size": [48, 64]}
MEMBERS = [
    {"recipe": "patchcore", "backbone": "tiny", "sampler": {"ratio": 0.1}},
    {"recipe": "patchcore", "backbone": {"name": "tiny", "layers": ["coarse"]}, "sampler": {"ratio": 0.3}},
    {"recipe": "padim", "backbone": "tiny", "aggregator": {"channels": 10}},
    {"recipe": "dn2", "backbone": "tiny"},
]
CROP = {"size": [48, 48], "crop": [40, 32], "keep_aspect": True}
ENSEMBLES: dict[str, dict[str, Any]] = {
    "ensemble": {"preprocessing": SIZE, "members": MEMBERS},
    "cropped ensemble": {"preprocessing": CROP, "members": MEMBERS[1::2]},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {"preprocessing": SIZE}),
    "all": ("patchcore", {"preprocessing": SIZE, "sampler": "all"}),
    "paper": (
        "patchcore-paper",
        {"preprocessing": CROP, "aggregator": {"embed_dim": 16}},
    ),
    "tiles": ("patchcore", {"preprocessing": {"size": [48, 96], "tile": [32, 64], "overlap": 8}}),
    "plain": (
        "patchcore",
        {
            "preprocessing": {"size": [48, 64], "crop": [40, 48]},
            "scorer": {"reweight": False, "squared": True},
            "map": {"sigma": 0, "upsample": "nearest"},
        },
    ),
    "padim": ("padim", {"preprocessing": SIZE, "aggregator": {"channels": 10}}),
    "dn2": ("dn2", {"preprocessing": SIZE}),
    "gaussian-ad": ("gaussian-ad", {"preprocessing": SIZE}),
}


@functools.cache
def fitted_model(case: str) -> Detector:
    """Return the model of a case, which tests must not change."""
    if case in ENSEMBLES:
        recipe = pp.Recipe.from_dict({"name": "mine", **ENSEMBLES[case]})
        return Detector(recipe, device="cpu", host=HOST).fit(GOOD)
    name, changes = CASES[case]
    return Detector.from_recipe(name, backbone="tiny", device="cpu", host=HOST, **changes).fit(GOOD)


def same(predictions: Sequence[pp.Prediction], references: Sequence[pp.Prediction]) -> None:
    """Check that predictions are equal up to the rounding of float32, and not all zero."""
    assert len(predictions) == len(references) > 0
    for actual, expected in zip(predictions, references, strict=True):
        assert expected.score > 0
        assert actual.score == pytest.approx(expected.score, rel=1e-4)
        assert (actual.path, actual.threshold, actual.is_anomalous) == (
            expected.path,
            expected.threshold,
            expected.is_anomalous,
        )
        assert actual.p_value == expected.p_value
        assert (actual.anomaly_map is None) == (expected.anomaly_map is None)
        if actual.anomaly_map is not None and expected.anomaly_map is not None:
            scale = float(np.ptp(expected.anomaly_map))
            assert scale > 0
            np.testing.assert_allclose(actual.anomaly_map, expected.anomaly_map, rtol=0, atol=1e-4 * scale)
            assert actual.anomaly_map.dtype == np.float32
        assert (actual.nearest is None) == (expected.nearest is None)
        if actual.nearest is not None and expected.nearest is not None:
            assert actual.nearest.distance == pytest.approx(expected.nearest.distance, rel=1e-4)
            assert (actual.nearest.peak_x, actual.nearest.peak_y) == (expected.nearest.peak_x, expected.nearest.peak_y)
            assert actual.nearest.image == expected.nearest.image
            assert (actual.nearest.x, actual.nearest.y) == (expected.nearest.x, expected.nearest.y)
