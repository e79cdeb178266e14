"""The timm plugin, through the public API only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import patchcore_timm as plugin
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.testing import parametrize_checks

from .networks import create, images, message, original

DINO = "vit_small_patch14_reg4_dinov2"
SWIN = "swin_tiny_patch4_window7_224"


@parametrize_checks(plugin, options={"timm": {"model": "test_vit3", "weights": "random"}})
def test_conformance(check: Any) -> None:
    check()


def test_listing_does_not_contact_the_hub() -> None:
    """What is heavy for everybody is a check of conformance."""
    code = (
        "import sys; import patchcore_timm as p; p.patchcore_backbones(); assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def outputs(network: Any, names: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    """Return what modules of a network put out while the whole network runs."""
    found: list[torch.Tensor] = []
    for name in names:
        network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        network(x)
    return found


@pytest.mark.parametrize(
    ("model", "strides", "channels"),
    [
        ("test_resnet", (8, 16), (48, 192)),
        ("test_efficientnet", (8, 16), (32, 48)),
        ("test_convnext", (8, 16), (32, 48)),
        (SWIN, (8, 16), (192, 384)),
        ("test_vit", (16, 16), (64, 64)),
        ("levit_128s", (16,), (128,)),
    ],
)
def test_default_layers(model: str, strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
    size = (224, 224) if model.startswith("levit") else (64, 96)
    maps = create(model)(images(*size))
    assert [tuple(m.shape) for m in maps] == [
        (2, count, size[0] // stride, size[1] // stride) for stride, count in zip(strides, channels, strict=True)
    ]
    assert all(m.dtype == torch.float32 and not m.requires_grad for m in maps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layers", "options", "size", "prefix"),
    [
        ("test_resnet", ["layer2", "layer3"], {}, (70, 100), None),
        ("test_efficientnet", ["blocks.1", "blocks.3"], {}, (64, 96), None),
        ("test_convnext", ["stages.0", "stages.2"], {}, (64, 96), None),
        (SWIN, ["layers.1", "layers.2"], {"dynamic_img_size": True}, (64, 96), None),
        ("test_vit", ["blocks.2", "blocks.4"], {}, (160, 160), 1),
        ("test_vit", ["blocks.2", "blocks.4"], {"dynamic_img_size": True}, (64, 96), 1),
        ("deit_tiny_distilled_patch16_224", ["blocks.0", "blocks.3"], {"dynamic_img_size": True}, (32, 48), 2),
        (DINO, ["blocks.5", "blocks.8"], {"dynamic_img_size": True}, (42, 70), 5),
    ],
)
def test_maps_are_those_of_the_whole_network(
    tmp_path: Path, model: str, layers: list[str], options: dict[str, Any], size: tuple[int, int], prefix: int | None
) -> None:
    """Modules of timm's own model are tapped while all of it runs; tokens are put on their grid by hand."""
    whole = original(model, **options)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    expected = outputs(whole, layers, images(*size))
    if prefix is not None:
        patch = whole.patch_embed.patch_size[0]
        grid = size[0] // patch, size[1] // patch
        expected = [tokens[:, prefix:].transpose(1, 2).unflatten(2, grid) for tokens in expected]
    elif model == SWIN:
        expected = [output.permute(0, 3, 1, 2) for output in expected]
    maps = create(model, layers=tuple(layers), weights=str(tmp_path / "whole.pth"))(images(*size))
    for got, wanted in zip(maps, expected, strict=True):
        assert got.shape == wanted.shape
        assert (got - wanted).norm() < 1e-5 * wanted.norm()


def test_layers_by_index_or_name_in_any_order() -> None:
    named, numbered = create(layers=("layer3", "layer1")), create(layers=(1, 3))
    assert [m.shape[1] for m in named(images())] == [32, 192]
    for a, b in zip(named(images()), numbered(images()), strict=True):
        assert torch.equal(a, b)


