"""Exported files are untrusted: description and outputs are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import patchcore_plugin as pp
from patchcore_plugin import ExportedModel
from tests.models.exports import Image, draw


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    with pytest.raises(pp.ModelFileError, match=r"part\.onnx: no such model file; .*patchcore export"):
        pp.load_model(path)
    path.write_bytes(b"\x08 not a program")
    with pytest.raises(pp.ModelFileError, match=r"part\.onnx: damaged \(.*\); copy it again from its source"):
        pp.load_model(path)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    with pytest.raises(pp.ModelFileError, match="not written by patchcore export"):
        pp.load_model(path)


DESCRIPTION: dict[str, Any] = {
    "format": 1,
    "recipe": pp.Recipe.load("patchcore").to_dict(),
    "photos": [{"path": "good.png", "height": 40, "width": 50}],
    "grids": [[4, 5]],
    "bank_rows": 7,
    "calibration": {"threshold": 1.0, "source": "s", "map_scale": [0.0, 1.0], "scores": [0.5, 1.0]},
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("not JSON", "its description: Expecting value"),
        ("[]", "its description: "),
        ({"format": 2}, "exported in format 2, newer than this version reads (1); pip install --upgrade"),
        ({"format": "1st"}, "its description, format: "),
        ({"grids": [[0, 5]]}, "its description, grids.0.0: "),
        ({"grids": []}, "its description, grids: "),
        ({"photos": [{"path": "a", "height": 1e9, "width": 1}]}, "its description, images.0.height: "),
        ({"bank_rows": "many"}, "its description, bank_rows: "),
        ({"calibration": {"threshold": "high"}}, "its description, calibration.threshold: "),
        ({"calibration": {**DESCRIPTION["calibration"], "scores": [2.0, 1.0]}}, "scores are not in order"),
        ({"calibration": {**DESCRIPTION["calibration"], "threshold": float("nan")}}, "NaN is not a finite number"),
        ({"recipe": {"name": "none"}}, "needs a table [backbone] with a name"),
    ],
)
def test_descriptions_are_checked(change: Any, text: str, tmp_path: Path) -> None:
    description = change if isinstance(change, str) else json.dumps({**DESCRIPTION, **change})
    with pytest.raises(pp.ModelFileError) as caught:
        ExportedModel(tmp_path / "part.onnx", description, lambda images: {})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    ExportedModel(tmp_path / "part.onnx", json.dumps(DESCRIPTION), lambda images: {})
    with pytest.raises(pp.ModelFileError, match="1e999 is not a finite number"):
        ExportedModel(tmp_path / "p.onnx", json.dumps(DESCRIPTION).replace("1.0", "1e999"), lambda images: {})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("score", np.array([np.nan]), r"output 'score' is not a finite array \[1\]"),
        ("score", np.zeros(2), r"output 'score' is not a finite array \[1\]"),
        ("map", np.zeros((1, 3, 8)), r"output 'map' is not a finite array \[1, 9, 8\]"),
        ("distance", None, r"output 'distance' is not a finite array \[1\]"),
        ("peak", np.array([[9, 0]]), "patch or image that its description lacks"),
        ("nearest", np.array([[3, 0, 0]]), "patch or image that its description lacks"),
        ("nearest", np.array([[-1, 0, 0]]), "patch or image that its description lacks"),
        ("peak", np.array([[0, -1]]), "patch or image that its description lacks"),
    ],
)
def test_outputs_are_checked(name: str, value: Image | None, text: str, tmp_path: Path) -> None:
    outputs: dict[str, Any] = {
        "score": np.ones(1),
        "map": np.zeros((1, 9, 8)),
        "distance": np.ones(1),
        "peak": np.array([[1, 2]]),
        "nearest": np.array([[0, 3, 4]]),
    }
    image = draw(0, (9, 8))
    model = ExportedModel(tmp_path / "part.onnx", json.dumps(DESCRIPTION), lambda images: outputs)
    (prediction,) = model.predict([image])
    assert prediction.nearest is not None
    assert prediction.nearest.image == "good.png"
    outputs[name] = value
    if value is None:
        del outputs[name]
    with pytest.raises(pp.TensorError, match=text):
        model.predict([image])
