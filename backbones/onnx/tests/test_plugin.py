"""The ONNX plugin, through the public API only, on networks written by hand: they pool colours."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import patchcore_onnx as plugin
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.functional import avg_pool2d

import patchcore_plugin as pp
from patchcore_plugin.testing import Check, checks

DYNAMIC = ("batch", 3, "height", "width")


def draw(
    path: Path,
    shape: Sequence[int | str] = DYNAMIC,
    *,
    half: int = TensorProto.FLOAT,
    factor_size: tuple[int, int] = (1, 1),
    metadata: dict[str, str] | None = None,
    external: bool = False,
) -> Path:
    """Write a network with the outputs quarter (stride 4), half (stride 2, times 3) and mean [B, 3]."""

    def pool(stride: int, name: str) -> onnx.NodeProto:
        return helper.make_node("AveragePool", ["images"], [name], kernel_shape=[stride] * 2, strides=[stride] * 2)

    factor = numpy_helper.from_array(np.full((1, 3, *factor_size), 3, np.float32), "factor")
    nodes = [
        pool(4, "quarter"),
        pool(2, "pooled"),
        helper.make_node("Mul", ["pooled", "factor"], ["tripled"]),
        helper.make_node("Cast", ["tripled"], ["half"], to=half),
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("quarter", TensorProto.FLOAT, [shape[0], 3, "h4", "w4"]),
        helper.make_tensor_value_info("half", half, [shape[0], 3, "h2", "w2"]),
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, [shape[0], 3]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(nodes, "colours", [images], outputs, [factor]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    onnx.save(model, path, save_as_external_data=external, location="weights.data", size_threshold=0)
    return path


def create(file: Path | str, **options: Any) -> Any:
    return pp.Host(entry_points=False, extra={"onnx": plugin}).create("backbone", "onnx", file=str(file), **options)


def message(kind: type[pp.PatchcoreError], file: Path | str, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(file, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def images(batch: int = 3, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return draw(tmp_path / "net.onnx")


# Features


def test_maps_are_the_networks_finest_first(file: Path) -> None:
    backbone = create(file)
    x = images()
    half, quarter = backbone(x)
    torch.testing.assert_close(half, 3 * avg_pool2d(x, 2))
    torch.testing.assert_close(quarter, avg_pool2d(x, 4))
    assert (backbone.mean, backbone.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert backbone.to("cpu") is backbone
    assert torch.equal(x, images())


def test_channels_last_and_non_contiguous_images_serve(file: Path) -> None:
    backbone = create(file)
    x = images()
    expected = backbone(x)[0]
    assert torch.equal(backbone(x.contiguous(memory_format=torch.channels_last))[0], expected)
    assert torch.equal(backbone(x.repeat(1, 1, 2, 2)[:, :, ::2, 32:])[0], backbone(x[:, :, ::2].repeat(1, 1, 2, 1))[0])


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 8])
def test_a_fixed_batch_is_filled_up(tmp_path: Path, batch: int) -> None:
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


def test_the_file_says_how_its_input_is_normalised_and_options_overrule_it(tmp_path: Path) -> None:
    file = draw(tmp_path / "net.onnx", metadata={"patchcore": SAID})
    backbone = create(file)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    backbone = create(file, mean=(0, 0, 0))
    assert (backbone.mean, backbone.std) == ((0, 0, 0), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "said", ["{", "[]", '{"mean": [0, 0, 0]}', SAID.replace("0.6", "0"), SAID.replace("0.6", "NaN"), SAID[:15] + "]}"]
)
def test_metadata_that_says_nonsense_is_refused(tmp_path: Path, said: str) -> None:
    file = draw(tmp_path / "net.onnx", metadata={"patchcore": said})
    assert message(pp.WeightsError, file) == (
        f"backbone onnx: {file}: its metadata 'patchcore' gives no mean and std of three numbers; "
        "export it again with patchcore export-backbone"
    )


def test_a_standard_deviation_of_0_is_refused(file: Path) -> None:
    assert "option 'std' must be greater than 0" in message(pp.OptionError, file, std=(0, 1, 1))


# Sizes


def test_a_fixed_size_says_which(tmp_path: Path) -> None:
    file = draw(tmp_path / "net.onnx", (1, 3, 24, "width"))
    backbone = create(file)
    assert [tuple(each.shape) for each in backbone(images())] == [(3, 3, 12, 16), (3, 3, 6, 8)]
    with pytest.raises(pp.TensorError) as caught:
        backbone(images(1, 32, 40))
    assert str(caught.value) == (
        f"backbone onnx: {file} takes photos of 24 x 40 only, got 32 x 40; set preprocessing.size=24,40"
    )


@pytest.mark.parametrize("shape", [(3, 24, 32), (2, 1, 24, 32), (2, 4, 24, 32)])
def test_wrong_images_are_named(file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(pp.TensorError) as caught:
        create(file)(torch.zeros(shape))
    assert str(caught.value) == f"backbone onnx: expected images [B, 3, H, W], got {list(shape)}"


def test_what_the_runtime_cannot_compute_is_told_in_one_line(tmp_path: Path) -> None:
    file = draw(tmp_path / "net.onnx", factor_size=(12, 16))
    assert len(create(file)(images())) == 2
    with pytest.raises(pp.TensorError) as caught:
        create(file)(images(2, 32, 32))
    text = str(caught.value)
    assert text.startswith(f"backbone onnx: {file} does not compute images [2, 3, 32, 32] ([ONNXRuntimeError] : ")
    assert text.endswith("; another preprocessing.size may serve")
    assert "\n" not in text


def test_outputs_that_turn_out_to_be_no_maps_of_the_photos_are_refused(tmp_path: Path) -> None:
    file = one_node(tmp_path / "net.onnx", "SpaceToDepth", [TensorProto.FLOAT], DYNAMIC, [*"bchw"], blocksize=2)
    assert [each.shape for each in create(file)(images())] == [(3, 12, 12, 16)]
    file = one_node(tmp_path / "net.onnx", "Transpose", [TensorProto.FLOAT], DYNAMIC, [*"bchw"], perm=[1, 0, 2, 3])
    with pytest.raises(pp.TensorError) as caught:
        create(file)(images(2))
    assert str(caught.value) == (
        f"backbone onnx: output 'out' of {file}: expected [2, C, h, w], got [3, 2, 24, 32]; "
        "choose others with backbone.layers"
    )


# Layers


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (("halve",), "layers: 'halve' is no output of it (did you mean 'half'?); {file} has: quarter, half"),
        (("mean",), "layers: 'mean' is no feature map [B, C, h, w]; {file} has: quarter, half"),
        (("half", "half"), "layers names 'half' twice"),
    ],
)
def test_layers_that_do_not_exist_are_refused(file: Path, layers: tuple[str, ...], text: str) -> None:
    assert message(pp.OptionError, file, layers=layers) == f"backbone onnx: {text.format(file=file)}"


def test_no_layers_at_all_are_refused(file: Path) -> None:
    assert "option 'layers' must have at least 1 value" in message(pp.OptionError, file, layers=())


def one_node(
    path: Path, operation: str, kinds: Sequence[int], shape: Sequence[int | str], output: list[Any], **attributes: Any
) -> Path:
    names = [f"in{index}" for index in range(len(kinds))]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(operation, names, ["out"], **attributes)],
            "one",
            [helper.make_tensor_value_info(name, kind, shape) for name, kind in zip(names, kinds, strict=True)],
            [helper.make_tensor_value_info("out", kinds[0], output)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


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


# Files


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


# Providers and devices


def test_providers_that_are_not_there_are_refused(file: Path) -> None:
    available = ", ".join(onnxruntime.get_available_providers())
    assert message(pp.OptionError, file, providers=("CPUExecutionProvidr",)) == (
        "backbone onnx: providers has no 'CPUExecutionProvidr' (did you mean 'CPUExecutionProvider'?); "
        f"ONNX Runtime has here: {available}"
    )


def test_a_device_without_a_provider_says_what_to_do(file: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime can compute on a GPU here")
    with pytest.raises(pp.TensorError) as caught:
        create(file).to("cuda:1")
    assert str(caught.value) == (
        "backbone onnx: ONNX Runtime cannot compute on cuda:1 here: pip install onnxruntime-gpu in place of "
        "onnxruntime, or use --device cpu, or have the features alone computed on the CPU with "
        "--set backbone.providers=CPUExecutionProvider,"
    )
    create(file, providers=("CPUExecutionProvider",)).to("cuda:1")
    with pytest.raises(pp.TensorError, match="no execution provider is known for device xpu"):
        create(file).to("xpu")


# The contract and the distribution


def test_conformance(file: Path) -> None:
    found: list[Check] = checks(plugin, options={"onnx": {"file": str(file)}})
    assert found
    for check in found:
        check()


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; import patchcore_onnx as p; p.patchcore_backbones();"
        "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_wheel_holds_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    monkeypatch.chdir(Path(__file__).parents[1])
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        files = {name.partition("dist-info/")[2] or name for name in wheel.namelist()}
        assert files == {
            *(f"patchcore_onnx/{name}" for name in ("__init__.py", "_features.py", "_file.py", "py.typed")),
            *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"),
        }
        points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert wheel.read(points).decode().split("\n")[:2] == ["[patchcore_plugin]", "onnx = patchcore_onnx"]