def test_later_layers_are_removed() -> None:
    names = set(create("test_vit", layers=(1,))._network.state_dict())
    assert {name.split(".")[1] for name in names if name.startswith("blocks.")} == {"0", "1"}
    assert not [name for name in names if name.startswith(("norm.", "head."))]
    assert create("test_vit", layers=(0, 1)).weight_hash() == create("test_vit", layers=(1,)).weight_hash()
    assert create("test_vit", layers=(2,)).weight_hash() != create("test_vit", layers=(1,)).weight_hash()


def test_normalisation_is_that_of_the_weights() -> None:
    assert create("test_vit").mean == (0.5, 0.5, 0.5)
    assert create("test_efficientnet").std == (0.229, 0.224, 0.225)
    assert create("vit_tiny_patch16_224.augreg_in21k").std == (0.5, 0.5, 0.5)


@pytest.mark.slow
def test_saved_model_predicts_equal_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = [rng.integers(90, 110, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    bad = good[0].copy()
    bad[20:40, 20:40] = 250
    backbone = {"name": "timm", "model": "test_vit3", "weights": "random"}
    detector = pp.Detector.from_recipe("patchcore", backbone=backbone, preprocessing={"size": (64, 64)}, seed=3)
    assert detector.recipe.backbone.options["seed"] == 3
    detector.fit(good).save(tmp_path / "part.safetensors")
    loaded = pp.Detector.load(tmp_path / "part.safetensors")
    assert loaded.predict([bad])[0].score == detector.predict([bad])[0].score > detector.predict(good[:1])[0].score


# Invalid options


def test_unknown_model_is_refused_with_a_suggestion() -> None:
    assert "did you mean 'test_resnet" in message(pp.OptionError, model="test_resnett")
    assert "hf-hub:someone/something" in message(pp.OptionError, model="hf-hub:someone/something", weights="pretrained")


def test_unknown_tag_is_refused_with_all_tags() -> None:
    assert "choose from r160_in1k" in message(pp.OptionError, model="test_vit.none", weights="pretrained")
    assert message(pp.OptionError, model="convnext_atto_rms.a").endswith("has no tag 'a'; it has none")


LAYERS = "act1, layer1, layer2, layer3, layer4, or 0 to 4"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (("layer22",), f"did you mean 'layer2'? choose from {LAYERS}"),
        ((5,), f"choose from {LAYERS}"),
        ((-1,), f"choose from {LAYERS}"),
        ((), f"choose from {LAYERS}"),
        ((3, "layer3"), "'layer3' twice"),
    ],
)
def test_unknown_layers_are_refused_before_weights_are_read(layers: tuple[int | str, ...], text: str) -> None:
    assert text in message(pp.OptionError, layers=layers, weights="/nowhere.pth")


# Invalid images


def test_wrong_images_are_refused() -> None:
    with pytest.raises(pp.TensorError, match=r"got \[3, 32, 32\]"):
        create()(torch.zeros(3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "text"),
    [
        (
            DINO,
            (256, 300),
            "Input height (256) should be divisible by patch size (14)); set preprocessing.size=252,294",
        ),
        ("test_vit", (5, 32), "Input height (5) should be divisible by patch size (16)); set preprocessing.size=16,32"),
        ("test_vit_relpos", (64, 64), "Input height (64) doesn't match model (160)); set preprocessing.size=160,160"),
        ("test_maxvit", (256, 256), "height (64) must be divisible by window (5)); set preprocessing.size=160,160"),
    ],
)
def test_refused_size_is_answered_with_a_supported_one(model: str, size: tuple[int, int], text: str) -> None:
    backbone = create(model)
    with pytest.raises(pp.TensorError) as caught:
        backbone(images(*size))
    assert text in str(caught.value)
    height, width = (int(part) for part in text.rpartition("=")[2].split(","))
    assert len(backbone(images(height, width))[0]) == 2


def test_failure_at_the_native_size_is_raised() -> None:
    backbone = create("test_vit")
    with pytest.raises(RuntimeError, match="double"):
        backbone(images(160, 160).double())
