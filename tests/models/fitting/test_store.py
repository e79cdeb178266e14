"""The feature store: batches on disk, found only if nothing that they depend on has changed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.models.fitting.store import FeatureStore, StoredImage, discard
from tests.models import tiny

CPU = torch.device("cpu")
READABLE: list[StoredImage] = [(0, "a.png", (40, 48), b"jpeg"), (2, "c.png", (41, 49), None)]


def patches() -> pp.Patches:
    """Return patches of one value, whose descriptors share their memory."""
    grid = torch.arange(2.0).view(2, 1, 1, 1)
    return pp.Patches(grid, grid.view(2, 1), levels=(1,))


def error() -> pp.ImageError:
    unreadable = pp.ImageError("b.png: not an image")
    unreadable.path = "b.png"
    return unreadable


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return tiny.write(tmp_path / "images", 3)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", {"size": [32, 32]}, CPU)


def test_a_batch_is_loaded_as_it_was_saved(store: FeatureStore, images: list[Path]) -> None:
    assert not store.has(images)
    store.save(images, READABLE, [error()], patches())
    readable, errors, loaded = store.load(images)
    assert readable == READABLE
    assert [(str(each), each.path) for each in errors] == [("b.png: not an image", "b.png")]
    assert loaded is not None
    assert loaded.descriptors is not None
    assert torch.equal(loaded.grid, patches().grid)
    assert loaded.descriptors.flatten().tolist() == [0.0, 1.0]
    assert loaded.levels == (1,)


def test_a_batch_without_readable_images(store: FeatureStore, images: list[Path]) -> None:
    store.save(images, [], [error()], None)
    assert store.load(images)[0] == []
    assert store.load(images)[2] is None


@pytest.mark.parametrize("change", ["settings", "order", "fewer", "time", "size"])
def test_a_batch_of_other_images_or_settings_is_not_found(change: str, images: list[Path], tmp_path: Path) -> None:
    settings = {"size": [32, 32]}
    FeatureStore(tmp_path / "store", settings, CPU).save(images, READABLE, [], patches())
    asked = images
    if change == "settings":
        settings = {"size": [32, 40]}
    elif change == "order":
        asked = images[::-1]
    elif change == "fewer":
        asked = images[:2]
    elif change == "time":
        before = images[0].stat()
        os.utime(images[0], ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    else:
        before = images[0].stat()
        images[0].write_bytes(images[0].read_bytes() + b"!")
        os.utime(images[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not FeatureStore(tmp_path / "store", settings, CPU).has(asked)


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "other"])
def test_a_damaged_file_counts_as_missing(damage: str, images: list[Path], tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", {}, CPU)
    store.save(images[:1], READABLE[:1], [], patches())
    (other,) = (tmp_path / "store").iterdir()
    store.save(images, READABLE, [], patches())
    (path,) = set((tmp_path / "store").iterdir()) - {other}
    content = path.read_bytes()
    damages = {"cut": content[:-9], "empty": b"", "other": other.read_bytes()}
    damages["a bit"] = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    path.write_bytes(damages[damage])
    assert not FeatureStore(tmp_path / "store", {}, CPU).has(images)
    with pytest.raises(pp.PatchcoreError, match="start the fit again"):
        store.load(images)


def test_arrays_are_refused(store: FeatureStore) -> None:
    arrays: list[Any] = [tiny.draw(0)]
    with pytest.raises(pp.OptionError, match="image files only"):
        store.has(arrays)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(pp.PatchcoreError, match=re.escape(f"{tmp_path / 'file'}: cannot be written (")) as caught:
        FeatureStore(tmp_path / "file", {}, CPU)
    assert "--resume" in str(caught.value)


def test_discarding_leaves_files_of_others(store: FeatureStore, images: list[Path], tmp_path: Path) -> None:
    store.save(images, READABLE, [], patches())
    (tmp_path / "store" / "notes.txt").write_text("mine")
    discard(tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["notes.txt"]
    (tmp_path / "store" / "notes.txt").unlink()
    discard(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    discard(tmp_path / "nothing")
