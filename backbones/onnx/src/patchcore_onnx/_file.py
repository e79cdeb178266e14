"""What an ONNX file says before anything of it is computed; imported by the backbone's `create` only."""

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
"""The entry of the metadata that ``patchcore export-backbone`` writes."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An ONNX file.

    Parameters
    ----------
    path
        Where it is.
    digest
        SHA-256 of it and of the files beside it that hold its weights.
    mean, std
        What its input is normalised with; None if it does not say.
    """

    path: Path
    digest: str
    mean: Triple | None
    std: Triple | None


def read(name: str) -> OnnxFile:
    """Return what the file of that path says.

    Raises
    ------
    WeightsError
        If it is missing or damaged, or its weights are missing or outside its folder.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise pp.WeightsError(
            f"backbone onnx: no file {path} (seen from {Path.cwd()}); put it there, or give another path with "
            "backbone.file=PATH and fit again"
        )
    content = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise pp.WeightsError(
            f"backbone onnx: {path} is no ONNX file, or damaged; copy it again from its source"
        ) from error
    digest = hashlib.sha256(content)
    for location in sorted(set(_external_data(model))):
        digest.update(hashlib.sha256(location.encode()).digest())
        digest.update(hashlib.sha256(_beside(path, location).read_bytes()).digest())
    mean, std = _normalisation(path, {each.key: each.value for each in model.metadata_props})
    return OnnxFile(path=path, digest=digest.hexdigest(), mean=mean, std=std)


def _external_data(message: Message) -> Iterator[str]:
    """Yield where the tensors anywhere in a model keep their values, if not in the model itself."""
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


def _beside(path: Path, location: str) -> Path:
    folder = path.parent.resolve()
    data = (folder / location).resolve()
    if not data.is_relative_to(folder):
        raise pp.WeightsError(
            f"backbone onnx: {path} keeps weights outside its folder ({location!r}), which is refused; "
            "save it with its weights inside or beside it"
        )
    if not data.is_file():
        raise pp.WeightsError(
            f"backbone onnx: {path} keeps weights in {location!r} beside it, which is missing; copy that file too"
        )
    return data


def _normalisation(path: Path, metadata: dict[str, str]) -> tuple[Triple | None, Triple | None]:
    if ENTRY not in metadata:
        return None, None
    try:
        said: dict[str, Any] = json.loads(metadata[ENTRY])
        mean, std = _triple(said["mean"]), _triple(said["std"])
        if min(std) <= 0:
            raise ValueError("a standard deviation is above 0")
    except (ValueError, TypeError, KeyError) as error:
        raise pp.WeightsError(
            f"backbone onnx: {path}: its metadata {ENTRY!r} gives no mean and std of three numbers; "
            "export it again with patchcore export-backbone"
        ) from error
    return mean, std


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError("not finite")
    return red, green, blue
