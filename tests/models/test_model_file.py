"""Model files: what is written, and what is refused."""

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
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    """Copy a model file with other entries in its manifest and checksums that fit."""
    tensors, manifest = model_file.load(path)
    changed = {**manifest, **changes}
    model_file.save(target, tensors, {key: value for key, value in changed.items() if key not in ("tensors", "sha256")})
    return target


def test_manifest_holds_what_it_takes_to_do_it_again(saved: Path) -> None:
    manifest = model_file.read_manifest(saved)
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


def test_same_fit_same_bytes(saved: Path, tmp_path: Path) -> None:
    pp.Detector.load(saved, device="cpu").save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99, -1])
def test_cut_short(saved: Path, tmp_path: Path, kept: float) -> None:
    data = saved.read_bytes()
    length = int(kept) if kept in (0, 4, 100, -1) else int(kept * len(data))
    (tmp_path / "cut.safetensors").write_bytes(data[:length])
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(tmp_path / "cut.safetensors")
    assert str(caught.value).startswith(f"{tmp_path / 'cut.safetensors'}: damaged (")
    assert str(caught.value).endswith("; copy it again from its source, or fit again")
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_is_noticed(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
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


def test_newer_format(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    content = json.loads(header["__metadata__"]["patchcore"])
    newer = json.dumps({**content, "format": 3, "news": "a field of the future"})
    save_file(load_file(saved), tmp_path / "new.safetensors", metadata={"patchcore": newer})
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(tmp_path / "new.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'new.safetensors'}: written in format 3, newer than this version reads (2); "
        "pip install --upgrade patchcore-plugin"
    )


def test_missing_plugin_names_what_to_install(saved: Path, tmp_path: Path) -> None:
    manifest = model_file.read_manifest(saved)
    recipe, plugins = manifest["recipe"], manifest["plugins"]
    recipe["sampler"] = {"name": "somebodys-sampler"}
    plugins["sampler"] = {"distribution": "patchcore-somebody", "version": "3.1"}
    path = rewrite(saved, tmp_path / "foreign.safetensors", recipe=recipe, plugins=plugins)
    with pytest.raises(pp.ModelFileError) as caught:
        pp.Detector.load(path)
    assert str(caught.value) == (
        f"{path}: needs sampler 'somebodys-sampler', which is not available here; "
        "pip install --upgrade patchcore-somebody (details: patchcore plugins list)"
    )


def test_other_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    path = rewrite(saved, tmp_path / "other.safetensors", backbone_sha256="0" * 64)
    with pytest.raises(pp.WeightsError, match="backbone 'resnet18' has other weights here than the model was fitted"):
        pp.Detector.load(path)


def test_values_that_are_not_finite_are_refused(saved: Path, tmp_path: Path) -> None:
    tensors, manifest = model_file.load(saved)
    tensors["bank.vectors"][3, 5] = torch.nan
    for key in ("tensors", "sha256"):
        manifest.pop(key)
    model_file.save(tmp_path / "nan.safetensors", tensors, manifest)
    with pytest.raises(pp.ModelFileError, match=r"tensor bank\.vectors holds values that are not finite"):
        pp.Detector.load(tmp_path / "nan.safetensors")


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(pp.ModelFileError, match="no such model file; make one with: patchcore fit IMAGES --out"):
        pp.Detector.load(tmp_path / "nothing.safetensors")
    save_file({"weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(pp.ModelFileError, match="not a model file of this program"):
        pp.Detector.load(tmp_path / "weights.safetensors")
    (tmp_path / "image.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for path, found in (
        (tmp_path / "image.safetensors", "not a model file (.safetensors of patchcore, or an exported .onnx)"),
        (tmp_path, "is a folder, not a model file"),
    ):
        for load in (pp.Detector.load, pp.load_model):
            with pytest.raises(pp.ModelFileError) as caught:
                load(path)
            said = f"{path}: {found}; give the file that patchcore fit or patchcore export has written"
            assert str(caught.value) == said


def test_a_folder_that_is_called_like_an_exported_model(tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    path.mkdir()
    with pytest.raises(pp.ModelFileError, match=r"part\.onnx: is a folder, not a model file; give the file that"):
        pp.load_model(path)


def test_failed_write_leaves_the_old_file_and_no_litter(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "part.safetensors"
    target.write_bytes(saved.read_bytes())
    detector = pp.Detector.load(target, device="cpu")

    def fail(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_file, "save_file", fail)
    with pytest.raises(pp.ModelFileError, match=r"cannot be written .*No space left on device"):
        detector.save(target)
    assert target.read_bytes() == saved.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["part.safetensors"]
