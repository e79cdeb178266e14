"""`patchcore export`: an ONNX file of real images, by the other commands and by runtimes alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import patchcore_plugin as pp
from patchcore_plugin import ExportedModel, export_model
from patchcore_plugin.data.images import to_unit
from tests import real_images
from tests.commands import done, failure, json_lines, loaded
from tests.models.exports import Image, same


@dataclass
class Exported:
    model: Path
    file: Path
    images: list[Path]
    said: dict[str, Any]


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Fit and export by the command line, on real images where they are at hand."""
    hazelnuts = real_images.DATA / "hazelnut_reduced"
    root = hazelnuts if hazelnuts.is_dir() else dataset
    folder = tmp_path_factory.mktemp("exported")
    model, file = folder / "part.safetensors", folder / "part.onnx"
    images = sorted(path for kind in (root / "test").iterdir() for path in kind.iterdir())[:8]
    good = sorted((root / "train" / "good").iterdir())[:8]
    setting = ["--backbone", "efficientnet-lite0", "--set", "preprocessing.size=128,160", "--device", "cpu"]
    done("fit", *good, "--out", model, *setting)
    return Exported(model, file, images, loaded("export", model, "--format", "onnx", "--out", file))


def test_the_command_says_what_it_found(exported: Exported) -> None:
    said = dict(exported.said)
    assert 0 < said.pop("largest_score_difference") < 1e-5
    assert 0 < said.pop("largest_map_difference") < 1e-4
    assert said.pop("sizes")[1:] == [[78, 117], [175, 309]]
    assert said == {
        "file": str(exported.file),
        "format": "onnx",
        "outputs": ["score", "map", "distance", "peak", "nearest"],
        "images": 8,
        "batches": [1, 3, 8],
    }
    assert {path.name for path in exported.file.parent.iterdir()} == {"part.onnx", "part.safetensors"}


