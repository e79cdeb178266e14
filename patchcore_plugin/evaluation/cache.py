"""Cache of finished results: one record file per recipe and category."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchcore_plugin.models.calibration import Calibration

from .metrics.curve import Curve
from .metrics.image import ImageMetrics
from .metrics.pixel import PixelMetrics
from .results import CategoryResult, Failure, ImageResult, write_text

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category

RECORD = "record.json"
PICTURES = ("overlay", "why")
FORMAT = 3
"""Increase it when results are computed or written differently, so that older records are ignored."""


def write_record(folder: Path, dependencies: Mapping[str, Any], result: CategoryResult) -> None:
    """Write a result atomically.

    Parameters
    ----------
    folder
        Where the record goes. It also contains the result's pictures.
    dependencies
        Everything that the result depends on; JSON-like data.
    result
        The result.
    """
    data = dataclasses.asdict(result)
    for image in data["images"]:
        # Relative paths, so that the folder can be moved.
        for kind in PICTURES:
            image[kind] = image[kind] and image[kind].relative_to(folder)

    def encode(value: object) -> object:
        return value.tolist() if isinstance(value, np.ndarray) else str(value)

    content = {"format": FORMAT, "setup": dependencies, "result": data}
    write_text(folder / RECORD, json.dumps(content, default=encode, allow_nan=False))


def read_record(folder: Path, dependencies: Mapping[str, Any]) -> tuple[CategoryResult | None, list[str]]:
    """Read a result, if its dependencies have not changed.

    Parameters
    ----------
    folder
        Where `write_record` wrote.
    dependencies
        Settings that the result must depend on.

    Returns
    -------
    result
        None if there is no record or it is out of date.
    changes
        Names of the dependencies that changed; empty if there is no record or it is valid.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError):
        return None, ["record"]
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None, ["record"]
    # A round trip through JSON turns tuples into lists, as in the record.
    current = json.loads(json.dumps(dependencies))
    recorded = content["setup"]
    changes = [key for key in {**current, **recorded} if recorded.get(key) != current.get(key)]
    return (None, changes) if changes else (_decode(content["result"], folder), [])


def hash_images(category: Category) -> str:
    """Compute a digest of a category's files: paths, sizes, modification times and labels, in order.

    Parameters
    ----------
    category
        Training images, test images and masks count.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Raises
    ------
    OSError
        If a file does not exist any more.
    """
    digest = hashlib.sha256()
    files = [*category.train]
    for image in category.test:
        files += [image.path, *([image.mask] if image.mask else [])]
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    digest.update(json.dumps([[image.kind, image.is_anomalous] for image in category.test]).encode())
    return digest.hexdigest()


def _decode(data: dict[str, Any], folder: Path) -> CategoryResult:
    images = [
        ImageResult(
            **{
                **image,
                "path": Path(image["path"]),
                **{kind: image[kind] and folder / image[kind] for kind in PICTURES},
            }
        )
        for image in data["images"]
    ]
    return CategoryResult(
        **{
            **data,
            "image": ImageMetrics(**_decode_curves(data["image"])),
            "pixel": PixelMetrics(**_decode_curves(data["pixel"])),
            "images": tuple(images),
            "failed": tuple(Failure(**failure) for failure in data["failed"]),
            "scale": data["scale"] and tuple(data["scale"]),
            "calibration": data["calibration"] and Calibration.from_dict(data["calibration"]),
        }
    )


def _decode_curves(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: Curve(np.asarray(value["x"]), np.asarray(value["y"])) if isinstance(value, dict) else value
        for key, value in metrics.items()
    }
