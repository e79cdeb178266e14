"""Networks written by hand: they pool colours, or do a single thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import patchcore_onnx as plugin
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import patchcore_plugin as pp

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
