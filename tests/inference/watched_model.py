"""A watch with a model of a few lines, and images for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference.watch import Done, Watch
from tests.commands import json_lines
from tests.inference.predictions import FakePrediction


@dataclass
class Brightness:
    """A model without a network: what is bright is a defect."""

    map_scale: tuple[float, float] = (0.0, 1.0)
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    before_each: Callable[[Path], object] = lambda path: None
    maps: bool = True

    def predict_each(
        self, images: Iterable[Any], /, *, on_error: str = "stop"
    ) -> Iterator[FakePrediction | ImageError]:
        assert on_error == "skip"
        for path in images:
            self.before_each(path)
            time.sleep(self.seconds)
            try:
                image = read_image(path)
            except ImageError as error:
                yield error
                continue
            grey = (image.mean(axis=2) / 255).astype(np.float32)
            score = float(grey.max())
            found = FakePrediction(str(path), score, grey if self.maps else None, is_anomalous=score > 0.5)
            yield replace(found, size=grey.shape, nearest=None)


def png(value: int = 40, size: tuple[int, int] = (6, 8)) -> bytes:
    done, encoded = cv2.imencode(".png", np.full((*size, 3), value, dtype=np.uint8))
    assert done
    return encoded.tobytes()


def put(folder: Path, name: str, value: int = 40) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return json_lines(out / "results.jsonl")


def quick(folder: Path, out: Path, model: Brightness | None = None, **options: Any) -> Watch:
    return Watch(model or Brightness(), folder, out, **{"every": 0.01, "patience": 0.0, **options})


def once(folder: Path, out: Path, model: Brightness | None = None, **options: Any) -> list[Done]:
    """Judge what is there, and end."""
    return list(quick(folder, out, model, **options).run(until_idle=0))


def require_one_result_each(folder: Path, out: Path) -> None:
    lines = records(out)
    assert sorted(line["path"] for line in lines) == sorted(path.name for path in folder.iterdir())
    for line in lines:
        if "error" not in line:
            assert read_image(out / line["map"]).shape == read_image(out / line["overlay"]).shape
            assert line["score"] == pytest.approx(read_image(folder / line["path"]).mean(axis=2).max() / 255)
    for pictures in ("heat_maps", "overlays"):
        named = {line["map" if pictures == "heat_maps" else "overlay"] for line in lines if "error" not in line}
        assert {f"{pictures}/{path.name}" for path in (out / pictures).iterdir()} == named
