"""Inputs and maps of the adapter are those of the detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as read_image_by_anomalib
from torchvision import tv_tensors

import patchcore_plugin as pp
from patchcore_plugin.data.images import read_image
from patchcore_plugin.integrations.anomalib.model import as_batch
from patchcore_plugin.integrations.anomalib.preparation import Preparation
from patchcore_plugin.models.preprocessing import Geometry, anomaly_map, prepare
from patchcore_plugin.models.recipes import Map, Preprocessing

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        Preprocessing(size=(40, 56)),
        Preprocessing(size=(51, 60), crop=(48, 49)),
        Preprocessing(size=(40, 40), keep_aspect=True, crop=(33, 40)),
    ],
)
def test_preparation_is_that_of_the_detector(options: Preprocessing, dataset: Path) -> None:
    path = dataset / "test" / "blot" / "000.png"
    transform = Preparation(options).transform
    assert transform is not None
    image = read_image_by_anomalib(path, as_tensor=True)
    mask = tv_tensors.Mask(torch.arange(72 * 96).view(72, 96) % 251)
    prepared, crop = transform(image, mask)
    torch.testing.assert_close(prepared, prepare(read_image(path), options), rtol=0, atol=1e-6)
    assert crop.shape == prepared.shape[1:]
    assert set(crop.unique().tolist()) <= set(mask.unique().tolist())  # of the nearest pixel
    resize = transform.transforms[0]
    assert torch.equal(transform(resize(image)), prepared)  # anomalib resizes twice


def test_maps_are_those_of_the_detector() -> None:
    grid = np.random.default_rng(0).random((9, 12), dtype=np.float32)
    scores = pp.Scores(image=torch.ones(1), map=torch.from_numpy(grid)[None])
    for options in (Map(), Map(sigma=0), Map(sigma=1.5, upsample="nearest")):
        expected = anomaly_map(grid, Geometry((70, 90), (70, 90), (0, 0, 70, 90)), options)
        batch = as_batch(scores, torch.zeros(1, 3, 70, 90), options)
        assert batch.anomaly_map is not None
        np.testing.assert_allclose(batch.anomaly_map[0, 0], expected, rtol=1e-5, atol=1e-6)
    assert as_batch(pp.Scores(image=torch.ones(1)), torch.zeros(1, 3, 70, 90), Map()).anomaly_map is None
