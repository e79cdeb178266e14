"""Content of an ONNX file that is read without running it; imported by `create` only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

import patchcore_plugin as pp

ENTRY = "patchcore"
"""Metadata entry that ``patchcore export-backbone`` writes."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An ONNX file.

    Parameters
    ----------
    path
        Its path.
    digest
        SHA-256 of the file and of its external weights.
    mean, std
        Normalisation of its input; None if it has no such metadata.
    """

    path: Path
    digest: str
    mean: Triple | None
    std: Triple | None


def read(name: str) -> OnnxFile:
    """Read an ONNX file.

    Raises
    ------
    WeightsError
        If the file is missing or damaged, or its external weights are missing or outside of its folder.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise pp.WeightsError(
            f"backbone onnx: no file {path} (current folder: {Path.cwd()}); "
            "copy it there, or fit again with backbone.file=PATH"
        )
    content = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise pp.WeightsError(
            f"backbone onnx: {path} is damaged or not an ONNX file; copy it again from its source"
        ) from error
    digest = hashlib.sha256(content)
    for location in sorted(set(_external_data(model))):
        digest.update(hashlib.sha256(location.encode()).digest())
        digest.update(hashlib.sha256(_external_file(path, location).read_bytes()).digest())
    mean, std = _normalisation(path, {each.key: each.value for each in model.metadata_props})
    return OnnxFile(path=path, digest=digest.hexdigest(), mean=mean, std=std)


def _external_data(message: Message) -> Iterator[str]:
    """Yield the locations of all tensors whose values are not in the model file."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield {each.key: each.value for each in message.external_data}.get("location", "")
        return
    for _, value in message.ListFields():
        if isinstance(value, Message):
            yield from _external_data(value)
        elif not isinstance(value, str | bytes | int | float):
            for each in value:
                if isinstance(each, Message):
                    yield from _external_data(each)


def _external_file(path: Path, location: str) -> Path:
    folder = path.parent.resolve()
    data = (folder / location).resolve()
    if not data.is_relative_to(folder):
        raise pp.WeightsError(
            f"backbone onnx: {path} has external weights outside of its folder ({location!r}); "
            "save the weights in the file or in its folder"
        )
    if not data.is_file():
        raise pp.WeightsError(
            f"backbone onnx: the external weights {location!r} of {path} are missing; copy them to its folder"
        )
    return data


def _normalisation(path: Path, metadata: dict[str, str]) -> tuple[Triple | None, Triple | None]:
    if ENTRY not in metadata:
        return None, None
    try:
        entry: dict[str, Any] = json.loads(metadata[ENTRY])
        mean, std = _triple(entry["mean"]), _triple(entry["std"])
        if min(std) <= 0:
            raise ValueError("a standard deviation must be above 0")
    except (ValueError, TypeError, KeyError) as error:
        raise pp.WeightsError(
            f"backbone onnx: {path}: its metadata {ENTRY!r} has no mean and std of three numbers; "
            "export it again with patchcore export-backbone"
        ) from error
    return mean, std


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError("not finite")
    return red, green, blue
