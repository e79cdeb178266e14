"""Networks as ONNX files: what another runtime needs to compute the features that torch computes here."""

from __future__ import annotations

import importlib.metadata
import json
import os
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

ENTRY = "patchcore"
"""The entry of the file's metadata that says in JSON what the network is and how its input is normalised."""
INPUT = "images"
"""Name of the network's input, float32 [batch, 3, height, width], normalised."""
TOLERANCE = 1e-4
"""Largest difference from torch's features, relative to the largest value of a map, that passes."""
BATCHES = (1, 3, 8)
"""Numbers of images with which a file is compared with torch."""
SIZES = ((64, 64), (72, 96))
"""Sizes with which a file for all sizes is compared."""
SAME_PADDING = ("Conv2dDynamicSamePadding", "Conv2dSame")
"""Convolutions of efficientnet_lite_pytorch and timm that pad as TensorFlow does: the size decides how much."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written.

    Parameters
    ----------
    path
        The ONNX file.
    maps
        Names of its outputs, one per feature map, finest first.
    size
        Height and width of the images that it takes; None for any.
    weight_hash
        The backbone's `weight_hash`.
    difference
        The largest difference from torch's features, relative to the largest value of a map; None if onnxruntime
        is not installed, so that nothing could be compared.
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
    """Write a backbone that torch computes as an ONNX file, which the backbone ``onnx`` and other programs read.

    The file has the input `INPUT`, with any number of images, and an output for each feature map, called as the
    backbone's attribute ``layers`` says, if it has one, or map0, map1 and so on. Its metadata has one entry, `ENTRY`:
    mean, std, name, options and weight hash of the backbone, and the version of this program. It is checked by onnx
    and, if onnxruntime is installed, compared with torch; an older file stays as it was until all of this is done.
    Weights beyond ONNX's limit of 2 GB go into a second file, ``PATH.data``.

    Parameters
    ----------
    backbone
        Any backbone made of torch operations; it is moved to the CPU.
    path
        The file to write.
    size
        Height and width of the only images that the network is to take; all if None. Some networks, such as vision
        transformers, can be exported with a size only.
    name, options
        What the backbone was made from, for the file's metadata.

    Raises
    ------
    PluginError
        If the extra "export" is not installed, or the backbone does something that ONNX cannot express.
    TensorError
        If the backbone takes images of another size only, or the file computes other features than torch does.
    ModelFileError
        If `path` is a folder.
    """
    require_export()
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; give a file in it, such as {path / 'features.onnx'}")
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


def put_in_place(drafts: Path, folder: Path) -> None:
    """Move finished files into a folder, where they take the place of older ones."""
    # Weights beside the model come first: no reader finds a model without them.
    for written in sorted(drafts.iterdir(), reverse=True):
        os.replace(written, folder / written.name)  # noqa: PTH105 - says that an older file is replaced


def write_onnx(
    network: nn.Module,
    path: Path,
    *,
    owner: str,
    maps: Sequence[str],
    size: tuple[int, int] | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write a module that takes images [B, 3, H, W] and returns a tuple of tensors as an ONNX file.

    Raises
    ------
    PluginError
        If `network` does something that ONNX cannot express.
    """
    # Torch takes dimensions of 1, and those that are equal, for constants; and no dimension is one that is compared.
    height, width = size or (96, 160)
    dimensions = {0: "batch"} if size else {0: "batch", 2: "height", 3: "width"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they speak of torch's own code
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, height, width),),
                dynamo=True,
                dynamic_shapes=(dimensions,),
                input_names=[INPUT],
                output_names=list(maps),
                verbose=False,
            )
    except Exception as error:  # whatever the network raises when it runs on tensors without values
        hint = "" if size else "; if it takes images of one size only, give that with --size HEIGHT,WIDTH"
        raise PluginError(
            f"{owner} cannot be exported to ONNX, which takes networks of torch operations only: {reason(error)}{hint}"
        ) from error
    save_onnx(program, path, json.dumps(metadata))


