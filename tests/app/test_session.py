"""Sessions: images, thresholds, uploads and memory limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.app.limits import Limits
from patchcore_plugin.app.model_store import LoadedModel
from patchcore_plugin.app.session import SessionStore, Source, score_images
from patchcore_plugin.errors import ImageError, PatchcoreError
from patchcore_plugin.models.prediction import Prediction
from tests.app.fakes import CALIBRATION, image, png_file, prediction


def source(path: Path | str) -> Source:
    """Return an image that is not an upload."""
    return Source(name=str(path), file=Path(path), is_upload=False)


def test_threshold_changes_all_verdicts(sessions: SessionStore, loaded: LoadedModel) -> None:
    session = sessions.start()
    session.use(loaded)
    for value in (5, 30):
        session.add(source(f"{value}.png"), prediction(np.full((2, 2), value)))
    low, high = session.images.values()
    assert CALIBRATION.threshold == 19
    assert [session.is_anomalous(low), session.is_anomalous(high)] == [False, True]
    assert not session.is_changed
    session.set_threshold(4.5)
    assert [session.is_anomalous(low), session.is_anomalous(high)] == [True, True]
    results = [result for _, result in session.results()]
    assert [(result.path, result.threshold, result.is_anomalous) for result in results] == [
        ("5.png", 4.5, True),
        ("30.png", 4.5, True),
    ]
    assert len(low.prediction.regions) == 0
    assert len(results[0].regions) == 1, "the map threshold changes as well"
    session.set_threshold(30)
    assert [session.is_anomalous(low), session.is_anomalous(high)] == [False, False]
    session.set_rate(0.5)
    assert session.calibration == CALIBRATION.at_rate(0.5)
    session.reset_threshold()
    assert session.calibration == CALIBRATION
    with pytest.raises(PatchcoreError, match="finite"):
        session.set_threshold(float("nan"))


def test_threshold_belongs_to_one_session_until_it_is_saved(sessions: SessionStore, loaded: LoadedModel) -> None:
    first, second = sessions.start(), sessions.start()
    first.use(loaded)
    second.use(loaded)
    first.set_threshold(3.0)
    assert (second.calibration, loaded.calibration) == (CALIBRATION, CALIBRATION)
    assert first.calibration is not None
    loaded.save(first.calibration)
    assert loaded.calibration.threshold == 3.0
    assert json.loads(loaded.path.read_text())[0] == 3.0
    assert not first.is_changed


def test_oldest_images_are_dropped_with_their_uploads(sessions: SessionStore, loaded: LoadedModel) -> None:
    session = sessions.start()
    session.use(loaded)
    uploads = [session.upload("../same.png", image(value)) for value in range(5)]
    assert len({upload.file for upload in uploads}) == 5
    assert {upload.file.parent for upload in uploads} == {session.folder}
    for upload in uploads:
        session.add(upload, prediction(np.zeros((1, 1))))
    assert list(session.images) == [3, 4, 5]
    assert [upload.file.exists() for upload in uploads] == [False, False, True, True, True]
    sessions.end(session)
    assert not session.folder.exists()
    assert sessions.get(session.token) is None


def test_image_of_a_folder_is_never_deleted(sessions: SessionStore, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(image(1))
    session = sessions.start()
    session.add(source(file), prediction(np.zeros((1, 1))))
    session.drop_oldest()
    session.add(source(file), prediction(np.zeros((1, 1))))
    sessions.end(session)
    assert file.exists()


def test_image_that_is_scored_again_replaces_its_prediction(sessions: SessionStore, tmp_path: Path) -> None:
    session = sessions.start()
    for name, value in (("a.png", 1), ("b.png", 2), ("a.png", 3)):
        session.add(source(tmp_path / name), prediction(np.full((1, 1), value)))
    assert [(image.number, image.prediction.score) for image in session.images.values()] == [(2, 2.0), (3, 3.0)]
    assert session.dropped_count == 0


def test_pending_uploads_are_limited_over_all_sessions(sessions: SessionStore) -> None:
    first, second = sessions.start(), sessions.start()
    uploads = [first.upload("a.png", image(1)), first.upload("b.png", image(2)), second.upload("c.png", image(3))]
    sizes = [upload.file.stat().st_size for upload in uploads]
    assert (first.pending_bytes, second.pending_bytes) == (sizes[0] + sizes[1], sizes[2])
    free = sessions.limits.memory - sum(sizes)
    assert sessions.accepts(free)
    assert not sessions.accepts(free + 1)
    first.add(uploads[0], prediction(np.zeros((1, 1))))
    first.delete_upload(uploads[1])
    assert first.pending_bytes == 0, "neither scored nor rejected images are pending"
    sessions.end(second)
    assert sessions.accepts(sessions.limits.memory)


def test_memory_limit_drops_images_of_the_largest_session(sessions: SessionStore) -> None:
    small, large = sessions.start(), sessions.start()
    small.add(source("a"), prediction(np.zeros((10, 10))))
    for name in ("a", "b", "c"):
        large.add(source(name), prediction(np.zeros((20, 10))))
    assert (small.stored_bytes, large.stored_bytes) == (400, 2400)
    sessions.enforce_memory_limit()
    assert (len(small.images), list(large.images)) == (1, [2, 3])
    assert (small.dropped_count, large.dropped_count) == (0, 1)


def test_rejected_upload_leaves_no_file(sessions: SessionStore) -> None:
    session = sessions.start()
    with pytest.raises(ImageError, match=r"^notes\.png: not an image"):
        session.upload("folder/notes.png", b"words")
    assert not session.folder.exists()


def test_uploads_are_deleted_with_the_store() -> None:
    with SessionStore(Limits()) as sessions:
        folder = sessions.start().upload("a.png", image(1)).file.parent
        assert folder.exists()
    assert not folder.exists()
    assert not folder.parent.exists()


def test_errors_are_returned_in_the_order_of_the_images(loaded: LoadedModel, tmp_path: Path) -> None:
    files = {"good": image(200), "text": b"words", "huge": png_file(2000, 2000), "empty PNG": png_file(4, 4)}
    names = [*files, "gone"]
    sources = [Source(name=name, file=tmp_path / str(i), is_upload=True) for i, name in enumerate(names)]
    for upload, data in zip(sources, files.values(), strict=False):
        upload.file.write_bytes(data)
    results = score_images(loaded, Limits(pixels=10**6), sources)
    assert [upload.name for upload, _ in results] == names
    first, *errors = (result for _, result in results)
    assert isinstance(first, Prediction)
    assert first.score == 200
    reasons = ["not an image", "2,000 x 2,000 pixels", "cannot be decoded", "cannot be opened"]
    for error, name, reason in zip(errors, names[1:], reasons, strict=True):
        assert str(error).startswith(f"{name}: {reason}")
