"""Interrupted fits are resumed: no image is extracted twice, and the model file is the same to the last bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import patchcore_plugin as pp
from patchcore_plugin.data.images import write_png
from patchcore_plugin.models.fitting.store import discard
from tests.models import tiny

pytestmark = pytest.mark.slow


def fit(detector: pp.Detector, images: list[Path], out: Path, **options: Any) -> tuple[bytes, int]:
    """Return the model file, and the number of images that were extracted."""
    tiny.extracted.clear()
    detector.fit(images, **options)
    detector.save(out / "m.safetensors")
    return (out / "m.safetensors").read_bytes(), sum(tiny.extracted)


METHODS: dict[str, Callable[[], pp.Detector]] = {
    "patchcore": tiny.detector,
    "padim": lambda: tiny.detector("padim", aggregator={"channels": 8}),
    "spade": lambda: tiny.detector("spade", backbone={"name": "tiny", "levels": 2}),
    "dn2": lambda: tiny.detector("dn2"),
    "ensemble": lambda: tiny.ensemble(
        {"sampler": {"ratio": 0.2}},
        {"recipe": "padim", "aggregator": {"channels": 8}},
        {"backbone": {"name": "tiny", "channels": 5}},
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_no_image_is_extracted_twice(name: str, tmp_path: Path) -> None:
    make, images = METHODS[name], tiny.write(tmp_path / "images", 21)
    images.insert(4, tmp_path / "images" / "no.png")
    images[4].write_text("not an image")
    plain, _ = fit(make(), images, tmp_path, on_error="skip", keep_thumbnails=True)
    options: dict[str, Any] = {"on_error": "skip", "keep_thumbnails": True, "features": tmp_path / "store"}
    first, extracted = fit(make(), images, tmp_path, **options)
    members = len(make().members)
    samples = members if members > 1 else 0  # the memory of several members is estimated from an image each
    assert extracted == 21 * members + samples
    detector = make()
    again, extracted = fit(detector, images, tmp_path, **options)
    assert extracted == samples
    assert first == plain
    assert again == plain
    assert [error.path for error in detector.skipped] == [str(images[4])]
    discard(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_fit_within_a_budget_is_resumed(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 40)
    options: dict[str, Any] = {"memory_budget": 150_000}
    plain, _ = fit(tiny.detector(), images, tmp_path, **options)
    fit(tiny.detector(), images, tmp_path, features=tmp_path / "store", **options)
    again, extracted = fit(tiny.detector(), images, tmp_path, features=tmp_path / "store", **options)
    assert again == plain
    assert extracted == 1  # the plan is made from the first image


@pytest.mark.slow
def test_features_of_other_settings_are_not_used(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 20)

    def count_extracted(detector: pp.Detector, **options: Any) -> int:
        content, count = fit(detector, images, tmp_path, features=tmp_path / "store", **options)
        assert content == fit(detector, images, tmp_path, **options)[0]
        return count

    assert count_extracted(tiny.detector()) == 20
    assert count_extracted(tiny.detector(sampler={"ratio": 0.2}, scorer={"neighbours": 3})) == 0
    assert count_extracted(tiny.detector(backbone={"name": "tiny", "channels": 9})) == 20
    assert count_extracted(tiny.detector(aggregator={"patch_size": 1})) == 20
    assert count_extracted(tiny.detector(preprocessing={"size": [40, 32]})) == 20
    assert count_extracted(tiny.detector(), keep_thumbnails=True) == 20
    assert count_extracted(pp.Detector(tiny.recipe(), device="cpu", precision="bf16", host=tiny.host())) == 20
    # A changed image: its batch is extracted again.
    before = images[0].stat()
    write_png(images[0], tiny.draw(50))
    os.utime(images[0], ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert count_extracted(tiny.detector()) == 8
    assert count_extracted(tiny.detector()) == 0


def test_batches_before_an_unreadable_image_are_kept(tmp_path: Path) -> None:
    images = tiny.write(tmp_path / "images", 30)
    content = images[20].read_bytes()
    images[20].write_text("not an image")
    with pytest.raises(pp.ImageError):
        tiny.detector().fit(images, features=tmp_path / "store")
    images[20].write_bytes(content)
    again, extracted = fit(tiny.detector(), images, tmp_path, features=tmp_path / "store")
    assert extracted == 30 - 16
    assert again == fit(tiny.detector(), images, tmp_path)[0]
