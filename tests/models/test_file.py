"""Model files: content, damage, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import patchcore_plugin as pp
from patchcore_plugin.kernels.backend import describe
from patchcore_plugin.models import file as model_file


def images(count: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "part.safetensors"
    detector = pp.Detector.from_recipe(
        "patchcore",
        backbone={"name": "resnet18", "weights": "random", "layers": ["layer2"]},
        preprocessing={"size": [32, 32]},
        device="cpu",
    )
    detector.fit(images()).save(path)
    return path


def rewrite(path: Path, target: Path, **changes: Any) -> Path:
    """Copy a model file with other entries in its manifest, and matching checksums."""
    tensors, manifest = model_file.load(path)
    changed = {**manifest, **changes}
    model_file.save(target, tensors, {key: value for key, value in changed.items() if key not in ("tensors", "sha256")})
    return target


def test_the_manifest_has_everything_to_repeat_the_fit(model_path: Path) -> None:
    manifest = model_file.read_manifest(model_path)
    assert manifest["recipe"]["backbone"] == {
        "name": "resnet18",
        "layers": ["layer2"],
        "weights": "random",
        "seed": 0,
    }
    assert manifest["recipe"]["sampler"]["ratio"] == 0.1
    assert manifest["recipe"]["preprocessing"]["size"] == [32, 32]
    assert manifest["plugins"]["backbone"]["distribution"] == "patchcore-plugin"
    assert manifest["kernels"] == {"sampler": describe(), "scorer": describe()}
    assert len(manifest["backbone_sha256"]) == 64
    assert manifest["photos"][0] == {"path": None, "height": 40, "width": 50}
    assert manifest["patches_seen"] == 3 * 4 * 4
    assert manifest["covering_radius"] > 0
    assert manifest["calibration"]["threshold"] > 0
    assert set(manifest["software"]) == {"python", "patchcore-plugin", "torch", "numpy"}


def test_a_loaded_model_is_saved_with_the_same_bytes(model_path: Path, tmp_path: Path) -> None:
    pp.Detector.load(model_path, device="cpu").save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model_path.read_bytes()


@pytest.mark.parametrize("size", [0, 4, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_damaged(model_path: Path, tmp_path: Path, size: float) -> None:
    data = model_path.read_bytes()
    length = int(size) if size in (0, 4, 100, -1) else int(size * len(data))
    (tmp_path / "cut.safetensors").write_bytes(data[:length])
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(tmp_path / "cut.safetensors")
    assert str(caught.value).startswith(f"{tmp_path / 'cut.safetensors'}: damaged (")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_flipped_bit_is_noticed(model_path: Path, tmp_path: Path) -> None:
    data = model_path.read_bytes()
    rng = np.random.default_rng(0)
    header = int.from_bytes(data[:8], "little")
    places = {*range(0, 40), *rng.integers(0, header, 150).tolist(), *rng.integers(header, len(data), 100).tolist()}
    target = tmp_path / "flipped.safetensors"
    for place in sorted(places):
        flipped = bytearray(data)
        flipped[place] ^= 0x01
        target.write_bytes(flipped)
        with pytest.raises(pp.ModelFileError):
            pp.Detector.load(target)


def test_a_newer_format_is_refused(model_path: Path, tmp_path: Path) -> None:
    data = model_path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    content = json.loads(header["__metadata__"]["patchcore"])
    newer = json.dumps({**content, "format": 3, "news": "a field of the future"})
    save_file(load_file(model_path), tmp_path / "new.safetensors", metadata={"patchcore": newer})
    with pytest.raises(pp.ModelFileError, match=r"new\.safetensors: .*format 3.*\(2\).*--upgrade patchcore-plugin"):
        pp.Detector.load(tmp_path / "new.safetensors")


def test_a_missing_plugin_is_named_with_its_distribution(model_path: Path, tmp_path: Path) -> None:
    manifest = model_file.read_manifest(model_path)
    recipe, plugins = manifest["recipe"], manifest["plugins"]
    recipe["sampler"] = {"name": "foreign-sampler"}
    plugins["sampler"] = {"distribution": "patchcore-foreign", "version": "3.1"}
    path = rewrite(model_path, tmp_path / "foreign.safetensors", recipe=recipe, plugins=plugins)
    with pytest.raises(pp.ModelFileError, match=r"sampler 'foreign-sampler'.*pip install --upgrade patchcore-foreign"):
        pp.Detector.load(path)


def test_other_weights_are_refused(model_path: Path, tmp_path: Path) -> None:
    path = rewrite(model_path, tmp_path / "other.safetensors", backbone_sha256="0" * 64)
    with pytest.raises(pp.WeightsError, match="backbone 'resnet18' has other weights"):
        pp.Detector.load(path)


def test_values_that_are_not_finite_are_refused(model_path: Path, tmp_path: Path) -> None:
    tensors, manifest = model_file.load(model_path)
    tensors["bank.vectors"][3, 5] = torch.nan
    for key in ("tensors", "sha256"):
        manifest.pop(key)
    model_file.save(tmp_path / "nan.safetensors", tensors, manifest)
    with pytest.raises(pp.ModelFileError, match=r"tensor bank\.vectors contains values that are not finite"):
        pp.Detector.load(tmp_path / "nan.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pp.ModelFileError, match=r"no such model file; .*patchcore fit IMAGES --out"):
        pp.Detector.load(tmp_path / "nothing.safetensors")
    save_file({"weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(pp.ModelFileError, match="not a patchcore model file"):
        pp.Detector.load(tmp_path / "weights.safetensors")
    (tmp_path / "image.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for load in (pp.Detector.load, pp.load_model):
        with pytest.raises(pp.ModelFileError, match=r"image\.safetensors: not a model file"):
            load(tmp_path / "image.safetensors")
        with pytest.raises(pp.ModelFileError, match="is a folder"):
            load(tmp_path)


def test_a_folder_named_like_an_exported_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    path.mkdir()
    with pytest.raises(pp.ModelFileError, match=r"part\.onnx: is a folder"):
        pp.load_model(path)


def test_a_failed_write_leaves_the_old_file_only(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "part.safetensors"
    target.write_bytes(model_path.read_bytes())
    detector = pp.Detector.load(target, device="cpu")

    def fail(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_file, "save_file", fail)
    with pytest.raises(pp.ModelFileError, match=r"cannot be written .*No space left on device"):
        detector.save(target)
    assert target.read_bytes() == model_path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["part.safetensors"]
