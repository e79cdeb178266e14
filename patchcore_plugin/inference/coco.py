"""Results as COCO JSON, the format in which annotation tools exchange regions (https://cocodataset.org/#format-data).

Regions are polygons, as which every such tool reads them; run-length masks would have the holes, but tools that draw
polygons refuse or misplace them, and the format keeps them for crowds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from patchcore_plugin.data.atomic import atomic_write

CATEGORY = {"id": 1, "name": "defect", "supercategory": "defect"}


def coco_of(records: Iterable[Mapping[str, Any]], info: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return records of ``results.jsonl`` as the content of a COCO file.

    Parameters
    ----------
    records
        What `ResultsWriter.write` returns, or lines of its file; those of images that could not be read are left out.
    info
        What the file says about itself; must fit into JSON.

    Returns
    -------
    dict
        ``info``, ``licenses``, ``categories``; ``images``, numbered from 1, with verdicts, and file names from the
        folder that all images have in common; ``annotations``: a region each, its highest map value as ``score``.
    """
    judged = [record for record in records if "regions" in record]
    return {**_head(info), "images": list(_images(judged)), "annotations": list(_annotations(judged))}


def write_coco(results: Path, out: Path, info: Mapping[str, object] | None = None) -> None:
    """Write a ``results.jsonl`` as a COCO file, an image in memory at a time; the file appears only when it is whole.

    Parameters
    ----------
    results
        Written by `ResultsWriter`.
    out
        Where to; its folder exists.
    info
        As of `coco_of`.
    """
    with atomic_write(out) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(_head(info), allow_nan=False)[:-1])
        for name, entries in (
            ("images", _images(_Judged(results))),
            ("annotations", _annotations(_Judged(results))),
        ):
            file.write(f',\n"{name}": [')
            for number, entry in enumerate(entries):
                file.write(f"{',' if number else ''}\n{json.dumps(entry, allow_nan=False)}")
            file.write("]")
        file.write("}\n")


class _Judged:
    """The records of images that were judged, read from the file each time anew."""

    def __init__(self, results: Path) -> None:
        self._results = results

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        with self._results.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if "regions" in record:
                    yield record


def _head(info: Mapping[str, object] | None) -> dict[str, Any]:
    return {"info": dict(info or {}), "licenses": [], "categories": [CATEGORY]}


def _images(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    folder = _common_folder(record["path"] for record in records if record["path"] is not None)
    for number, record in enumerate(records, start=1):
        path = PurePath(record["path"] or f"image-{number}")
        yield {
            "id": number,
            "file_name": (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix(),
            "width": record["width"],
            "height": record["height"],
            "is_anomalous": record["is_anomalous"],
            "score": record["score"],
            "p_value": record["p_value"],
        }


def _annotations(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    regions = ((image, region) for image, record in enumerate(records, start=1) for region in record["regions"])
    for number, (image, region) in enumerate(regions, start=1):
        yield {
            "id": number,
            "image_id": image,
            "category_id": CATEGORY["id"],
            "bbox": region["box"],
            "area": region["area"],
            "segmentation": [[value for point in region["contour"] for value in point]],
            "iscrowd": 0,
            "score": region["peak"],
        }


def _common_folder(paths: Iterable[str]) -> str:
    """Return the folder that all paths are in; none, if some are absolute and others are not."""
    folder: str | None = None
    for path in paths:
        parent = os.path.dirname(path)  # noqa: PTH120
        try:
            folder = parent if folder is None else os.path.commonpath([folder, parent])
        except ValueError:
            return ""
    return folder or ""
