"""The components of one member, on tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.models.tiling import tile_patches
from tests.models import tiny

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_backbone(backbone: Any) -> Pipeline:
    class Plugin:
        @staticmethod
        @pp.hookimpl
        def patchcore_backbones() -> list[pp.BackboneSpec]:
            spec = pp.BackboneSpec(name="drawn", config=tiny.Config, create=lambda config: backbone, summary="a test")
            return [spec]

    host = tiny.host(drawn=Plugin())
    return Pipeline(tiny.recipe(backbone="drawn").resolve(host, 0), host, device="cpu")


def test_images_become_patches() -> None:
    patches = tiny.pipeline().patches(IMAGES)
    assert (patches.grid.shape, patches.grid.dtype) == ((2, 8, 8, 8), torch.float32)
    assert not patches.grid.requires_grad


def test_images_are_normalised_by_the_backbone() -> None:
    class Identity(tiny.Tiny):
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)

        def __call__(self, images: Tensor) -> list[Tensor]:
            return [images]

    pipeline = with_backbone(Identity(tiny.Config()))
    pipeline.aggregator = lambda maps: pp.Patches(maps[0].permute(0, 2, 3, 1))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 0.125])
    torch.testing.assert_close(pipeline.patches(IMAGES).grid, (IMAGES.permute(0, 2, 3, 1) - mean) / std)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    class Broken(tiny.Tiny):
        def __call__(self, images: Tensor) -> list[Tensor]:
            (features,) = super().__call__(images)
            features[1, 2, 3, 4] = value
            return [features]

    with pytest.raises(pp.TensorError, match=r"backbone 'drawn': .*not finite"):
        with_backbone(Broken(tiny.Config())).patches(IMAGES)


def test_large_images_are_processed_in_tiles() -> None:
    plain = tiny.pipeline(preprocessing={"size": [32, 64]})
    tiled = tiny.pipeline(preprocessing={"size": [32, 64], "tile": [32, 32], "overlap": 8})
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    expected = tile_patches(images, (32, 32), 8, plain.patches)
    torch.testing.assert_close(tiled.patches(images).grid, expected.grid)


@pytest.mark.parametrize(
    ("name", "changes", "keeps_all", "can_reduce", "can_stream"),
    [
        ("patchcore", {}, False, True, False),
        ("patchcore", {"sampler": "all"}, True, True, False),
        ("patchcore", {"sampler": "random"}, False, True, False),
        ("padim", {"aggregator": {"channels": 8}}, True, True, True),
    ],
)
def test_what_the_components_can_do(
    name: str, changes: dict[str, Any], keeps_all: bool, can_reduce: bool, can_stream: bool
) -> None:
    pipeline = tiny.pipeline(name, **changes)
    assert (pipeline.keeps_all, pipeline.can_reduce, pipeline.can_stream) == (keeps_all, can_reduce, can_stream)


def test_extraction_settings_are_those_that_patches_depend_on() -> None:
    settings = tiny.pipeline().extraction_settings()
    assert tiny.pipeline(sampler="all", scorer={"neighbours": 3}).extraction_settings() == settings
    changes: list[dict[str, Any]] = [
        {"backbone": {"name": "tiny", "channels": 9}},
        {"aggregator": {"patch_size": 1}},
        {"preprocessing": {"size": [40, 32]}},
    ]
    for change in changes:
        assert tiny.pipeline(**change).extraction_settings() != settings


def test_components_are_created_before_an_image_is_read() -> None:
    host = tiny.host()
    with pytest.raises(pp.OptionError, match="bf16"):
        Pipeline(tiny.recipe().resolve(host, 0), host, device="cpu", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(pp.TensorError, match="nowhere"):
        Pipeline(tiny.recipe().resolve(host, 0), host, device="nowhere")
    with pytest.raises(pp.OptionError, match="2 members"):
        Pipeline(tiny.members({}, {}), host, device="cpu")
