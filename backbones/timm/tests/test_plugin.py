"""The timm plugin, through the public API only."""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import patchcore_timm as plugin
import pytest
import timm
import torch
from patchcore_timm import _weights
from safetensors.torch import save_file

import patchcore_plugin as pp
from patchcore_plugin.testing import parametrize_checks

DINO = "vit_small_patch14_reg4_dinov2"
SWIN = "swin_tiny_patch4_window7_224"


def create(model: str = "test_resnet", **options: Any) -> Any:
    return plugin.create(plugin.Config(**{"model": model, "weights": "random", **options}))


def message(kind: type[pp.PatchcoreError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(**options)
    return str(caught.value)


def images(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def original(model: str, **options: Any) -> Any:
    """Return the whole model as timm makes it, classifier included, with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        return timm.create_model(model, **options).eval()


def outputs(network: Any, names: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    """Return what modules of a network put out while the whole network runs."""
    found: list[torch.Tensor] = []
    for name in names:
        network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        network(x)
    return found


@parametrize_checks(plugin, options={"timm": {"model": "test_vit3", "weights": "random"}})
def test_conformance(check: Any) -> None:
    check()


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


def test_nothing_after_the_last_layer_is_kept() -> None:
    names = set(create("test_vit", layers=(1,))._network.state_dict())
    assert {name.split(".")[1] for name in names if name.startswith("blocks.")} == {"0", "1"}
    assert not [name for name in names if name.startswith(("norm.", "head."))]
    assert create("test_vit", layers=(0, 1)).weight_hash() == create("test_vit", layers=(1,)).weight_hash()
    assert create("test_vit", layers=(2,)).weight_hash() != create("test_vit", layers=(1,)).weight_hash()


def test_normalisation_is_that_of_the_weights() -> None:
    assert create("test_vit").mean == (0.5, 0.5, 0.5)
    assert create("test_efficientnet").std == (0.229, 0.224, 0.225)
    assert create("vit_tiny_patch16_224.augreg_in21k").std == (0.5, 0.5, 0.5)


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    a = create(seed=3).weight_hash()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]  # noqa: NPY002
    torch.manual_seed(6)
    assert create(seed=3).weight_hash() == a
    assert create(seed=4).weight_hash() != a


def test_a_fit_survives_saving_and_loading(tmp_path: Path) -> None:
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


# Options that cannot be


def test_unknown_models_are_answered_with_near_ones() -> None:
    lists = "python -c 'import timm; print(*timm.list_models())' lists all"
    begin, _, end = message(pp.OptionError, model="test_resnett").partition(" or ")
    assert begin == f"backbone timm: model: timm {timm.__version__} has no 'test_resnett' (did you mean test_resnet"
    assert end.endswith(f"?); {lists}")  # which else is near depends on timm's version
    assert message(pp.OptionError, model="hf-hub:someone/something", weights="pretrained") == (
        f"backbone timm: model: timm {timm.__version__} has no 'hf-hub:someone/something'; {lists}"
    )


def test_unknown_tags_are_answered_with_all() -> None:
    assert message(pp.OptionError, model="test_vit.none", weights="pretrained") == (
        "backbone timm: model: test_vit has no tag 'none'; choose from r160_in1k"
    )
    assert message(pp.OptionError, model="convnext_atto_rms.a").endswith("has no tag 'a'; it has none")


LAYERS = "act1, layer1, layer2, layer3, layer4, or 0 to 4"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (("layer22",), f"layers: test_resnet has no 'layer22' (did you mean 'layer2'?); choose from {LAYERS}"),
        ((5,), f"layers: test_resnet has no '5'; choose from {LAYERS}"),
        ((-1,), f"layers: test_resnet has no '-1'; choose from {LAYERS}"),
        ((), f"layers is empty; test_resnet has several: choose from {LAYERS}"),
        ((3, "layer3"), "layers names 'layer3' twice"),
    ],
)
def test_layers_that_do_not_exist_are_refused_before_weights_are_read(layers: tuple[int | str, ...], text: str) -> None:
    assert message(pp.OptionError, layers=layers, weights="/nowhere.pth") == f"backbone timm: {text}"


# Images that cannot be


def test_wrong_images_are_named() -> None:
    with pytest.raises(pp.TensorError) as caught:
        create()(torch.zeros(3, 32, 32))
    assert str(caught.value) == "backbone timm: expected images [B, 3, H, W], got [3, 32, 32]"


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
def test_sizes_that_a_model_cannot_take_are_answered_with_one_that_it_can(
    model: str, size: tuple[int, int], text: str
) -> None:
    backbone = create(model)
    with pytest.raises(pp.TensorError) as caught:
        backbone(images(*size))
    assert str(caught.value) == (
        f"backbone timm: {model} cannot take images of {size[0]} x {size[1]} ({text}, "
        "or preprocessing.crop where the recipe crops"
    )
    height, width = (int(part) for part in text.rpartition("=")[2].split(","))
    assert len(backbone(images(height, width))[0]) == 2


def test_what_fails_at_the_models_own_size_is_no_wrong_size() -> None:
    backbone = create("test_vit")
    with pytest.raises(RuntimeError, match="double"):
        backbone(images(160, 160).double())


# Weights


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(original("test_resnet").state_dict(), tmp_path / "whole.pth")
    return tmp_path / "whole.pth"


def test_weights_of_any_kind_of_file_give_equal_maps(saved: Path) -> None:
    tensors = torch.load(saved, weights_only=True)
    save_file(tensors, saved.with_suffix(".safetensors"))
    fine_tuned = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    torch.save({"state_dict": {**fine_tuned, "fc.weight": torch.zeros(2, 9)}, "epoch": 3}, saved.parent / "tuned.pth")
    paths = (saved, saved.with_suffix(".safetensors"), saved.parent / "tuned.pth")
    first, *others = [create(weights=str(path)) for path in paths]
    for other in others:
        assert other.weight_hash() == first.weight_hash() != create().weight_hash()
        for a, b in zip(other(images()), first(images()), strict=True):
            assert torch.equal(a, b)


def test_a_file_that_does_not_exist_or_is_damaged(tmp_path: Path, saved: Path) -> None:
    assert message(pp.WeightsError, weights="nowhere.pth") == (
        "backbone timm: weights: no file nowhere.pth; "
        "give pretrained, random, or the path of a .pth or .safetensors file"
    )
    advice = "save one with torch.save(network.state_dict(), PATH)"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    assert message(pp.WeightsError, weights=str(cut)) == (
        f"backbone timm: weights: {cut} cannot be read as a .pth or .safetensors file of named tensors "
        f"(SafetensorError); {advice}"
    )
    saved.write_bytes(saved.read_bytes()[:1000])
    assert message(pp.WeightsError, weights=str(saved)).endswith(f"(RuntimeError); {advice}")


class Trap:
    """Leaves a trace where its pickle is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_pickle_is_run(tmp_path: Path) -> None:
    torch.save({"layer": Trap(tmp_path / "trace")}, tmp_path / "trap.pth")
    assert "cannot be read as a .pth" in message(pp.WeightsError, weights=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "trace").exists()


def test_weights_of_another_network(tmp_path: Path, saved: Path) -> None:
    tensors = torch.load(saved, weights_only=True)
    del tensors["conv1.0.weight"], tensors["bn1.weight"], tensors["bn1.bias"]
    tensors["more"] = torch.zeros(1)
    tensors["layer1.0.bn1.weight"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "other.pth")
    assert message(pp.WeightsError, weights=str(tmp_path / "other.pth")) == (
        f"backbone timm: weights: {tmp_path / 'other.pth'} is of another network than test_resnet; tensors: "
        "3 missing (conv1.0.weight, bn1.weight, ...); 1 unexpected (more); 1 of another shape (layer1.0.bn1.weight); "
        "they must have timm's names, as in the file that timm downloads for the model"
    )


def test_a_model_without_pretrained_weights() -> None:
    assert message(pp.WeightsError, model="convnext_atto_rms", weights="pretrained") == (
        "backbone timm: timm has no pretrained weights of convnext_atto_rms; "
        "choose another model, or give a weights file with backbone.weights=PATH"
    )


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repository: str, **_: Any) -> None:
        raise OSError(f"no route\nto {repository}")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_weights, "model_info", unreachable)
    assert message(pp.WeightsError, model="test_vit", weights="pretrained") == (
        "backbone timm: the pretrained weights of test_vit cannot be had (no route to timm/test_vit.r160_in1k): "
        "connect to the network once so that timm downloads them, "
        "or give a weights file with backbone.weights=PATH, or backbone.weights=random for a trial"
    )


def test_downloaded_weights_are_read_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path
) -> None:
    """The hub's cache, as a download leaves it; any question to the hub fails."""
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(torch.load(saved, weights_only=True), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_weights, "model_info", None)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", None)
    assert create(weights="pretrained").weight_hash() == create(weights=str(saved)).weight_hash()


# The distribution


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; import patchcore_timm as p; p.patchcore_backbones();"
        "assert not {'torch', 'timm', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_wheel_holds_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    monkeypatch.chdir(Path(__file__).parents[1])
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        files = {name.partition("dist-info/")[2] or name for name in wheel.namelist()}
        assert files == {
            *(f"patchcore_timm/{name}" for name in ("__init__.py", "_features.py", "_weights.py", "py.typed")),
            *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"),
        }
        points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert wheel.read(points).decode().split("\n")[:2] == ["[patchcore_plugin]", "timm = patchcore_timm"]
