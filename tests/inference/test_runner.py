"""Images and frames through a model, each decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.data.images import write_png
from patchcore_plugin.data.video import Frame
from patchcore_plugin.errors import ImageError
from patchcore_plugin.inference import ResultsWriter, predict_files
from patchcore_plugin.models.prediction import Prediction
from tests.inference.predictions import FakePrediction
from tests.inference.watched_model import Brightness, put


def test_image_is_decoded_once(tmp_path: Path) -> None:
    # A second read of a deleted image would fail.
    paths = [put(tmp_path, f"{name}.png") for name in "ab"]
    model = Brightness(after_each=Path.unlink)
    with ResultsWriter(tmp_path / "out", model.map_scale) as writer:
        for path, (outcome, extra) in zip(paths, predict_files(model, paths), strict=True):
            assert isinstance(outcome, Prediction)
            assert (outcome.path, extra) == (str(path), {})
            assert writer.write(outcome, **extra)["overlay"] == f"overlays/{tmp_path.name}_{path.stem}.png"


def test_unreadable_image_is_skipped_or_stops(tmp_path: Path) -> None:
    paths = [put(tmp_path, "a.png"), tmp_path / "missing.png", put(tmp_path, "b.png")]
    outcomes = [result.outcome for result in predict_files(Brightness(), paths, on_error="skip")]
    assert [isinstance(outcome, ImageError) for outcome in outcomes] == [False, True, False]
    with pytest.raises(ImageError, match=r"missing\.png"):
        list(predict_files(Brightness(), paths))


def test_frames_have_paths_records_and_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FrameModel(Brightness):
        def predict_each(self, images, /, *, on_error="stop", keep_pixels=False):  # type: ignore[no-untyped-def]
            for pixels in images:
                if isinstance(pixels, Path):
                    yield from super().predict_each([pixels], on_error=on_error, keep_pixels=keep_pixels)
                else:
                    values = np.zeros(pixels.shape[:2], np.float32)
                    yield FakePrediction(None, 0.0, values, size=values.shape, nearest=None, pixels=pixels)

    def frames(path: Path, step: int) -> list[Frame]:
        if path.name == "broken.mp4":
            raise ImageError("broken")
        return [Frame(number, number / 25, np.zeros((4, 6, 3), np.uint8)) for number in range(0, 5, step)]

    monkeypatch.setattr("patchcore_plugin.inference.runner.read_frames", frames)
    image, video, broken = put(tmp_path, "a.png"), tmp_path / "v.mp4", tmp_path / "broken.mp4"
    results = list(predict_files(FrameModel(), [image, video, broken, image], frame_step=2, on_error="skip"))
    assert [result.extra.get("frame") for result in results] == [None, 0, 2, 4, None, None]
    assert results[2].extra == {"frame": 2, "seconds": 0.08}
    assert isinstance(results[4].outcome, ImageError)
    assert results[4].outcome.path == str(broken)
    prediction = results[2].outcome
    assert isinstance(prediction, Prediction)
    assert prediction.path == f"{video}#2"
    with ResultsWriter(tmp_path / "out", (0.0, 1.0)) as writer:
        record = writer.write(prediction, **results[2].extra)
    assert (record["path"], record["frame"]) == (f"{video}#2", 2)
    assert record["map"] == f"heat_maps/{tmp_path.name}_v_2.png"
    with pytest.raises(ImageError, match="broken"):
        list(predict_files(FrameModel(), [broken]))


def test_image_without_map_has_no_pictures(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 3, 3), np.uint8))
    (result,) = predict_files(Brightness(maps=False), [tmp_path / "a.png"])
    assert isinstance(result.outcome, Prediction)
    with ResultsWriter(tmp_path / "out", (0.0, 1.0)) as writer:
        assert writer.write(result.outcome)["map"] is None
