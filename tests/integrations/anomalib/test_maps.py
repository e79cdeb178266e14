"""Images in, maps out: the adapter's preprocessing and upsampling are those of the detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as their_read_image
from torchvision import tv_tensors

from patchcore_plugin.data.images import read_image
from patchcore_plugin.integrations.anomalib.model import lifting
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
def test_preparation_is_the_detectors(options: Preprocessing, dataset: Path) -> None:
    path = dataset / "test" / "blot" / "000.png"
    transform = Preparation(options).transform
    assert transform is not None
    image = their_read_image(path, as_tensor=True)
    mask = tv_tensors.Mask(torch.arange(72 * 96).view(72, 96) % 251)
    got, cut = transform(image, mask)
    torch.testing.assert_close(got, prepare(read_image(path), options), rtol=0, atol=1e-6)
    assert cut.shape == got.shape[1:]
    assert set(cut.unique().tolist()) <= set(mask.unique().tolist())  # nearest: no values in between
    resize = transform.transforms[0]
    assert torch.equal(transform(resize(image)), got)  # anomalib resizes before it stacks images, then again


def test_lifting_gives_the_detectors_map() -> None:
    rng = np.random.default_rng(0)
    grid = rng.random((9, 12), dtype=np.float32)
    for options in (Map(), Map(sigma=0), Map(sigma=1.5, upsample="nearest")):
        expected = anomaly_map(grid, Geometry((70, 90), (70, 90), (0, 0, 70, 90)), options)
        found = lifting(9, 70, options) @ torch.from_numpy(grid) @ lifting(12, 90, options).T
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
