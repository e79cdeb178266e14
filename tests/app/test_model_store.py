"""The list of models, and what is saved to their files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from patchcore_plugin.app.model_store import MAX_LOADED, LoadedModel, ModelStore
from patchcore_plugin.errors import ModelFileError
from tests.app.fakes import CALIBRATION, FakeModel, image


def test_store_lists_the_given_model_and_those_of_the_folder(tmp_path: Path) -> None:
    models, given = tmp_path / "models", tmp_path / "given.safetensors"
    outside = tmp_path / "outside.safetensors"
    models.mkdir()
    for path in (
        given,
        outside,
        models / "b.safetensors",
        models / "given.safetensors",
        models / "c.onnx",
        models / "d.txt",
    ):
        path.write_text("1")
    (models / "link.safetensors").symlink_to(outside)
    store = ModelStore(given, models, lambda path: path.name)
    twin = models / "given.safetensors"
    assert store.paths() == {
        "given.safetensors": given,
        "b.safetensors": models / "b.safetensors",
        "c.onnx": models / "c.onnx",
        str(twin): twin,
    }
    assert store.open("b.safetensors").model == "b.safetensors"
    for label in ("link.safetensors", "../outside.safetensors", str(outside), "d.txt"):
        with pytest.raises(ModelFileError, match="no such model"):
            store.open(label)
    assert ModelStore(None, tmp_path / "nowhere", lambda path: path).paths() == {}


def test_model_is_loaded_once_until_its_file_changes(tmp_path: Path) -> None:
    calls: list[str] = []
    for number in range(MAX_LOADED + 1):
        (tmp_path / f"{number}.safetensors").write_text("1")
    store = ModelStore(None, tmp_path, lambda path: calls.append(path.stem))
    assert store.open("0.safetensors") is store.open("0.safetensors")
    (tmp_path / "0.safetensors").write_text("changed")
    store.open("0.safetensors")
    assert calls == ["0", "0"]
    for number in range(1, MAX_LOADED + 1):
        store.open(f"{number}.safetensors")
    store.open("0.safetensors")
    assert calls == ["0", "0", "1", "2", "3", "0"], "the least recently used model was dropped"


def test_file_that_changes_while_it_is_loaded_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("1")

    def load(path: Path) -> FakeModel:
        path.write_text("an update by another program")
        return FakeModel()

    loaded = ModelStore(None, tmp_path, load).open("a.safetensors")
    with pytest.raises(ModelFileError, match="has changed since it was loaded"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert path.read_text() == "an update by another program"


def test_file_that_another_program_changed_is_not_overwritten(loaded: LoadedModel) -> None:
    loaded.path.write_text("an update by another program")
    with pytest.raises(ModelFileError, match="has changed since it was loaded"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert loaded.path.read_text() == "an update by another program"
    assert loaded.calibration == CALIBRATION


def test_threshold_that_cannot_be_saved_is_reverted(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaded.model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert loaded.calibration == CALIBRATION


def test_concurrent_predictions_are_serialised(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    threads = [threading.Thread(target=loaded.predict, args=([tmp_path / "a.png"] * 40,)) for _ in range(4)]
    errors: list[object] = []
    threading.excepthook, original = errors.append, threading.excepthook
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = original
    assert errors == []
