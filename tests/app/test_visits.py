"""Visits: images, thresholds, uploads, and how much is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.app.library import Loaded
from patchcore_plugin.app.limits import Limits
from patchcore_plugin.app.visit import Source, Visits, judge
from patchcore_plugin.app.words import promise
from patchcore_plugin.errors import ImageError, PatchcoreError
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.prediction import Prediction
from tests.app.fakes import CALIBRATION, image, png_header, prediction


def test_a_threshold_judges_all_images_anew(visits: Visits, loaded: Loaded) -> None:
    visit = visits.start()
    visit.use(loaded)
    for value in (5, 30):
        name = f"{value}.png"
        visit.add(Source(name=name, file=Path(name), owned=False), prediction(np.full((2, 2), value)))
    low, high = visit.images.values()
    assert CALIBRATION.threshold == 19
    assert [visit.verdict(low), visit.verdict(high)] == [False, True]
    assert not visit.is_changed
    visit.choose_threshold(4.5)
    assert [visit.verdict(low), visit.verdict(high)] == [True, True]
    results = visit.results()
    assert [(found.path, found.threshold, found.is_anomalous) for _, found in results] == [
        ("5.png", 4.5, True),
        ("30.png", 4.5, True),
    ]
    assert len(low.found.regions) == 0
    assert len(results[0][1].regions) == 1, "the map's threshold goes with it"
    visit.choose_threshold(30)
    assert [visit.verdict(low), visit.verdict(high)] == [False, False]
    visit.choose_rate(0.5)
    assert visit.calibration == CALIBRATION.at_rate(0.5)
    visit.restore()
    assert visit.calibration == CALIBRATION
    with pytest.raises(PatchcoreError, match="finite"):
        visit.choose_threshold(float("nan"))


def test_one_visitors_threshold_is_not_anothers(visits: Visits, loaded: Loaded) -> None:
    one, other = visits.start(), visits.start()
    one.use(loaded), other.use(loaded)
    one.choose_threshold(3.0)
    assert (other.calibration, loaded.calibration) == (CALIBRATION, CALIBRATION)
    assert one.calibration is not None
    loaded.save(one.calibration)
    assert loaded.calibration.threshold == 3.0
    assert json.loads(loaded.path.read_text())[0] == 3.0
    assert not one.is_changed


def test_what_is_promised_is_said() -> None:
    assert promise(CALIBRATION) == "Promised: at most 5.00% false alarms on good images."
    assert promise(CALIBRATION.at_threshold(17.5)) == (
        "Estimated: 2 of 19 good images lie above, at most 15.00% false alarms."
    )
    assert promise(CALIBRATION.at_threshold(0)) == "Nothing is known of false alarms at this threshold."
    assert promise(Calibration.none("one image")) == (
        "The model has no threshold: no good images were judged in its fit."
    )


def test_of_too_many_images_the_oldest_go_with_their_files(visits: Visits, loaded: Loaded) -> None:
    visit = visits.start()
    visit.use(loaded)
    sources = [visit.upload("../same.png", image(value)) for value in range(5)]
    assert len({source.file for source in sources}) == 5
    assert {source.file.parent for source in sources} == {visit.folder}
    for source in sources:
        visit.add(source, prediction(np.zeros((1, 1))))
    assert list(visit.images) == [3, 4, 5]
    assert [source.file.exists() for source in sources] == [False, False, True, True, True]
    visits.end(visit)
    assert not visit.folder.exists()
    assert visits.get(visit.token) is None


def test_a_image_of_a_folder_is_never_removed(visits: Visits, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(image(1))
    visit = visits.start()
    visit.add(Source(name="a.png", file=file, owned=False), prediction(np.zeros((1, 1))))
    visit.drop_oldest()
    visit.add(Source(name="a.png", file=file, owned=False), prediction(np.zeros((1, 1))))
    visits.end(visit)
    assert file.exists()


def test_a_image_that_is_judged_again_is_kept_once(visits: Visits, tmp_path: Path) -> None:
    visit = visits.start()
    first, other = (Source(name=name, file=tmp_path / name, owned=False) for name in ("a.png", "b.png"))
    for source, value in ((first, 1), (other, 2), (first, 3)):
        visit.add(source, prediction(np.full((1, 1), value)))
    assert [(each.number, each.found.score) for each in visit.images.values()] == [(2, 2.0), (3, 3.0)]
    assert visit.dropped == 0, "nothing went because there was too much"


def test_uploads_that_wait_are_bounded_over_all_visits(visits: Visits) -> None:
    one, other = visits.start(), visits.start()
    sources = [one.upload("a.png", image(1)), one.upload("b.png", image(2)), other.upload("c.png", image(3))]
    size = sources[0].file.stat().st_size
    assert (one.waiting, other.waiting) == (size + sources[1].file.stat().st_size, sources[2].file.stat().st_size)
    left = visits.limits.memory - one.waiting - other.waiting
    assert visits.has_room(left)
    assert not visits.has_room(left + 1)
    one.add(sources[0], prediction(np.zeros((1, 1))))
    one.forget(sources[1])
    assert one.waiting == 0, "neither what is judged nor what is refused waits"
    visits.end(other)
    assert visits.has_room(visits.limits.memory)


def test_memory_is_bounded_over_all_visits_and_the_largest_pays(visits: Visits) -> None:
    small, large = visits.start(), visits.start()
    small.add(Source(name="a", file=Path("a"), owned=False), prediction(np.zeros((10, 10))))
    for name in ("a", "b", "c"):
        large.add(Source(name=name, file=Path(name), owned=False), prediction(np.zeros((20, 10))))
    assert (small.cost, large.cost) == (400, 2400)
    visits.make_room()
    assert (len(small.images), list(large.images)) == (1, [2, 3])
    assert (small.dropped, large.dropped) == (0, 1), "the visitor is told"


def test_a_refused_upload_leaves_nothing(visits: Visits) -> None:
    visit = visits.start()
    with pytest.raises(ImageError, match=r"notes\.png: not an image: it holds text"):
        visit.upload("folder/notes.png", b"words")
    assert not visit.folder.exists()


def test_all_uploads_are_gone_with_the_app() -> None:
    with Visits(Limits()) as visits:
        folder = visits.start().upload("a.png", image(1)).file.parent
        assert folder.exists()
    assert not folder.exists()
    assert not folder.parent.exists()


def test_errors_stand_in_the_place_of_their_images(loaded: Loaded, tmp_path: Path) -> None:
    files = {"good": image(200), "text": b"words", "huge": png_header(2000, 2000), "empty PNG": png_header(4, 4)}
    sources = [Source(name=name, file=tmp_path / str(i), owned=True) for i, name in enumerate([*files, "gone"])]
    for source, data in zip(sources, files.values(), strict=False):
        source.file.write_bytes(data)
    found = judge(loaded, Limits(pixels=10**6), sources)
    assert [source.name for source, _ in found] == [*files, "gone"]
    first, *errors = (answer for _, answer in found)
    assert isinstance(first, Prediction)
    assert first.score == 200
    assert [str(error) for error in errors] == [
        "text: not an image: it holds text",
        "huge: 2,000 x 2,000 pixels are more than the 1 million that are taken here; make the image smaller, or "
        "start the app with a higher --max-pixels",
        "empty PNG: cannot be read: damaged, or of a rare kind; save it again as PNG",
        "gone: cannot be opened (No such file or directory)",
    ]
