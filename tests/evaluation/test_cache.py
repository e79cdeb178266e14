"""Records of finished results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from patchcore_plugin.evaluation.cache import RECORD, read_record, write_record
from tests.evaluation.fake_results import FakeMeasure, make_candidates, make_category


def test_record_survives_a_move_of_its_folder(tmp_path: Path) -> None:
    folder, moved = tmp_path / "nut", tmp_path / "moved"
    (candidate,) = make_candidates(a=1)
    result = FakeMeasure()(candidate, make_category(tmp_path / "data", "nut"), folder)
    write_record(folder, {"size": (8, 8)}, result)
    folder.rename(moved)
    read, changes = read_record(moved, {"size": (8, 8)})
    assert changes == []
    assert read is not None
    for field in dataclasses.fields(result):
        if field.name not in ("images", "image", "pixel"):
            assert getattr(read, field.name) == getattr(result, field.name), field.name
    pictures = {"overlay": moved / "overlays" / "x.png", "why": moved / "why" / "x.png"}
    assert list(read.images) == [
        dataclasses.replace(image, overlay=pictures["overlay"], why=image.why and pictures["why"])
        for image in result.images
    ]
    assert read.at_threshold == result.at_threshold
    for curve, expected in ((read.image.pr, result.image.pr), (read.pixel.pro, result.pixel.pro)):
        assert curve is not None
        assert expected is not None
        np.testing.assert_array_equal(curve.x, expected.x)
        np.testing.assert_array_equal(curve.y, expected.y)


def test_changed_dependencies_and_damage_are_reported(tmp_path: Path) -> None:
    assert read_record(tmp_path, {}) == (None, [])
    (candidate,) = make_candidates(a=1)
    write_record(tmp_path, {"seed": 0}, FakeMeasure()(candidate, make_category(tmp_path, "nut"), tmp_path))
    assert read_record(tmp_path, {"seed": 1, "threads": 2}) == (None, ["seed", "threads"])
    for damage in ('{"format": 1, "set', '{"format": 1}', "[]"):
        (tmp_path / RECORD).write_text(damage, encoding="utf-8")
        assert read_record(tmp_path, {"seed": 0}) == (None, ["record"])
