"""The torchvision backbones: feature maps, layers and refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from patchcore_plugin.errors import OptionError, TensorError
from patchcore_plugin.plugins.protocols import Backbone
from tests.plugins.torchvision_networks import SPECS, create, images, message, whole_resnet18

pytestmark = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("wide_resnet50", (512, 1024)),
        ("wide_resnet101", (512, 1024)),
        ("resnet18", (128, 256)),
        ("resnet50", (512, 1024)),
        ("resnext101", (512, 1024)),
        ("densenet201", (512, 1792)),
        ("efficientnet_b4", (56, 160)),
    ],
)
def test_default_layers_have_strides_8_and_16_at_odd_sizes(name: str, channels: tuple[int, int]) -> None:
    backbone = create(name, weights="random")
    assert isinstance(backbone, Backbone)
    maps = backbone(images())
    stem = (97 + 3) // 4, (131 + 3) // 4  # ResNet rounds up twice; DenseNet's transitions round down
    halve = (lambda n: n // 2) if name == "densenet201" else (lambda n: (n + 1) // 2)
    fine = tuple(map(halve, stem))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels[0], *fine),
        (2, channels[1], *map(halve, fine)),
    ]
    assert all(m.dtype == torch.float32 and not m.requires_grad for m in maps)


def test_maps_are_those_of_the_whole_network(tmp_path: Path) -> None:
    torch.save(whole_resnet18().state_dict(), tmp_path / "r.pth")
    layers = ("layer1", "layer2", "layer3", "layer4")
    whole = create_feature_extractor(whole_resnet18(), list(layers))
    with torch.no_grad():
        expected = whole(images())
    for got, layer in zip(
        create("resnet18", layers=layers, weights=str(tmp_path / "r.pth"))(images()), layers, strict=True
    ):
        assert (got - expected[layer]).norm() < 1e-5 * expected[layer].norm()


@pytest.mark.slow
def test_maps_are_those_of_the_whole_densenet(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = torchvision.models.densenet201(weights=None).eval()
    whole = create_feature_extractor(network, ["features.denseblock1", "features.denseblock3"])
    # As torchvision's published files spell it: "norm.1" for "norm1", and no counters.
    published = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in key else key: tensor
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(published, tmp_path / "d.pth")
    got = create("densenet201", layers=("denseblock3", "denseblock1"), weights=str(tmp_path / "d.pth"))(images())
    with torch.no_grad():
        expected = list(whole(images()).values())
    assert len(got) == 2
    for g, e in zip(got, expected, strict=True):
        assert (g - e).norm() < 1e-5 * e.norm()


@pytest.mark.slow
def test_maps_are_those_of_the_whole_efficientnet(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = torchvision.models.efficientnet_b4(weights=None).eval()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):  # its own start makes maps of 1e-20, which would hide differences
                torch.nn.init.kaiming_normal_(module.weight)
    whole = create_feature_extractor(network, [f"features.{number}" for number in range(9)])
    torch.save(network.state_dict(), tmp_path / "e.pth")
    names = ("stem", *(f"stage{number}" for number in range(1, 8)), "head")
    got = create("efficientnet_b4", layers=names, weights=str(tmp_path / "e.pth"))(images())
    with torch.no_grad():
        expected = list(whole(images()).values())
    assert [g.shape[1] for g in got] == [48, 24, 32, 56, 112, 160, 272, 448, 1792]
    for g, e in zip(got, expected, strict=True):
        assert e.norm() > 1
        assert (g - e).norm() < 1e-5 * e.norm()


@pytest.mark.parametrize("name", ["resnet18", "densenet201"])
def test_modules_after_the_last_layer_are_removed(name: str) -> None:
    first, second = SPECS[name].config().layers
    kept = dict(create(name, layers=(first,), weights="random")._stages.named_children())
    more = dict(create(name, layers=(second,), weights="random")._stages.named_children())
    assert set(kept) < set(more)
    assert [key for key, stage in kept.items() if list(stage.parameters())] == (
        ["conv1", "layer1", "layer2"] if name == "resnet18" else ["conv0", "denseblock1", "transition1", "denseblock2"]
    )


def test_maps_are_finest_first_for_any_order_of_layers() -> None:
    maps = create("resnet18", layers=("layer3", "layer1"), weights="random")(images(64, 64))
    assert [m.shape[-1] for m in maps] == [16, 4]


def test_later_layers_do_not_change_earlier_maps() -> None:
    names = ("layer1", "layer2", "layer3", "layer4")
    together = create("resnet18", layers=names, weights="random")(images())
    for name, got in zip(names, together, strict=True):
        (alone,) = create("resnet18", layers=(name,), weights="random")(images())
        assert torch.equal(alone, got)


def test_input_stays_unchanged() -> None:
    x = images()
    before = x.clone()
    create("resnet18", weights="random")(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("name", "left"), [("wide_resnet50", 0), ("resnet18", 0), ("densenet201", 68)])
def test_batch_norms_are_folded_where_a_convolution_precedes(name: str, left: int) -> None:
    """DenseNet normalises concatenations, which no single convolution makes."""
    stages = create(name, weights="random")._stages
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in stages.modules()) == left
    assert all(
        module.weight.is_contiguous(memory_format=torch.channels_last)
        for module in stages.modules()
        if isinstance(module, torch.nn.Conv2d)
    )


def test_one_thread_uses_onednn_with_equal_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, onednn = create("resnet50", weights="random"), torch.mkldnn_convolution
    calls: list[int] = []

    def counted(*args: Any) -> torch.Tensor:
        calls.append(len(calls))
        return onednn(*args)

    monkeypatch.setattr(torch, "mkldnn_convolution", counted)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = backbone(images())
        assert not calls
        torch.set_num_threads(1)
        got = backbone(images())
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == 2 * (3 + 4 + 6) + 3
    for g, e in zip(got, expected, strict=True):
        assert (g - e).norm() < 1e-5 * e.norm()


def test_wrong_images_are_refused() -> None:
    with pytest.raises(TensorError, match=r"backbone resnet18: .*got \[2, 1, 32, 32\]"):
        create("resnet18", weights="random")(torch.zeros(2, 1, 32, 32))


def test_unknown_layer_is_refused_with_all_layers() -> None:
    text = message(OptionError, "resnet18", layers=("layer2", "layr3"))
    assert "did you mean 'layer3'?" in text
    assert "layer1, layer2, layer3, layer4" in text
    assert "denseblock4" in message(OptionError, "densenet201", layers=("?",))


def test_listing_imports_no_torch_and_every_option_has_a_default() -> None:
    for spec in SPECS.values():
        assert dataclasses.is_dataclass(spec.config)
        spec.config()
    code = (
        "import sys; from patchcore_plugin.plugins.builtin.torchvision_backbones import patchcore_backbones;"
        "patchcore_backbones(); assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
