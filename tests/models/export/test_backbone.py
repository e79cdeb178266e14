"""Backbones as ONNX files: the features and scores are those of torch, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import patchcore_plugin as pp
from patchcore_plugin import Detector, Host
from patchcore_plugin.models.export import backbone as onnx_export
from patchcore_plugin.models.export.backbone import Export, export_backbone

pytest.importorskip("patchcore_onnx", reason="the ONNX backbone is not installed")

pytestmark = pytest.mark.slow

CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "lite0": ("efficientnet-lite0", {"layers": ("stage6", "stage3")}),
    "resnet18": ("resnet18", {"weights": "random"}),
    "wide": ("wide_resnet50", {"weights": "random", "layers": ("layer1",)}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, where the built-in backbones call oneDNN directly, which ONNX lacks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


@pytest.fixture(scope="module")
def export_of(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Export]:
    folder = tmp_path_factory.mktemp("onnx")
    exports: dict[str, Export] = {}

    def get(key: str) -> Export:
        if key not in exports:
            name, options = CHOICES[key]
            backbone = host.create("backbone", name, **options)
            exports[key] = export_backbone(backbone, folder / f"{key}.onnx", name=name, options=options)
        return exports[key]

    return get


def images(count: int, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(90, 110, (64, 72, 3), dtype=np.uint8) for _ in range(count)]


def defective() -> np.ndarray[Any, Any]:
    (image,) = images(1, seed=1)
    image[20:40, 20:40] = 250
    return image


# The same features


@pytest.mark.parametrize("key", list(CHOICES))
def test_features_are_those_of_torch(key: str, host: Host, export_of: Callable[[str], Export]) -> None:
    export = export_of(key)
    assert export.difference is not None
    assert 0 < export.difference < onnx_export.TOLERANCE
    name, options = CHOICES[key]
    expected = host.create("backbone", name, **options)
    backbone = host.create("backbone", "onnx", file=str(export.path))
    assert (backbone.mean, backbone.std) == (expected.mean, expected.std)
    assert export.maps == expected.layers == tuple(sorted(options.get("layers", ("layer2", "layer3"))))  # type: ignore[attr-defined]
    for batch in (1, 3, 8):
        for size in ((64, 64), (72, 96), (71, 97)):
            images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
            for reference, features in zip(expected(images), backbone(images), strict=True):
                assert (features - reference).abs().max() <= 1e-4 * reference.abs().max()
                torch.testing.assert_close(features, reference, rtol=1e-4, atol=1e-4)


def test_scores_are_those_of_torch(export_of: Callable[[str], Export]) -> None:
    name, options = CHOICES["lite0"]
    backbones = ({"name": name, **options}, {"name": "onnx", "file": str(export_of("lite0").path)})
    preprocessing = {"size": (64, 72)}
    scores, maps, thresholds = [], [], list[float]()
    for backbone in backbones:
        detector = Detector.from_recipe("patchcore", backbone=backbone, preprocessing=preprocessing, device="cpu")
        detector.fit(images(12))
        predictions = detector.predict([*images(2, seed=2), defective()])
        scores.append([each.score for each in predictions])
        maps.append(np.stack([each.anomaly_map for each in predictions if each.anomaly_map is not None]))
        thresholds.append(detector.threshold or 0.0)
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(thresholds[1], thresholds[0], rtol=1e-4)
    assert scores[1][2] > 1.5 * thresholds[1] > 0


# Models


def test_a_model_loads_in_another_process_and_a_changed_file_is_refused(
    export_of: Callable[[str], Export], tmp_path: Path
) -> None:
    file, model = tmp_path / "features.onnx", tmp_path / "model.safetensors"
    file.write_bytes(export_of("lite0").path.read_bytes())
    change: dict[str, Any] = {"preprocessing": {"size": (64, 72)}, "device": "cpu"}
    detector = Detector.from_recipe("patchcore", backbone={"name": "onnx", "file": str(file)}, **change)
    detector.fit(images(4)).save(model)
    np.save(tmp_path / "image.npy", defective())
    code = (
        "import sys, numpy as np, patchcore_plugin as pp\n"
        "detector = pp.Detector.load(sys.argv[1], device='cpu')\n"
        "print(repr(detector.predict([np.load(sys.argv[2])])[0].score))"
    )
    command = [sys.executable, "-c", code, str(model), str(tmp_path / "image.npy")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert float(ended.stdout) == pytest.approx(detector.predict([defective()])[0].score, rel=1e-6)
    assert ended.stderr == ""

    changed = onnx.load(file)
    changed.producer_name = "another program"
    onnx.save(changed, file)
    with pytest.raises(pp.WeightsError, match="backbone 'onnx' has other weights"):
        Detector.load(model)
    file.unlink()
    with pytest.raises(pp.WeightsError, match=re.escape(str(file))):
        Detector.load(model)


# The file


def test_the_file_describes_the_backbone(host: Host, export_of: Callable[[str], Export]) -> None:
    export = export_of("lite0")
    model = onnx.load(export.path)
    (entry,) = model.metadata_props
    assert entry.key == "patchcore"
    name, options = CHOICES["lite0"]
    backbone = host.create("backbone", name, **options)
    description = json.loads(entry.value)
    assert description.pop("patchcore_plugin") == importlib.metadata.version("patchcore-plugin")
    assert description == {
        "backbone": "efficientnet-lite0",
        "options": {"layers": ["stage6", "stage3"]},
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "weight_hash": backbone.weight_hash(),
    }
    (images,) = model.graph.input
    assert images.name == "images"
    assert [each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim] == [
        *("batch", 3, "height", "width")
    ]
    assert [each.name for each in model.graph.output] == ["stage3", "stage6"]
    assert [each.name for each in export.path.parent.iterdir() if export.path.name in each.name] == ["lite0.onnx"]
    # Neither paths nor source lines of this computer.
    assert str(Path(torch.__file__).parent).encode() not in export.path.read_bytes()
    assert b"stack_trace" not in export.path.read_bytes()


def test_equal_backbones_have_equal_files_and_are_not_changed(
    host: Host, export_of: Callable[[str], Export], tmp_path: Path
) -> None:
    name, options = CHOICES["lite0"]
    backbone = host.create("backbone", name, **options)
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    before, random_state = backbone(images), torch.get_rng_state()
    again = export_backbone(backbone, tmp_path / "again.onnx", name=name, options=options)
    assert again.path.read_bytes() == export_of("lite0").path.read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(before, backbone(images), strict=True))
    assert torch.equal(random_state, torch.get_rng_state())


# Refusals


class Simple:
    """A backbone of any function, by default average pooling."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, function: Callable[[Tensor], list[Tensor]] | None = None) -> None:
        self._function = function

    def __call__(self, images: Tensor) -> list[Tensor]:
        return self._function(images) if self._function else [nn.functional.avg_pool2d(images, 2)]

    def to(self, device: torch.device | str) -> Simple:
        return self

    def weight_hash(self) -> str:
        return pp.hash_weights({})


