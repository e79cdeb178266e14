"""ONNX files that cannot serve, and weights beside them or where they must not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.functional import avg_pool2d

import patchcore_plugin as pp

from .networks import DYNAMIC, create, draw, images, message, one_node


@pytest.mark.parametrize(
    ("operation", "kinds", "shape", "has"),
    [
        (
            "Add",
            [TensorProto.FLOAT] * 2,
            [1, 3, 8, 8],
            "in0 tensor(float) [1, 3, 8, 8]; in1 tensor(float) [1, 3, 8, 8]",
        ),
        ("Relu", [TensorProto.DOUBLE], [1, 3, 8, 8], "in0 tensor(double) [1, 3, 8, 8]"),
        ("Relu", [TensorProto.FLOAT], [1, 8, 8, 3], "in0 tensor(float) [1, 8, 8, 3]"),
        ("Relu", [TensorProto.FLOAT], [3, 8, 8], "in0 tensor(float) [3, 8, 8]"),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, operation: str, kinds: list[int], shape: list[int], has: str) -> None:
    file = one_node(tmp_path / "net.onnx", operation, kinds, shape, [*shape])
    assert message(pp.WeightsError, file) == (
        f"backbone onnx: {file}: expected one input, float32 [B, 3, H, W], it has: {has}"
    )


def test_a_file_without_feature_maps_is_refused(tmp_path: Path) -> None:
    file = one_node(tmp_path / "net.onnx", "Flatten", [TensorProto.FLOAT], DYNAMIC, ["batch", "features"])
    assert message(pp.WeightsError, file) == (
        f"backbone onnx: {file}: no output is a feature map, float32 or float16 [B, C, h, w]; it has: out; "
        "cut it, for example with onnx.utils.extract_model"
    )


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message(pp.WeightsError, "net.onnx") == (
        f"backbone onnx: no file net.onnx (seen from {tmp_path}); put it there, or give another path with "
        "backbone.file=PATH and fit again"
    )


def test_a_damaged_file_is_told_in_one_line(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert message(pp.WeightsError, file) == (
        f"backbone onnx: {file} is no ONNX file, or damaged; copy it again from its source"
    )


def test_a_file_that_the_runtime_refuses_is_told_in_one_line(file: Path) -> None:
    model = onnx.load(file)
    model.graph.node[0].op_type = "Guess"
    onnx.save(model, file)
    text = message(pp.WeightsError, file)
    assert text.startswith(f"backbone onnx: {file} cannot be loaded ([ONNXRuntimeError] : ")
    assert "Guess" in text
    assert text.endswith("; copy it again from its source, or export it for this version of ONNX Runtime")


def test_the_hash_is_of_all_weights(tmp_path: Path) -> None:
    inside = create(draw(tmp_path / "net.onnx")).weight_hash()
    assert inside == create(draw(tmp_path / "copy.onnx")).weight_hash()
    beside = draw(tmp_path / "net.onnx", external=True)
    weights = tmp_path / "weights.data"
    first = create(beside)
    torch.testing.assert_close(first(images())[0], 3 * avg_pool2d(images(), 2))
    content = bytearray(weights.read_bytes())
    content[:12] = np.full(3, 5, np.float32).tobytes()
    weights.write_bytes(content)
    second = create(beside)
    assert len({inside, first.weight_hash(), second.weight_hash()}) == 3
    weights.unlink()
    assert message(pp.WeightsError, beside) == (
        f"backbone onnx: {beside} keeps weights in 'weights.data' beside it, which is missing; copy that file too"
    )


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    file = draw(folder / "net.onnx", external=True)
    model = onnx.load(file, load_external_data=False)
    (entry,) = (each for each in model.graph.initializer[0].external_data if each.key == "location")
    entry.value = location
    file.write_bytes(model.SerializeToString())
    assert message(pp.WeightsError, file) == (
        f"backbone onnx: {file} keeps weights outside its folder ({location!r}), which is refused; "
        "save it with its weights inside or beside it"
    )


def test_weights_outside_are_found_in_attributes_too(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones(3, np.float32))
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../secret")
    file = draw(tmp_path / "net.onnx")
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))
    file.write_bytes(model.SerializeToString())
    assert "keeps weights outside its folder ('../secret')" in message(pp.WeightsError, file)
