"""Invalid ONNX files, and external weights inside and outside of their folder."""

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
    ("operation", "kinds", "shape", "found"),
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
def test_other_inputs_are_refused(
    tmp_path: Path, operation: str, kinds: list[int], shape: list[int], found: str
) -> None:
    file = one_node(tmp_path / "net.onnx", operation, kinds, shape, [*shape])
    assert f"found {found}" in message(pp.WeightsError, file)


def test_file_without_feature_maps_is_refused(tmp_path: Path) -> None:
    file = one_node(tmp_path / "net.onnx", "Flatten", [TensorProto.FLOAT], DYNAMIC, ["batch", "features"])
    assert "it has: out" in message(pp.WeightsError, file)


def test_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"no file net.onnx (current folder: {tmp_path})" in message(pp.WeightsError, "net.onnx")


def test_damaged_file_is_refused(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert "not an ONNX file" in message(pp.WeightsError, file)


def test_file_that_the_runtime_refuses_is_refused(file: Path) -> None:
    model = onnx.load(file)
    model.graph.node[0].op_type = "Guess"
    onnx.save(model, file)
    text = message(pp.WeightsError, file)
    assert str(file) in text
    assert "Guess" in text
    assert "\n" not in text


def test_hash_includes_external_weights(tmp_path: Path) -> None:
    inside = create(draw(tmp_path / "net.onnx")).weight_hash()
    assert inside == create(draw(tmp_path / "copy.onnx")).weight_hash()
    external = draw(tmp_path / "net.onnx", external=True)
    weights = tmp_path / "weights.data"
    first = create(external)
    torch.testing.assert_close(first(images())[0], 3 * avg_pool2d(images(), 2))
    content = bytearray(weights.read_bytes())
    content[:12] = np.full(3, 5, np.float32).tobytes()
    weights.write_bytes(content)
    second = create(external)
    assert len({inside, first.weight_hash(), second.weight_hash()}) == 3
    weights.unlink()
    assert "'weights.data'" in message(pp.WeightsError, external)


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
    assert f"outside of its folder ({location!r})" in message(pp.WeightsError, file)


def test_weights_outside_the_folder_are_refused_in_attributes(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.ones(3, np.float32))
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../secret")
    file = draw(tmp_path / "net.onnx")
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))
    file.write_bytes(model.SerializeToString())
    assert "outside of its folder ('../secret')" in message(pp.WeightsError, file)
