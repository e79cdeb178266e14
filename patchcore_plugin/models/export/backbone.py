"""Backbones as ONNX files, compared with torch before a file appears."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchcore_plugin.errors import ModelFileError, PatchcoreError, PluginError, TensorError
from patchcore_plugin.plugins.protocols import Backbone

from .onnx_file import put_in_place, reason, require_export, save_onnx

INPUT = "images"
"""Name of the network's input, float32 [batch, 3, height, width], normalised."""
TOLERANCE = 1e-4
"""Largest accepted difference from torch's features, relative to the largest value of a map."""
BATCHES = (1, 3, 8)
"""Batch sizes in the comparison with torch."""
SIZES = ((64, 64), (72, 96))
"""Image sizes in the comparison of a file for all sizes."""
SAME_PADDING = ("Conv2dDynamicSamePadding", "Conv2dSame")
"""Convolutions of efficientnet_lite_pytorch and timm that pad like TensorFlow: the padding depends on the size."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported file and how it was checked.

    Parameters
    ----------
    path
        The ONNX file.
    maps
        Names of its outputs, one per feature map, finest first.
    size
        Height and width of the input; None for any.
    weight_hash
        The backbone's `weight_hash`.
    difference
        Largest difference from torch's features, relative to the largest value of a map; None if onnxruntime is not
        installed, so that nothing was compared.
    """

    path: Path
    maps: tuple[str, ...]
    size: tuple[int, int] | None
    weight_hash: str
    difference: float | None


def export_backbone(
    backbone: Backbone,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    name: str = "",
    options: Mapping[str, Any] | None = None,
) -> Export:
    """Write a backbone as an ONNX file, which the backbone ``onnx`` and other programs read.

    The file has the input `INPUT`, for any number of images, and an output for each feature map, named by the
    backbone's attribute ``layers``, or map0, map1 and so on. Its metadata entry ``patchcore`` has mean, std, name,
    options and weight hash of the backbone, and the version of this program. The file is checked by onnx and, if
    onnxruntime is installed, compared with torch; an older file is replaced after that. Weights beyond ONNX's limit of
    2 GB are written to a second file, ``PATH.data``.

    Parameters
    ----------
    backbone
        Any backbone made of torch operations; it is moved to the CPU.
    path
        The file to write.
    size
        Height and width of the images that the network will process; any if None. Some networks, such as vision
        transformers, can be exported for one size only.
    name, options
        The backbone's component and its options, for the file's metadata.

    Raises
    ------
    PluginError
        If the extra "export" is not installed, or the backbone contains operations that ONNX lacks.
    TensorError
        If the backbone cannot process images of this size, or the features differ from those of torch.
    ModelFileError
        If `path` is a folder.
    """
    require_export()
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; pass a file in it, such as {path / 'features.onnx'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"backbone {name!r}" if name else "the backbone"
    backbone = backbone.to("cpu")
    sizes = SIZES if size is None else (size,)
    metadata: dict[str, Any] = {
        "backbone": name,
        "options": dict(options or {}),
        "mean": backbone.mean,
        "std": backbone.std,
        "weight_hash": backbone.weight_hash(),
        "patchcore_plugin": importlib.metadata.version("patchcore-plugin"),
    }
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder, path.name)
        maps = _map_names(backbone, _features(backbone, _images(2, sizes[0]), owner))
        network = _Network(backbone).eval()
        with _same_padding_as_attribute(network):
            write_onnx(network, draft, owner=owner, maps=maps, size=size, metadata=metadata)
        difference = compare(backbone, draft, sizes, owner=owner) if find_spec("onnxruntime") else None
        put_in_place(Path(folder), path.parent)
    return Export(path=path, maps=maps, size=size, weight_hash=metadata["weight_hash"], difference=difference)


def write_onnx(
    network: nn.Module,
    path: Path,
    *,
    owner: str,
    maps: Sequence[str],
    size: tuple[int, int] | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write a module from images [B, 3, H, W] to a tuple of tensors as an ONNX file.

    Raises
    ------
    PluginError
        If the network contains operations that ONNX lacks.
    """
    # torch.export takes dimensions of 1, and equal dimensions, for constants, so the comparison uses other dimensions.
    height, width = size or (96, 160)
    dimensions = {0: "batch"} if size else {0: "batch", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings():
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


def compare(backbone: Backbone, path: Path, sizes: Sequence[tuple[int, int]], *, owner: str) -> float:
    """Return the largest relative difference between torch's features and those of an ONNX file, on random images.

    Raises
    ------
    TensorError
        If it is beyond `TOLERANCE`, or a computation fails.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in BATCHES:
        for size in sizes:
            batch_text = f"{batch} images of {size[0]} x {size[1]}"
            images = _images(batch, size)
            maps = _features(backbone, images, owner)
            try:
                outputs = session.run(None, {INPUT: images.numpy()})
            except Exception as error:  # onnxruntime's exceptions have no base of their own
                raise TensorError(
                    f"{owner}: its ONNX file cannot process {batch_text} ({reason(error)}); nothing was written; add "
                    "--size HEIGHT,WIDTH"
                ) from error
            for index, (expected, output) in enumerate(zip(maps, outputs, strict=True)):
                difference = _relative_difference(torch.from_numpy(output), expected)
                if not difference <= TOLERANCE:
                    raise TensorError(
                        f"{owner}: map {index} of its ONNX file differs from torch's by {difference:.1e} of the "
                        f"largest value, for {batch_text}; at most {TOLERANCE:.0e} is allowed; nothing was written"
                    )
                largest = max(largest, difference)
    return largest


class _Network(nn.Module):
    """A backbone as the module that torch exports, with its modules registered, so that torch exports its weights."""

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


def _features(backbone: Backbone, images: Tensor, owner: str) -> Sequence[Tensor]:
    try:
        return backbone(images)
    except PatchcoreError as error:
        height, width = images.shape[2:]
        raise TensorError(
            f"{owner} cannot process images of {height} x {width} ({error}); nothing was written; add --size "
            "HEIGHT,WIDTH"
        ) from error


def _map_names(backbone: Backbone, maps: Sequence[Tensor]) -> tuple[str, ...]:
    layers = tuple(getattr(backbone, "layers", ()))
    return layers if len(layers) == len(maps) else tuple(f"map{index}" for index in range(len(maps)))


def _images(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def _relative_difference(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    largest = expected.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    return float((actual - expected).abs().amax() / largest)
