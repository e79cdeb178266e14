"""Small models of every kind that can be exported, and what equal predictions are."""

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
from patchcore_plugin import Detector, Ensemble

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
    """A backbone that torch.export cannot follow."""

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
KEPT = {"size": [48, 48], "crop": [40, 32], "keep_aspect": True}
ENSEMBLES: dict[str, dict[str, Any]] = {
    "ensemble": {"preprocessing": SIZE, "members": MEMBERS},
    "cropped ensemble": {"preprocessing": KEPT, "members": MEMBERS[1::2]},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {"preprocessing": SIZE}),
    "all": ("patchcore", {"preprocessing": SIZE, "sampler": "all"}),
    "paper": (
        "patchcore-paper",
        {"preprocessing": KEPT, "aggregator": {"embed_dim": 16}},
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
def fitted(case: str) -> Detector | Ensemble:
    """Return the model of a case; not to be changed."""
    if case in ENSEMBLES:
        recipe = pp.Recipe.from_dict({"name": "mine", **ENSEMBLES[case]})
        return Ensemble(recipe, device="cpu", host=HOST).fit(GOOD)
    name, changes = CASES[case]
    return Detector.from_recipe(name, backbone="tiny", device="cpu", host=HOST, **changes).fit(GOOD)


def same(found: Sequence[pp.Prediction], expected: Sequence[pp.Prediction]) -> None:
    """Check that predictions are equal up to the rounding of float32, and that this says something."""
    assert len(found) == len(expected) > 0
    for got, wanted in zip(found, expected, strict=True):
        assert wanted.score > 0
        assert got.score == pytest.approx(wanted.score, rel=1e-4)
        assert (got.path, got.threshold, got.is_anomalous) == (wanted.path, wanted.threshold, wanted.is_anomalous)
        assert got.p_value == wanted.p_value
        assert (got.anomaly_map is None) == (wanted.anomaly_map is None)
        if got.anomaly_map is not None and wanted.anomaly_map is not None:
            scale = float(np.ptp(wanted.anomaly_map))
            assert scale > 0
            np.testing.assert_allclose(got.anomaly_map, wanted.anomaly_map, rtol=0, atol=1e-4 * scale)
            assert got.anomaly_map.dtype == np.float32
        assert (got.nearest is None) == (wanted.nearest is None)
        if got.nearest is not None and wanted.nearest is not None:
            assert got.nearest.distance == pytest.approx(wanted.nearest.distance, rel=1e-4)
            assert (got.nearest.peak_x, got.nearest.peak_y) == (wanted.nearest.peak_x, wanted.nearest.peak_y)
            assert got.nearest.image == wanted.nearest.image
            assert (got.nearest.x, got.nearest.y) == (wanted.nearest.x, wanted.nearest.y)
