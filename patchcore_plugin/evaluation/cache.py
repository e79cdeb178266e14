"""Finished pieces of an evaluation on disk: what was found, and all that it depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchcore_plugin.models.calibration import Calibration

from .metrics import Curve, ImageMetrics, PixelMetrics
from .results import CategoryResult, Failure, ImageResult, write_text

if TYPE_CHECKING:
    from patchcore_plugin.data.datasets import Category

NAME = "record.json"
PICTURES = ("overlay", "why")
FORMAT = 3
"""Grows when the figures are computed or written in another way, so that older records do not count."""


def write_record(folder: Path, setup: Mapping[str, Any], result: CategoryResult) -> None:
    """Write what was found into the folder of its pictures, at once or not at all.

    Parameters
    ----------
    folder
        Where the overlays lie, too.
    setup
        What the result depends on; must fit into JSON.
    result
        What was found.
    """
    found = dataclasses.asdict(result)
    for image in found["images"]:
        # Pictures may move with their folder.
        for kind in PICTURES:
            image[kind] = image[kind] and image[kind].relative_to(folder)

    def plain(value: object) -> object:
        return value.tolist() if isinstance(value, np.ndarray) else str(value)

    content = {"format": FORMAT, "setup": setup, "result": found}
    write_text(folder / NAME, json.dumps(content, default=plain, allow_nan=False))


def read_record(folder: Path, setup: Mapping[str, Any]) -> tuple[CategoryResult | None, list[str]]:
    """Return what was found before, if it depends on exactly `setup`.

    Returns
    -------
    result
        None if there is no record, or it does not count any more.
    changed
        What is different from `setup` in a record that does not count; empty if there is none.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError):
        return None, ["record"]
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None, ["record"]
    # Tuples become lists in JSON; the comparison must not see that.
    wanted = json.loads(json.dumps(setup))
    before = content["setup"]
    changed = [key for key in {**wanted, **before} if before.get(key) != wanted.get(key)]
    return (None, changed) if changed else (_result(content["result"], folder), [])


def images_digest(category: Category) -> str:
    """Return a digest of a category's files: paths, sizes and times of change, in order.

    Raises
    ------
    OSError
        If one is gone.
    """
    digest = hashlib.sha256()
    files = [*category.train]
    for image in category.test:
        files += [image.path, *([image.mask] if image.mask else [])]
    for file in files:
        about = file.stat()
        digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    digest.update(json.dumps([[image.kind, image.is_anomalous] for image in category.test]).encode())
    return digest.hexdigest()


def _result(data: dict[str, Any], folder: Path) -> CategoryResult:
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
            "image": ImageMetrics(**_curves(data["image"])),
            "pixel": PixelMetrics(**_curves(data["pixel"])),
            "images": tuple(images),
            "failed": tuple(Failure(**failure) for failure in data["failed"]),
            "scale": data["scale"] and tuple(data["scale"]),
            "calibration": data["calibration"] and Calibration.from_dict(data["calibration"]),
        }
    )


def _curves(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: Curve(np.asarray(value["x"]), np.asarray(value["y"])) if isinstance(value, dict) else value
        for key, value in figures.items()
    }
