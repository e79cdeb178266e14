"""The ONNX plugin, through the public API only: features, their normalisation, sizes and layers."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime
import patchcore_onnx as plugin
import pytest
import torch
from onnx import TensorProto
from torch.nn.functional import avg_pool2d

import patchcore_plugin as pp
from patchcore_plugin.plugins.testing import Check, checks

from .networks import DYNAMIC, create, draw, images, message, one_node


def test_conformance(file: Path) -> None:
    found: list[Check] = checks(plugin, options={"onnx": {"file": str(file)}})
    assert found
    for check in found:
        check()


# Features


def test_maps_are_finest_first(file: Path) -> None:
    backbone = create(file)
    x = images()
    half, quarter = backbone(x)
    torch.testing.assert_close(half, 3 * avg_pool2d(x, 2))
    torch.testing.assert_close(quarter, avg_pool2d(x, 4))
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert backbone.to("cpu") is backbone
    assert torch.equal(x, images())


def test_layout_of_images_does_not_matter(file: Path) -> None:
    backbone = create(file)
    x = images()
    expected = backbone(x)[0]
    assert torch.equal(backbone(x.contiguous(memory_format=torch.channels_last))[0], expected)
    assert torch.equal(backbone(x.repeat(1, 1, 2, 2)[:, :, ::2, 32:])[0], backbone(x[:, :, ::2].repeat(1, 1, 2, 1))[0])


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 8])
def test_fixed_batch_is_filled(tmp_path: Path, batch: int) -> None:
    half, quarter = create(draw(tmp_path / "net.onnx", (4, 3, "height", "width")))(images(batch))
    torch.testing.assert_close(half, 3 * avg_pool2d(images(batch), 2))
    torch.testing.assert_close(quarter, avg_pool2d(images(batch), 4))


def test_half_precision_maps_become_float32(tmp_path: Path) -> None:
    half, quarter = create(draw(tmp_path / "net.onnx", half=TensorProto.FLOAT16))(images())
    assert half.dtype == quarter.dtype == torch.float32
    torch.testing.assert_close(half, 3 * avg_pool2d(images(), 2), rtol=1e-3, atol=1e-3)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = draw(tmp_path / "net.onnx", factor_size=(12, 16))
    create(file)(images())
    with pytest.raises(pp.TensorError):
        create(file)(images(1, 32, 32))
    file.write_bytes(b"no network")
    with pytest.raises(pp.WeightsError):
        create(file)
    assert capfd.readouterr() == ("", "")


def test_threads(file: Path) -> None:
    assert create(file, threads=3)._session.get_session_options().intra_op_num_threads == 3
    assert create(file)._session.get_session_options().intra_op_num_threads == torch.get_num_threads()


# Normalisation


SAID = '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'


def test_options_override_the_normalisation_in_the_file(tmp_path: Path) -> None:
    file = draw(tmp_path / "net.onnx", metadata={"patchcore": SAID})
    backbone = create(file)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    backbone = create(file, mean=(0, 0, 0))
    assert (backbone.mean, backbone.std) == ((0, 0, 0), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "said", ["{", "[]", '{"mean": [0, 0, 0]}', SAID.replace("0.6", "0"), SAID.replace("0.6", "NaN"), SAID[:15] + "]}"]
)
def test_invalid_metadata_is_refused(tmp_path: Path, said: str) -> None:
    file = draw(tmp_path / "net.onnx", metadata={"patchcore": said})
    assert "no mean and std" in message(pp.WeightsError, file)


def test_standard_deviation_of_0_is_refused(file: Path) -> None:
    assert "option 'std' must be greater than 0" in message(pp.OptionError, file, std=(0, 1, 1))


# Sizes


def test_fixed_size_is_named(tmp_path: Path) -> None:
    file = draw(tmp_path / "net.onnx", (1, 3, 24, "width"))
    backbone = create(file)
    assert [tuple(each.shape) for each in backbone(images())] == [(3, 3, 12, 16), (3, 3, 6, 8)]
    with pytest.raises(pp.TensorError) as caught:
        backbone(images(1, 32, 40))
    assert "set preprocessing.size=24,40" in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 24, 32), (2, 1, 24, 32), (2, 4, 24, 32)])
def test_wrong_images_are_refused(file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(pp.TensorError, match=re.escape(f"got {list(shape)}")):
        create(file)(torch.zeros(shape))


def test_failure_of_the_runtime_is_one_line(tmp_path: Path) -> None:
    file = draw(tmp_path / "net.onnx", factor_size=(12, 16))
    assert len(create(file)(images())) == 2
    with pytest.raises(pp.TensorError) as caught:
        create(file)(images(2, 32, 32))
    assert "[2, 3, 32, 32] ([ONNXRuntimeError]" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_outputs_that_are_not_maps_are_refused(tmp_path: Path) -> None:
    file = one_node(tmp_path / "net.onnx", "SpaceToDepth", [TensorProto.FLOAT], DYNAMIC, [*"bchw"], blocksize=2)
    assert [each.shape for each in create(file)(images())] == [(3, 12, 12, 16)]
    file = one_node(tmp_path / "net.onnx", "Transpose", [TensorProto.FLOAT], DYNAMIC, [*"bchw"], perm=[1, 0, 2, 3])
    with pytest.raises(pp.TensorError) as caught:
        create(file)(images(2))
    assert "expected [2, C, h, w], got [3, 2, 24, 32]" in str(caught.value)


# Layers


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (("halve",), "did you mean 'half'? choose from quarter, half"),
        (("mean",), "'mean' is not a feature map"),
        (("half", "half"), "'half' twice"),
    ],
)
def test_unknown_layers_are_refused(file: Path, layers: tuple[str, ...], text: str) -> None:
    assert text in message(pp.OptionError, file, layers=layers)


def test_empty_layers_are_refused(file: Path) -> None:
    assert "option 'layers' must have at least 1 value" in message(pp.OptionError, file, layers=())


# Providers and devices


def test_unknown_provider_is_refused(file: Path) -> None:
    assert "did you mean 'CPUExecutionProvider'?" in message(pp.OptionError, file, providers=("CPUExecutionProvidr",))


def test_device_without_a_provider_is_refused(file: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime can compute on a GPU here")
    with pytest.raises(pp.TensorError, match=r"backbone\.providers=CPUExecutionProvider,"):
        create(file).to("cuda:1")
    create(file, providers=("CPUExecutionProvider",)).to("cuda:1")
    with pytest.raises(pp.TensorError, match="no execution provider for device xpu"):
        create(file).to("xpu")