def save_onnx(program: torch.onnx.ONNXProgram | None, path: Path, metadata: str) -> None:
    """Write what torch.onnx made of a network, with one entry of metadata, and have onnx check it."""
    import onnx
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # torch notes source lines and paths of this computer
    program.model.metadata_props[ENTRY] = metadata
    program.save(path)
    onnx.checker.check_model(str(path))


def compare(backbone: Backbone, path: Path, sizes: Sequence[tuple[int, int]], *, owner: str) -> float:
    """Return the largest relative difference between torch's features and those of an ONNX file, on random images.

    Raises
    ------
    TensorError
        If it is beyond `TOLERANCE`, or either does not compute.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in BATCHES:
        for size in sizes:
            what = f"{batch} images of {size[0]} x {size[1]}"
            images = _images(batch, size)
            maps = _features(backbone, images, owner)
            try:
                found = session.run(None, {INPUT: images.numpy()})
            except Exception as error:  # onnxruntime's exceptions have no base of their own
                raise TensorError(
                    f"{owner}: its ONNX file does not compute {what} ({reason(error)}); nothing was written; "
                    "give one size with --size HEIGHT,WIDTH"
                ) from error
            for index, (expected, got) in enumerate(zip(maps, found, strict=True)):
                difference = _relative_difference(torch.from_numpy(got), expected)
                if not difference <= TOLERANCE:
                    raise TensorError(
                        f"{owner}: map {index} of its ONNX file differs from torch's by {difference:.1e} of the "
                        f"largest value, for {what}; at most {TOLERANCE:.0e} is allowed; nothing was written"
                    )
                largest = max(largest, difference)
    return largest


class _Network(nn.Module):
    """A backbone as the module that torch exports; what it is made of is registered, so its weights are found."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = backbone
        if not isinstance(backbone, nn.Module):
            held = getattr(backbone, "__dict__", {}).values()
            self._held = nn.ModuleList(value for value in held if isinstance(value, nn.Module))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._backbone(images))


@contextmanager
def _same_padding_as_attribute(network: nn.Module) -> Iterator[None]:
    """Let convolutions that pad as TensorFlow does say so by ONNX's own attribute.

    Written out as arithmetic on sizes, the padding of each depends on all before, and torch does not get done with it.
    """
    convolutions = [
        each for each in network.modules() if isinstance(each, nn.Conv2d) and type(each).__name__ in SAME_PADDING
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
        [each for each in (images, convolution.weight, convolution.bias) if each is not None],
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


def require_export() -> None:
    """Raise a PluginError if the extra "export" is not installed, or torch is too old."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise PluginError(f"export to ONNX needs {' and '.join(missing)}; pip install 'patchcore-plugin[export]'")
    if not hasattr(torch.onnx, "ops"):
        raise PluginError(f"export to ONNX needs torch 2.8 or newer, not {torch.__version__}; pip install -U torch")


def _features(backbone: Backbone, images: Tensor, owner: str) -> Sequence[Tensor]:
    try:
        return backbone(images)
    except PatchcoreError as error:
        height, width = images.shape[2:]
        raise TensorError(
            f"{owner} does not take images of {height} x {width} ({error}); nothing was written; "
            "give a size that it takes with --size HEIGHT,WIDTH"
        ) from error


def _map_names(backbone: Backbone, maps: Sequence[Tensor]) -> tuple[str, ...]:
    layers = tuple(getattr(backbone, "layers", ()))
    return layers if len(layers) == len(maps) else tuple(f"map{index}" for index in range(len(maps)))


def _images(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def _relative_difference(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        return float("inf")
    largest = expected.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    return float((got - expected).abs().amax() / largest)


def reason(error: BaseException) -> str:
    """Return the first line of what lies behind an error, without torch's advice to those who work on torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip().rstrip('.:')}" if lines else type(error).__name__
