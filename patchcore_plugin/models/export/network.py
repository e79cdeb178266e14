"""The network of a backbone as an ONNX program."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchcore_plugin.errors import PluginError
from patchcore_plugin.plugins.protocols import Backbone

from .onnx_file import reason, save_onnx

INPUT = "images"
"""Name of the network's input, float32 [batch, 3, height, width], normalised."""
SAME_PADDING = ("Conv2dDynamicSamePadding", "Conv2dSame")
"""Convolutions of efficientnet_lite_pytorch and timm that pad like TensorFlow: the padding depends on the size."""


def write_onnx(
    backbone: Backbone,
    path: Path,
    *,
    owner: str,
    maps: Sequence[str],
    size: tuple[int, int] | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write the network of a backbone as an ONNX file.

    Parameters
    ----------
    backbone
        The backbone, on the CPU.
    path
        The file to write.
    owner
        Description of the backbone, for messages.
    maps
        Names of the outputs.
    size
        Height and width of the images, in pixels; None for any.
    metadata
        Content of the metadata entry, JSON-like.

    Raises
    ------
    PluginError
        If the network contains operations that ONNX lacks.
    """
    # torch.export takes dimensions of 1, and equal dimensions, for constants, so the comparison uses other dimensions.
    height, width = size or (96, 160)
    dimensions = {0: "batch"} if size else {0: "batch", 2: "height", 3: "width"}
    network = _Network(backbone).eval()
    try:
        with _same_padding_as_attribute(network), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own code
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, height, width),),
                dynamo=True,
                dynamic_shapes=(dimensions,),
                input_names=[INPUT],
                output_names=list(maps),
                verbose=False,
            )
    except Exception as error:  # networks raise anything when they run on tensors without values
        hint = "" if size else "; if it needs images of one size, add --size HEIGHT,WIDTH"
        raise PluginError(
            f"{owner} cannot be exported to ONNX, which supports torch operations only: {reason(error)}{hint}"
        ) from error
    save_onnx(program, path, json.dumps(metadata))


class _Network(nn.Module):
    """A backbone as the module that torch exports, with its modules registered, so that weights are found."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = backbone
        if not isinstance(backbone, nn.Module):
            values = getattr(backbone, "__dict__", {}).values()
            self._modules_of_backbone = nn.ModuleList(value for value in values if isinstance(value, nn.Module))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._backbone(images))


@contextmanager
def _same_padding_as_attribute(network: nn.Module) -> Iterator[None]:
    """Export convolutions that pad like TensorFlow with ONNX's attribute for that padding.

    As arithmetic on sizes, the padding of each depends on all layers before, and torch does not finish tracing it.
    """
    convolutions = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and type(module).__name__ in SAME_PADDING
    ]
    try:
        for convolution in convolutions:
            convolution.__dict__["forward"] = partial(_same_convolution, convolution)
        yield
    finally:
        for convolution in convolutions:
            convolution.__dict__.pop("forward", None)


def _same_convolution(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    batch, _, *size = images.shape
    result: Tensor = torch.onnx.ops.symbolic(
        "Conv",
        [tensor for tensor in (images, convolution.weight, convolution.bias) if tensor is not None],
        {
            "auto_pad": "SAME_UPPER",
            "dilations": list(convolution.dilation),
            "group": convolution.groups,
            "kernel_shape": list(convolution.kernel_size),
            "strides": list(convolution.stride),
        },
        dtype=images.dtype,
        shape=[
            batch,
            convolution.out_channels,
            *((length - 1) // stride + 1 for length, stride in zip(size, convolution.stride, strict=True)),
        ],
    )
    return result
