"""Routes: who may see a training image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchcore_plugin.app.limits import Folders
from patchcore_plugin.app.routes import SessionRoutes
from patchcore_plugin.app.session import SessionStore
from tests.app.fakes import FakeModel, prediction


def test_training_image_outside_the_folders_is_not_shown(
    sessions: SessionStore, folders: Folders, tmp_path: Path
) -> None:
    routes = SessionRoutes(sessions, folders)
    model = FakeModel()

    def has_explanation(path: Path | None) -> bool:
        nearest = prediction(np.zeros((1, 1)), image=None if path is None else str(path)).nearest
        return routes.has_explanation(model, nearest)

    assert has_explanation(tmp_path / "images" / "good" / "a.png")
    for path in (tmp_path / "secret" / "a.png", tmp_path / "images" / "link" / "a.png", None):
        assert not has_explanation(path)
    model.thumbnails = {0: b"jpeg"}
    assert has_explanation(tmp_path / "secret" / "a.png"), "the model has a thumbnail"
