"""Backbones as ONNX files, compared with torch before a file appears."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.errors import ModelFileError, PatchcoreError, TensorError
from patchcore_plugin.plugins.protocols import Backbone

from .network import INPUT, write_onnx
from .onnx_file import put_in_place, reason, require_export

TOLERANCE = 1e-4
"""Largest accepted difference from torch's features, relative to the largest value of a map."""
BATCHES = (1, 3, 8)
"""Batch sizes in the comparison with torch."""
SIZES = ((64, 64), (72, 96))
"""Image sizes in the comparison of a file for all sizes."""


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

    Returns
    -------
    Export
        The file, and how it was checked.

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
        write_onnx(backbone, draft, owner=owner, maps=maps, size=size, metadata=metadata)
        difference = compare(backbone, draft, sizes, owner=owner) if find_spec("onnxruntime") else None
        put_in_place(Path(folder), path.parent)
    return Export(path=path, maps=maps, size=size, weight_hash=metadata["weight_hash"], difference=difference)


def compare(backbone: Backbone, path: Path, sizes: Sequence[tuple[int, int]], *, owner: str) -> float:
    """Return the largest relative difference between torch's features and those of an ONNX file, on random images.

    Parameters
    ----------
    backbone
        The backbone, on the CPU.
    path
        Its ONNX file.
    sizes
        Heights and widths of the random images, in pixels.
    owner
        Description of the backbone, for messages.

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
