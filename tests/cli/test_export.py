"""`patchcore export`: the exported model in other commands and in other runtimes gives the same results."""

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
from tests.commands import json_lines, run_command, run_failing, run_json
from tests.models.exports import Image, same

pytestmark = pytest.mark.slow


@dataclass
class Exported:
    model: Path
    file: Path
    images: list[Path]
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Fit and export with the commands, on real images if they are available."""
    hazelnuts = real_images.DATA / "hazelnut_reduced"
    root = hazelnuts if hazelnuts.is_dir() else dataset
    folder = tmp_path_factory.mktemp("exported")
    model, file = folder / "part.safetensors", folder / "part.onnx"
    good = sorted((root / "train" / "good").iterdir())
    images = [*sorted(path for kind in (root / "test").iterdir() for path in kind.iterdir()), *good[8:]][:8]
    setting = ["--backbone", "efficientnet-lite0", "--set", "preprocessing.size=128,160", "--device", "cpu"]
    run_command("fit", *good[:8], "--out", model, *setting)
    return Exported(model, file, images, run_json("export", model, "--out", file))


def test_summary(exported: Exported) -> None:
    summary = dict(exported.summary)
    assert 0 < summary.pop("largest_score_difference") < 1e-5
    assert 0 < summary.pop("largest_map_difference") < 1e-4
    assert summary.pop("sizes")[1:] == [[78, 117], [175, 309]]
    assert summary == {
        "file": str(exported.file),
        "outputs": ["score", "map", "distance", "peak", "nearest"],
        "images": 8,
        "batches": [1, 3, 8],
    }
    assert {path.name for path in exported.file.parent.iterdir()} == {"part.onnx", "part.safetensors"}


def test_predictions_are_those_of_the_model(exported: Exported, tmp_path: Path) -> None:
    model, program = pp.load_model(exported.model, device="cpu"), pp.load_model(exported.file)
    assert isinstance(program, ExportedModel)
    same(program.predict(exported.images), model.predict(exported.images))
    first = cv2.imread(str(exported.images[0]))
    assert first is not None
    mixed: list[Any] = [*exported.images[:2], tmp_path / "missing.png"]
    for size in ((300, 200), (90, 100), (90, 100), (90, 100)):
        mixed.append(cv2.resize(first[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA))
    deep = (mixed[-1].astype(np.uint16) << 8) + np.arange(100, dtype=np.uint16)[None, :, None]
    mixed += [deep, deep.astype(np.float32) / 65535]
    expected, results = (list(predictor.predict_each(mixed, on_error="skip")) for predictor in (model, program))
    same(
        [result for result in results if isinstance(result, pp.Prediction)],
        [result for result in expected if isinstance(result, pp.Prediction)],
    )
    assert isinstance(results[2], pp.ImageError)
    assert results[2].path == str(tmp_path / "missing.png")
    with pytest.raises(pp.ImageError, match=r"missing\.png: no such file"):
        program.predict(mixed)
    assert program.training_images == model.training_images
    assert (program.bank_rows, program.threshold, program.map_scale) == (
        model.bank_rows,
        model.threshold,
        model.map_scale,
    )
    assert json.dumps(program.recipe.to_dict()) == json.dumps(model.recipe.to_dict())
    assert program.calibration == model.calibration
    assert program.covering_radius == model.covering_radius is not None
    # The lower eight bits of a 16-bit image affect the score.
    assert program.predict([deep])[0].score != program.predict([mixed[-3]])[0].score


def test_predict_writes_the_same_lines(exported: Exported, tmp_path: Path) -> None:
    records = []
    for number, file in enumerate((exported.model, exported.file)):
        out = tmp_path / str(number)
        run_command("predict", file, *exported.images[:3], "--out", out)
        records.append(json_lines(out / "results.jsonl"))
        assert (out / records[-1][0]["overlay"]).is_file()
    for expected, record in zip(*records, strict=True):
        assert record.keys() == expected.keys()
        for name in ("path", "p_value", "is_anomalous", "threshold", "map", "scale"):
            assert record[name] == expected[name]
        assert record["nearest"]["image"] == expected["nearest"]["image"]


def test_onnxruntime_alone_at_batches_of_1_3_and_8(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    (inputs,) = session.get_inputs()
    compare(exported, lambda images: session.run(["score", "map"], {inputs.name: images}))
    assert (inputs.shape, inputs.type) == (["batch", "height", "width", 3], "tensor(float)")
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["patchcore"])
    model = pp.load_model(exported.model, device="cpu")
    assert metadata["calibration"] == json.loads(json.dumps(model.calibration.to_dict()))
    assert metadata["backbone_sha256"] == model.describe()["backbone_sha256"]


def test_openvino_computes_the_same(exported: Exported) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    program = openvino.Core().compile_model(str(exported.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def compute(images: NDArray[np.float32]) -> list[Image]:
        outputs = program(images)
        return [outputs["score"], outputs["map"]]

    compare(exported, compute)


def compare(exported: Exported, compute: Callable[[NDArray[np.float32]], Sequence[Image]]) -> None:
    """Compare scores and maps of a runtime with those of the model."""
    model = pp.load_model(exported.model, device="cpu")
    images = [cv2.imread(str(path)) for path in exported.images]
    for size in ((128, 160), (90, 200), (301, 257)):
        resized = [
            cv2.resize(image[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA)
            for image in images
            if image is not None
        ]
        expected = model.predict(resized)
        for batch in (1, 3, 8):
            scores, maps = compute(np.stack([to_unit(image) for image in resized[:batch]]))
            np.testing.assert_allclose(scores, [prediction.score for prediction in expected[:batch]], rtol=1e-4)
            assert maps.shape == (batch, *size)
            for anomaly_map, prediction in zip(maps, expected, strict=False):
                assert prediction.anomaly_map is not None
                scale = float(np.ptp(prediction.anomaly_map))
                np.testing.assert_allclose(anomaly_map, prediction.anomaly_map, rtol=0, atol=1e-4 * scale)


def test_calibrate_changes_only_the_metadata(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "other.onnx"
    run_command("calibrate", exported.file, "--false-alarm-rate", 0.4, "--out", out)
    before, after = pp.load_model(exported.file), pp.load_model(out)
    assert before.threshold is not None
    assert after.threshold is not None
    assert after.threshold < before.threshold
    assert after.predict(exported.images[:1])[0].score == before.predict(exported.images[:1])[0].score
    programs = [onnx.load(path) for path in (exported.file, out)]
    for program in programs:
        del program.metadata_props[:]
    assert programs[0] == programs[1]


def test_exported_model_refuses_other_uses(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pp.load_model(exported.file)
    with pytest.raises(pp.ModelFileError, match="export"):
        export_model(model, tmp_path / "again.onnx")
    assert run_failing("update", exported.file, *exported.images).startswith(
        f"{exported.file}: an exported model cannot "
    )
    with pytest.raises(pp.OptionError, match="fp32"):
        pp.load_model(exported.file, precision="bf16")
    with pytest.raises(pp.TensorError, match=r"'mps'.* --device cpu or cuda"):
        pp.load_model(exported.file, device="mps")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(pp.TensorError, match="onnxruntime-gpu"):
            pp.load_model(exported.file, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(pp.PluginError, match=r"onnxruntime.* pip install 'patchcore-plugin\[export\]'"):
        pp.load_model(exported.file)


def test_refused_export_leaves_no_file(washer_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert str(folder / "model.onnx") in run_failing("export", washer_model, "--out", folder)
    missing = tmp_path / "none.safetensors"
    assert run_failing("export", missing, "--out", tmp_path / "new" / "part.onnx").startswith(f"{missing}: ")
    message = run_failing("export", washer_model, "--out", folder / "part.txt")
    assert message.startswith(f"{folder / 'part.txt'}: ")
    assert ".onnx" in message
    assert list(tmp_path.rglob("*")) == [folder]