def test_predictions_are_those_of_the_model(exported: Exported, tmp_path: Path) -> None:
    model, found = pp.load_model(exported.model, device="cpu"), pp.load_model(exported.file)
    assert isinstance(found, ExportedModel)
    same(found.predict(exported.images), model.predict(exported.images))
    first = cv2.imread(str(exported.images[0]))
    assert first is not None
    mixed: list[Any] = [*exported.images[:2], tmp_path / "missing.png"]
    for size in ((300, 200), (90, 100), (90, 100), (90, 100)):
        mixed.append(cv2.resize(first[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA))
    deep = (mixed[-1].astype(np.uint16) << 8) + np.arange(100, dtype=np.uint16)[None, :, None]
    mixed += [deep, deep.astype(np.float32) / 65535]
    wanted, got = (list(each.predict_each(mixed, on_error="skip")) for each in (model, found))
    same(
        [each for each in got if isinstance(each, pp.Prediction)],
        [each for each in wanted if isinstance(each, pp.Prediction)],
    )
    assert isinstance(got[2], pp.ImageError)
    assert got[2].path == str(tmp_path / "missing.png")
    with pytest.raises(pp.ImageError, match=r"missing\.png: no such file"):
        found.predict(mixed)
    assert found.training_images == model.training_images
    assert (found.bank_rows, found.threshold, found.map_scale) == (model.bank_rows, model.threshold, model.map_scale)
    assert json.dumps(found.recipe.to_dict()) == json.dumps(model.recipe.to_dict())
    assert found.calibration == model.calibration
    assert found.covering_radius == model.covering_radius is not None
    # The eight bits below the first eight of a deep image count.
    assert found.predict([deep])[0].score != found.predict([mixed[-3]])[0].score


def test_predict_writes_the_same_lines(exported: Exported, tmp_path: Path) -> None:
    records = []
    for number, file in enumerate((exported.model, exported.file)):
        out = tmp_path / str(number)
        ended = done("predict", file, *exported.images[:3], "--out", out)
        assert "\nthreshold  " in ended.out
        records.append(json_lines(out / "results.jsonl"))
        assert (out / records[-1][0]["overlay"]).is_file()
    for wanted, got in zip(*records, strict=True):
        assert got.keys() == wanted.keys()
        for name in ("path", "p_value", "is_anomalous", "threshold", "map", "scale"):
            assert got[name] == wanted[name]
        assert got["nearest"]["image"] == wanted["nearest"]["image"]


def test_onnxruntime_alone_at_batches_of_1_3_and_8(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    compare(exported, lambda images: session.run(["score", "map"], {"images": images}))
    (takes,) = session.get_inputs()
    assert (takes.shape, takes.type) == (["batch", "height", "width", 3], "tensor(float)")
    about = json.loads(session.get_modelmeta().custom_metadata_map["patchcore"])
    model = pp.load_model(exported.model, device="cpu")
    assert about["calibration"] == json.loads(json.dumps(model.calibration.to_dict()))
    assert about["backbone_sha256"] == model.describe()["backbone_sha256"]


def test_openvino_computes_the_same(exported: Exported) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    program = openvino.Core().compile_model(str(exported.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def compute(images: NDArray[np.float32]) -> list[Image]:
        found = program(images)
        return [found["score"], found["map"]]

    compare(exported, compute)


def compare(exported: Exported, compute: Callable[[NDArray[np.float32]], Sequence[Image]]) -> None:
    """Check a runtime's scores and maps against the model's."""
    model = pp.load_model(exported.model, device="cpu")
    images = [cv2.imread(str(path)) for path in exported.images]
    for size in ((128, 160), (90, 200), (301, 257)):
        resized = [
            cv2.resize(each[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA) for each in images if each is not None
        ]
        expected = model.predict(resized)
        for batch in (1, 3, 8):
            scores, maps = compute(np.stack([to_unit(each) for each in resized[:batch]]))
            np.testing.assert_allclose(scores, [each.score for each in expected[:batch]], rtol=1e-4)
            assert maps.shape == (batch, *size)
            for got, wanted in zip(maps, expected, strict=False):
                assert wanted.anomaly_map is not None
                scale = float(np.ptp(wanted.anomaly_map))
                np.testing.assert_allclose(got, wanted.anomaly_map, rtol=0, atol=1e-4 * scale)


def test_calibrate_changes_the_metadata_alone(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "other.onnx"
    done("calibrate", exported.file, "--false-alarm-rate", 0.4, "--out", out)
    before, after = pp.load_model(exported.file), pp.load_model(out)
    assert before.threshold is not None
    assert after.threshold is not None
    assert after.threshold < before.threshold
    assert after.predict(exported.images[:1])[0].score == before.predict(exported.images[:1])[0].score
    programs = [onnx.load(path) for path in (exported.file, out)]
    for program in programs:
        del program.metadata_props[:]
    assert programs[0] == programs[1]


def test_what_an_exported_model_refuses(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pp.load_model(exported.file)
    with pytest.raises(pp.ModelFileError, match="is an exported one; give the model file that it was made of"):
        export_model(model, tmp_path / "again.onnx")
    assert failure("update", exported.file, *exported.images) == (
        f"{exported.file}: an exported model cannot learn; update the model it was made of, and export that"
    )
    with pytest.raises(pp.OptionError, match="an exported model computes in fp32; leave --precision bf16 out"):
        pp.load_model(exported.file, precision="bf16")
    with pytest.raises(pp.TensorError, match="does not know device 'mps'; use --device cpu or cuda"):
        pp.load_model(exported.file, device="mps")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(pp.TensorError, match="--device cuda needs onnxruntime-gpu in place of onnxruntime"):
            pp.load_model(exported.file, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(pp.PluginError, match=r"running it needs onnxruntime; pip install 'patchcore-plugin\[export\]'"):
        pp.load_model(exported.file)


def test_what_it_refuses_leaves_nothing(washer_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    said = failure("export", washer_model, "--out", folder, "--format", "torch")
    assert said == f"{folder}: is a folder; give --out a file in it, such as {folder / 'model.pt2'}"
    missing = tmp_path / "none.safetensors"
    said = failure("export", missing, "--out", tmp_path / "new" / "part.onnx")
    assert said == f"{missing}: no such model file; make one with: patchcore fit IMAGES --out {missing}"
    said = failure("export", washer_model, "--out", folder / "part.pt2")
    assert said == f"{folder / 'part.pt2'}: a file of format onnx is called *.onnx; choose another --out"
    assert list(tmp_path.rglob("*")) == [folder]
