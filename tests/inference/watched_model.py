"""A watch with a model of a few lines, and images for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcore_plugin.data.encoding import encode_png
from patchcore_plugin.data.images import read_image
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference import Watch, WatchResult
from tests.commands import json_lines
from tests.inference.predictions import FakePrediction


@dataclass
class Brightness:
    """A model without a network: bright images are anomalous."""

    map_scale: tuple[float, float] = (0.0, 1.0)
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    before_each: Callable[[Path], object] = lambda path: None
    after_each: Callable[[Path], object] = lambda path: None
    maps: bool = True

    def predict_each(
        self, images: Iterable[Any], /, *, on_error: str = "stop", keep_pixels: bool = False
    ) -> Iterator[FakePrediction | ImageError]:
        for path in images:
            self.before_each(path)
            time.sleep(self.seconds)
            try:
                pixels = read_image(path)
            except ImageError as error:
                if on_error == "stop":
                    raise
                yield error
                continue
            self.after_each(path)
            grey = (pixels.mean(axis=2) / 255).astype(np.float32)
            score = float(grey.max())
            yield FakePrediction(
                str(path),
                score,
                grey if self.maps else None,
                size=pixels.shape[:2],
                is_anomalous=score > 0.5,
                nearest=None,
                pixels=pixels if keep_pixels else None,
            )


def png(value: int = 40, size: tuple[int, int] = (6, 8)) -> bytes:
    return encode_png(np.full((*size, 3), value, dtype=np.uint8))


def put(folder: Path, name: str, value: int = 40) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return json_lines(out / "results.jsonl")


def fast_watch(folder: Path, out: Path, model: Brightness | None = None, **options: Any) -> Watch:
    return Watch(model or Brightness(), folder, out, **{"every": 0.01, "patience": 0.0, **options})


def watch_once(folder: Path, out: Path, model: Brightness | None = None, **options: Any) -> list[WatchResult]:
    """Record the images that are in the folder, then stop."""
    return list(fast_watch(folder, out, model, **options).run(until_idle=0))


def require_one_result_per_image(folder: Path, out: Path) -> None:
    lines = records(out)
    assert sorted(line["path"] for line in lines) == sorted(path.name for path in folder.iterdir())
    readable = [line for line in lines if "error" not in line]
    for line in readable:
        assert read_image(out / line["map"]).shape == read_image(out / line["overlay"]).shape
        assert line["score"] == pytest.approx(read_image(folder / line["path"]).mean(axis=2).max() / 255)
    for kind, pictures in (("map", "heat_maps"), ("overlay", "overlays")):
        assert {f"{pictures}/{path.name}" for path in (out / pictures).iterdir()} == {line[kind] for line in readable}