def refusal(kind: type[pp.PatchcoreError], backbone: pp.Backbone, folder: Path, **options: Any) -> str:
    path = folder / "features.onnx"
    path.write_text("an older file")
    with pytest.raises(kind) as caught:
        export_backbone(backbone, path, **options)
    assert path.read_text() == "an older file"
    assert list(folder.iterdir()) == [path]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_backbone_without_modules_and_names(tmp_path: Path, host: Host) -> None:
    export = export_backbone(Simple(), tmp_path / "features.onnx")
    assert export.maps == ("map0",)
    images = torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(0))
    backbone = host.create("backbone", "onnx", file=str(export.path))
    torch.testing.assert_close(backbone(images), Simple()(images))


def test_a_backbone_that_is_not_torch_is_refused(
    host: Host, export_of: Callable[[str], Export], tmp_path: Path
) -> None:
    backbone = host.create("backbone", "onnx", file=str(export_of("resnet18").path))
    text = refusal(pp.PluginError, backbone, tmp_path, name="onnx")
    assert text.startswith("backbone 'onnx' cannot be exported to ONNX")
    assert "--size HEIGHT,WIDTH" in text


@pytest.mark.parametrize("height", [40, 64])
def test_a_backbone_for_one_size(tmp_path: Path, height: int) -> None:
    def only(images: Tensor) -> list[Tensor]:
        if images.shape[2] != height:
            raise pp.TensorError(f"{height} pixels only")
        return [images[:, :, ::2]]

    text = refusal(pp.PatchcoreError, Simple(only), tmp_path, name="one")
    assert f"{height} pixels only" in text
    assert "--size HEIGHT,WIDTH" in text
    export = export_backbone(Simple(only), tmp_path / "features.onnx", size=(height, 64))
    assert export.size == (height, 64)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    def inconsistent(images: Tensor) -> list[Tensor]:
        factor = 2.0 if torch.compiler.is_compiling() else 1.0
        return [images * factor]

    text = refusal(pp.TensorError, Simple(inconsistent), tmp_path, name="inconsistent")
    assert text.startswith("backbone 'inconsistent': map 0 of its ONNX file differs from torch's by 1.0e+00")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pp.ModelFileError, match="is a folder"):
        export_backbone(Simple(), tmp_path)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def without(*missing: str) -> None:
        monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name in missing else find_spec(name))

    without("onnxruntime")
    assert export_backbone(Simple(), tmp_path / "features.onnx").difference is None
    without("onnxscript")
    assert "requires onnxscript; pip install 'patchcore-plugin[export]'" in refusal(pp.PluginError, Simple(), tmp_path)
