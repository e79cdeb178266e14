"""Model files of formats 1 and 2, written before keys and options were renamed, load and predict as they did.

The files in ``data`` have the manifest key "photos", the tensor "bank.images", and for SPADE the option "photos".
``expected.json`` holds the predictions of the program that wrote them. The tolerance covers the CPU kernels of other
machines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import patchcore_plugin as pp
from patchcore_plugin.models import file as model_file

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


def draw(seed: int, *, defect: bool = False) -> NDArray[np.uint8]:
    """Return noise with stripes, 40 x 48; the defect is a dark square."""
    image = np.random.default_rng(seed).integers(90, 130, (40, 48, 3)).astype(np.uint8)
    image[:, ::8] += 60
    if defect:
        image[12:24, 20:32] = 20
    return image


@pytest.mark.parametrize("name", EXPECTED)
def test_older_files_predict_as_they_did(name: str) -> None:
    detector = pp.load_model(DATA / f"{name}.safetensors", device="cpu")
    expected = EXPECTED[name]
    assert detector.threshold == pytest.approx(expected["threshold"], rel=1e-4)
    predictions = detector.predict([draw(100), draw(101, defect=True)])
    for prediction, values in zip(predictions, expected["predictions"], strict=True):
        assert prediction.score == pytest.approx(values["score"], rel=1e-4)
        assert (prediction.is_anomalous, prediction.p_value) == (values["is_anomalous"], values["p_value"])
        if values["map_peak"] is None:
            assert prediction.anomaly_map is None
            continue
        assert prediction.anomaly_map is not None
        assert prediction.anomaly_map.max() == pytest.approx(values["map_peak"], rel=1e-4)
        assert prediction.anomaly_map.mean() == pytest.approx(values["map_mean"], rel=1e-4)
        nearest = prediction.nearest
        assert nearest is not None
        assert [nearest.image, nearest.x, nearest.y, nearest.peak_x, nearest.peak_y] == values["nearest"]


def test_older_files_have_their_images_and_thumbnails() -> None:
    single = pp.Detector.load(DATA / "dn2.safetensors", device="cpu")
    ensemble = pp.Detector.load(DATA / "ensemble.safetensors", device="cpu")
    for detector in (single, ensemble):
        # Older versions numbered images in the order of reading.
        assert sorted(detector.training_images) == [f"good/{number}.png" for number in range(6)]
        assert sorted(detector.thumbnails) == list(range(6))
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in detector.thumbnails.values())
    assert single.bank.descriptors is not None
    assert len(ensemble.members) == 2


def test_an_older_option_has_its_present_name() -> None:
    detector = pp.Detector.load(DATA / "spade.safetensors", device="cpu")
    assert detector.recipe.scorer.options == {"images": 2}


@pytest.mark.parametrize("name", EXPECTED)
def test_older_files_are_saved_in_the_same_format(name: str, tmp_path: Path) -> None:
    older, newer = DATA / f"{name}.safetensors", tmp_path / "new.safetensors"
    pp.Detector.load(older, device="cpu").save(newer)
    tensors, manifest = model_file.load(older)
    new_tensors, new_manifest = model_file.load(newer)
    assert new_tensors.keys() == tensors.keys()
    assert new_manifest["sha256"] == manifest["sha256"]
    assert new_manifest["photos" if name != "ensemble" else "members"]
