"""Recipes beside each other: what is measured, kept, taken over, and told when something fails."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from patchcore_plugin.data.datasets import Category, TestImage
from patchcore_plugin.errors import OptionError, PatchcoreError
from patchcore_plugin.evaluation.cache import NAME, read_record, write_record
from patchcore_plugin.evaluation.compare import Comparison, Contender, compare
from patchcore_plugin.evaluation.metrics import image_metrics, pixel_metrics
from patchcore_plugin.evaluation.published import published_figures
from patchcore_plugin.evaluation.results import COMPARED, CategoryResult, Failure, ImageResult
from patchcore_plugin.models.calibration import Calibration, GoodImage


def make_category(root: Path, name: str) -> Category:
    paths = [root / name / f"{number}.png" for number in range(5)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    test = [TestImage(path, "hole" if k > 1 else "good", k > 1, None) for k, path in enumerate(paths[1:])]
    return Category(name, (paths[0],), tuple(test))


CALIBRATION = Calibration.of_good([GoodImage(score, 0.0, score) for score in (0.1, 0.2, 0.1 + 0.2)], "three images")


class Bench:
    """Measures by arithmetic, and remembers what it was asked to measure."""

    def __init__(self, fails: tuple[str, ...] = (), interrupted_at: tuple[str, str] | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fails = fails
        self.interrupted_at = interrupted_at

    def __call__(self, contender: Contender, category: Category, place: Path) -> CategoryResult:
        self.asked.append((contender.name, category.name))
        if self.asked[-1] == self.interrupted_at:
            raise KeyboardInterrupt
        if contender.name in self.fails:
            raise PatchcoreError("there is not\nenough memory")
        place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([contender.recipe["gain"], len(category.name)])
        scores = rng.random(len(category.test))
        images = [
            ImageResult(
                image.path,
                image.kind,
                image.is_anomalous,
                float(score),
                place / "overlays" / "x.png",
                "n.png",
                p_value=0.1,
                regions=2,
                area=0.3,
                why=place / "why" / "x.png" if image.is_anomalous else None,
            )
            for image, score in zip(category.test, scores, strict=True)
        ]
        image = image_metrics([image.is_anomalous for image in images], scores)
        mask = np.zeros((9, 9), dtype=bool)
        mask[2:5, 2:6] = True
        pixel = pixel_metrics([mask], [rng.random((9, 9)) + mask / 2])
        figures = {"image_auroc": image.auroc, "aupro": pixel.aupro, "predict_seconds_per_image": float(rng.random())}
        failed = [Failure("a.png", "a.png: broken")] if contender.recipe.get("unreadable") else []
        return CategoryResult(
            category.name,
            figures,
            image,
            pixel,
            tuple(images),
            tuple(failed),
            threshold=0.1 + 0.2,
            scale=(1 / 3, 2.0),
            calibration=CALIBRATION,
            model={"seed": 0, "software": {"python": "3"}},
        )


def contenders(**recipes: int) -> list[Contender]:
    return [Contender(name, {"gain": gain, "size": (8, 8)}, {"seed": 0}) for name, gain in recipes.items()]


@pytest.fixture
def categories(tmp_path: Path) -> list[Category]:
    return [make_category(tmp_path / "data", name) for name in ("nut", "bolt-m8")]


def test_every_pair_is_measured_once(categories: list[Category], tmp_path: Path) -> None:
    out, first, again = tmp_path / "out", Bench(), Bench()
    found = compare(categories, contenders(a=1, b=2), out, first)
    # A category is complete before the next one starts.
    assert first.asked == [("a", "nut"), ("b", "nut"), ("a", "bolt-m8"), ("b", "bolt-m8")]
    written = (out / "comparison.json").read_text(encoding="utf-8")
    assert json.loads(written) == json.loads(json.dumps(found.to_json()))
    a = json.loads(written)["recipes"]["a"]
    values = [each["aupro"] for each in a["categories"].values()]
    assert list(a["categories"]) == ["nut", "bolt-m8"]
    assert list(a["mean"]) == list(COMPARED)
    assert a["mean"]["aupro"] == pytest.approx(sum(values) / 2)
    assert a["mean"]["peak_memory_bytes"] is None
    said: list[str] = []
    compare(categories, contenders(a=1, b=2), out, again, note=said.append)
    assert again.asked == []
    assert said[0] == "a, nut: finished before, taken over"
    assert (out / "comparison.json").read_text(encoding="utf-8") == written
    compare(categories, contenders(a=1, b=2), out, again, fresh=True)
    assert again.asked == first.asked


def test_what_a_record_depends_on(categories: list[Category], tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()

    def asked(*recipes: Contender) -> list[tuple[str, str]]:
        bench = Bench()
        said.clear()
        compare(categories, recipes, out, bench, note=said.append)
        return bench.asked

    a, b = contenders(a=1, b=2)
    assert len(asked(a, b)) == 4
    changed = Contender("a", {"gain": 3}, {"seed": 0})
    assert asked(changed, b) == [("a", "nut"), ("a", "bolt-m8")]
    assert said[0] == "a, nut: finished before with other recipe; measured again"
    assert asked(changed, Contender("b", b.recipe, {"seed": 1, "threads": 2})) == [("b", "nut"), ("b", "bolt-m8")]
    assert said[1] == "b, nut: finished before with other seed, threads; measured again"
    image = categories[1].test[0].path
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert asked(changed) == [("a", "bolt-m8")]
    assert said[1] == "a, bolt-m8: finished before with other images; measured again"
    (out / "a" / "nut" / NAME).write_text('{"format": 1, "set', encoding="utf-8")
    assert asked(changed) == [("a", "nut")]


def test_a_record_gives_back_what_was_found(categories: list[Category], tmp_path: Path) -> None:
    place = tmp_path / "out" / "a" / "nut"
    (contender,) = contenders(a=1)
    found = Bench()(contender, categories[0], place)
    write_record(place, {"size": (8, 8)}, found)
    moved = tmp_path / "moved"
    place.rename(moved)
    read, changed = read_record(moved, {"size": (8, 8)})
    assert changed == []
    assert read is not None
    assert (read.name, read.metrics, read.failed) == (found.name, found.metrics, found.failed)
    assert (read.threshold, read.scale) == (0.1 + 0.2, (1 / 3, 2.0))
    assert [image.score for image in read.images] == [image.score for image in found.images]
    assert [image.path for image in read.images] == [image.path for image in found.images]
    assert {image.overlay for image in read.images} == {moved / "overlays" / "x.png"}
    assert [image.why for image in read.images] == [
        moved / "why" / "x.png" if image.is_anomalous else None for image in found.images
    ]
    assert {(image.p_value, image.regions, image.area) for image in read.images} == {(0.1, 2, 0.3)}
    assert (read.calibration, read.model) == (CALIBRATION, found.model)
    assert read.verdicts == found.verdicts
    for mine, theirs in ((read.image.pr, found.image.pr), (read.pixel.pro, found.pixel.pro)):
        assert mine is not None
        assert theirs is not None
        np.testing.assert_array_equal(mine.x, theirs.x)
        np.testing.assert_array_equal(mine.y, theirs.y)


def test_a_failure_stops_no_other_and_is_tried_again(categories: list[Category], tmp_path: Path) -> None:
    out, bench = tmp_path / "out", Bench(fails=("a",))
    absent = Contender("c", reason="unknown scorer 'x'")
    found = compare(categories, [*contenders(a=1, b=2), absent], out, bench)
    assert len(bench.asked) == 4
    assert found.reasons == ["recipe a: there is not enough memory", "recipe c: unknown scorer 'x'"]
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))["recipes"]
    assert content["a"]["failed"] == dict.fromkeys(("nut", "bolt-m8"), "there is not enough memory")
    assert content["a"]["categories"] == content["c"]["categories"] == {}
    assert content["a"]["mean"]["aupro"] is None
    assert len(content["b"]["categories"]) == 2
    again = Bench()
    assert compare(categories, contenders(a=1, b=2), out, again).reasons == []
    assert again.asked == [("a", "nut"), ("a", "bolt-m8")]


def test_a_run_that_was_broken_off_goes_on(categories: list[Category], tmp_path: Path) -> None:
    whole = compare(categories, contenders(a=1, b=2), tmp_path / "whole", Bench())
    with pytest.raises(KeyboardInterrupt):
        compare(categories, contenders(a=1, b=2), tmp_path / "out", Bench(interrupted_at=("a", "bolt-m8")))
    assert list(json.loads((tmp_path / "out" / "comparison.json").read_text())["recipes"]["b"]["categories"]) == ["nut"]
    rest = Bench()
    resumed = compare(categories, contenders(a=1, b=2), tmp_path / "out", rest)
    assert rest.asked == [("a", "bolt-m8"), ("b", "bolt-m8")]
    assert resumed.to_json() == whole.to_json()
    # A record goes before its pair is measured anew: what is half done must not look finished.
    with pytest.raises(KeyboardInterrupt):
        compare(categories, contenders(a=1), tmp_path / "out", Bench(interrupted_at=("a", "nut")), fresh=True)
    assert not (tmp_path / "out" / "a" / "nut" / NAME).exists()


def test_a_image_that_cannot_be_used_is_told_once(categories: list[Category], tmp_path: Path) -> None:
    both = [Contender(name, {"gain": 1, "unreadable": True}) for name in "ab"]
    found = compare(categories[:1], both, tmp_path / "out", Bench())
    assert found.unusable == ["a.png: broken"]
    assert [each["path"] for each in found.to_json()["recipes"]["b"]["unusable"]] == ["a.png"]


def test_recipes_that_cannot_be_told_apart(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"recipes 'a b' and 'A_b' would share a folder; rename one"):
        compare([], contenders(**{"a b": 1, "A_b": 2}), tmp_path, Bench())
    with pytest.raises(OptionError, match=r"two recipes are called 'a'; give each once, or rename a \.toml file"):
        compare([], contenders(a=1) * 2, tmp_path, Bench())
    assert list(tmp_path.iterdir()) == []
    assert Contender("../up").folder == "_up"


def test_a_comparison_of_nothing() -> None:
    assert Comparison([], []).to_json() == {"categories": [], "setup": {}, "recipes": {}, "published": []}


def test_published_figures() -> None:
    figures = {each.method: each for each in published_figures()}
    assert figures["PaDiM"].to_json() == {
        "method": "PaDiM", "source": "arXiv 2011.08785", "image_auroc": 0.953, "pixel_auroc": 0.975, "aupro": 0.921
    }  # fmt: skip
    for each in figures.values():
        known = [value for value in (each.image_auroc, each.pixel_auroc, each.aupro) if value is not None]
        assert known
        assert all(0.5 < value < 1 for value in known)
        assert re.fullmatch(r"arXiv \d{4}\.\d{5}", each.source)
