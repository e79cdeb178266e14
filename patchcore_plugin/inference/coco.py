"""COCO JSON files made of ``results.jsonl`` (https://cocodataset.org/#format-data).

Regions are written as polygons because every annotation tool reads those. Run-length masks could represent holes, but
the format reserves them for crowds, and many tools refuse or misplace them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from patchcore_plugin.data.atomic import atomic_write

CATEGORY = {"id": 1, "name": "defect", "supercategory": "defect"}


def coco_annotations(records: Iterable[Mapping[str, Any]], info: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return the content of a COCO file for records of ``results.jsonl``.

    Parameters
    ----------
    records
        Return values of `ResultsWriter.write`, or the parsed lines of its file. Records of unreadable images are
        left out.
    info
        Content of the ``info`` entry; must be JSON-serialisable.

    Returns
    -------
    dict
        ``info``, ``licenses`` and ``categories``; ``images``, numbered from 1, with file names relative to their
        common folder and with ``is_anomalous``, ``score`` and ``p_value``; ``annotations``, one per region, with the
        region's highest map value as ``score``.

    Examples
    --------
    >>> region = {"box": [3, 2, 1, 1], "area": 1, "peak": 2.0, "contour": [[3, 2], [3, 3], [4, 3], [4, 2]]}
    >>> record = {"path": "parts/1.png", "width": 30, "height": 20, "is_anomalous": True, "score": 2.0}
    >>> content = coco_annotations([{**record, "p_value": None, "regions": [region]}])
    >>> content["images"][0]["file_name"], content["annotations"][0]["bbox"]
    ('1.png', [3, 2, 1, 1])
    """
    images = list(_without_errors(records))
    return {
        **_header(info),
        "images": list(_image_entries(images, _common_folder(images))),
        "annotations": list(_annotation_entries(images)),
    }


def write_coco(results: Path, out: Path, info: Mapping[str, object] | None = None) -> None:
    """Convert a ``results.jsonl`` to a COCO file, with one record in memory at a time.

    The file appears only when it is complete; until then, an existing one stays.

    Parameters
    ----------
    results
        File written by `ResultsWriter`.
    out
        The COCO file. Its folder must exist.
    info
        Content of the ``info`` entry; must be JSON-serialisable.
    """
    folder = _common_folder(_read_records(results))
    with atomic_write(out) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(_header(info), allow_nan=False)[:-1])
        for name, entries in (
            ("images", _image_entries(_read_records(results), folder)),
            ("annotations", _annotation_entries(_read_records(results))),
        ):
            file.write(f',\n"{name}": [')
            for number, entry in enumerate(entries):
                file.write(f"{',' if number else ''}\n{json.dumps(entry, allow_nan=False)}")
            file.write("]")
        file.write("}\n")


def _read_records(results: Path) -> Iterator[Mapping[str, Any]]:
    with results.open(encoding="utf-8") as lines:
        yield from _without_errors(map(json.loads, lines))


def _without_errors(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (record for record in records if "regions" in record)


def _header(info: Mapping[str, object] | None) -> dict[str, Any]:
    return {"info": dict(info or {}), "licenses": [], "categories": [CATEGORY]}


def _image_entries(records: Iterable[Mapping[str, Any]], folder: str) -> Iterator[dict[str, Any]]:
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


def _annotation_entries(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
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


def _common_folder(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the folder that contains all images; empty if only some of the paths are absolute."""
    folder: str | None = None
    for record in records:
        if record["path"] is None:
            continue
        parent = os.path.dirname(record["path"])  # noqa: PTH120
        try:
            folder = parent if folder is None else os.path.commonpath([folder, parent])
        except ValueError:
            return ""
    return folder or ""
