"""Models that can be chosen, and what is written into them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from patchcore_plugin.app.library import KEPT, Library, Loaded
from patchcore_plugin.errors import ModelFileError
from tests.app.fakes import CALIBRATION, FakeModel, image


def test_models_are_those_of_the_folder_and_the_one_given(tmp_path: Path) -> None:
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
    library = Library(given, models, lambda path: path.name)
    twin = models / "given.safetensors"
    assert library.paths() == {
        "given.safetensors": given,
        "b.safetensors": models / "b.safetensors",
        "c.onnx": models / "c.onnx",
        str(twin): twin,
    }
    assert library.open("b.safetensors").model == "b.safetensors"
    for label in ("link.safetensors", "../outside.safetensors", str(outside), "d.txt"):
        with pytest.raises(ModelFileError, match="no such model here any more"):
            library.open(label)
    assert Library(None, tmp_path / "nowhere", lambda path: path).paths() == {}


def test_a_model_is_loaded_once_until_its_file_changes(tmp_path: Path) -> None:
    calls: list[str] = []
    for number in range(KEPT + 1):
        (tmp_path / f"{number}.safetensors").write_text("1")
    library = Library(None, tmp_path, lambda path: calls.append(path.stem))
    assert library.open("0.safetensors") is library.open("0.safetensors")
    (tmp_path / "0.safetensors").write_text("changed")
    library.open("0.safetensors")
    assert calls == ["0", "0"]
    for number in range(1, KEPT + 1):
        library.open(f"{number}.safetensors")
    library.open("0.safetensors")
    assert calls == ["0", "0", "1", "2", "3", "0"], "no more than a few stay in memory"


def test_a_file_that_changes_while_it_is_loaded_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("1")

    def load(path: Path) -> FakeModel:
        path.write_text("an update by another program")
        return FakeModel()

    loaded = Library(None, tmp_path, load).open("a.safetensors")
    with pytest.raises(ModelFileError, match="has changed since it was loaded"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert path.read_text() == "an update by another program"


def test_a_file_that_somebody_else_changed_is_not_overwritten(loaded: Loaded) -> None:
    loaded.path.write_text("an update by another program")
    with pytest.raises(ModelFileError, match="has changed since it was loaded; choose it again"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert loaded.path.read_text() == "an update by another program"
    assert loaded.calibration == CALIBRATION


def test_a_threshold_that_cannot_be_written_is_not_kept(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaded.model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        loaded.save(CALIBRATION.at_threshold(1))
    assert loaded.calibration == CALIBRATION


def test_visitors_wait_for_each_other(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    threads = [threading.Thread(target=loaded.judge, args=([tmp_path / "a.png"] * 40,)) for _ in range(4)]
    failed: list[object] = []
    threading.excepthook, before = failed.append, threading.excepthook
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert failed == []
