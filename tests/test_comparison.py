"""Recipes beside each other: what is measured, kept, taken over, and told when something fails."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.family import BACKBONE, arguments
from patchcore_plugin import cli
from patchcore_plugin.calibration import Calibration, GoodPhoto
from patchcore_plugin.cli import pair, setup
from patchcore_plugin.comparison import Comparison, Contender, compare
from patchcore_plugin.datasets import Category, TestPhoto, load_category
from patchcore_plugin.errors import OptionError, PatchcoreError
from patchcore_plugin.host import Host
from patchcore_plugin.metrics import image_metrics, pixel_metrics
from patchcore_plugin.published import published_figures
from patchcore_plugin.recipe import Recipe
from patchcore_plugin.records import NAME, read_record, write_record
from patchcore_plugin.results import COMPARED, CategoryResult, Failure, PhotoResult


def make_category(root: Path, name: str) -> Category:
    paths = [root / name / f"{number}.png" for number in range(5)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")
    test = [TestPhoto(path, "hole" if k > 1 else "good", k > 1, None) for k, path in enumerate(paths[1:])]
    return Category(name, (paths[0],), tuple(test))


CALIBRATION = Calibration.of_good([GoodPhoto(score, 0.0, score) for score in (0.1, 0.2, 0.1 + 0.2)], "three photos")


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
        photos = [
            PhotoResult(
                photo.path,
                photo.kind,
                photo.is_anomalous,
                float(score),
                place / "overlays" / "x.png",
                "n.png",
                p_value=0.1,
                regions=2,
                area=0.3,
                why=place / "why" / "x.png" if photo.is_anomalous else None,
            )
            for photo, score in zip(category.test, scores, strict=True)
        ]
        image = image_metrics([photo.is_anomalous for photo in photos], scores)
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
            tuple(photos),
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
    photo = categories[1].test[0].path
    os.utime(photo, ns=(0, photo.stat().st_mtime_ns + 1))
    assert asked(changed) == [("a", "bolt-m8")]
    assert said[1] == "a, bolt-m8: finished before with other photos; measured again"
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
    assert [photo.score for photo in read.photos] == [photo.score for photo in found.photos]
    assert [photo.path for photo in read.photos] == [photo.path for photo in found.photos]
    assert {photo.overlay for photo in read.photos} == {moved / "overlays" / "x.png"}
    assert [photo.why for photo in read.photos] == [
        moved / "why" / "x.png" if photo.is_anomalous else None for photo in found.photos
    ]
    assert {(photo.p_value, photo.regions, photo.area) for photo in read.photos} == {(0.1, 2, 0.3)}
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


def test_a_photo_that_cannot_be_used_is_told_once(categories: list[Category], tmp_path: Path) -> None:
    both = [Contender(name, {"gain": 1, "unreadable": True}) for name in "ab"]
    found = compare(categories[:1], both, tmp_path / "out", Bench())
    assert found.unusable == ["a.png: broken"]
    assert [each["path"] for each in found.to_json()["recipes"]["b"]["unusable"]] == ["a.png"]


def test_recipes_that_cannot_be_told_apart(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"recipes 'a b' and 'A_b' would share a folder; rename one"):
        compare([], contenders(**{"a b": 1, "A_b": 2}), tmp_path, Bench())
    assert Contender("../up").folder == "_up"


def test_options_of_one_recipe() -> None:
    texts = ["map.sigma=2", "b:sampler.ratio=0.5", "a:backbone.weights=C:/x=y"]
    assert setup.options_by_recipe(texts, ["a", "b"]) == {
        "a": ("map.sigma=2", "backbone.weights=C:/x=y"),
        "b": ("map.sigma=2", "sampler.ratio=0.5"),
    }
    assert setup.options_by_recipe(["backbone.weights=C:/x"], ["a"]) == {"a": ("backbone.weights=C:/x",)}
    with pytest.raises(OptionError, match=r"^--set c:map.sigma=2: 'c' is none of the recipes .*, which are: a, b$"):
        setup.options_by_recipe(["c:map.sigma=2"], ["a", "b"])


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


def test_peak_memory_is_that_of_the_process() -> None:
    ballast = np.ones(40_000_000)
    program = """if True:
        from patchcore_plugin.peak_memory import peak_gpu_memory, peak_memory
        before = peak_memory()
        block = bytearray(300 << 20)
        after = peak_memory()
        del block
        print(before, after, peak_memory(), peak_gpu_memory())
    """
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    before, after, later, gpu = done.stdout.split()
    # This process is larger than its child, whose peak must not start there.
    assert int(before) < ballast.nbytes
    assert int(after) >= 300 << 20
    # It does not fall; the kernel counts in batches of pages.
    assert int(later) >= int(after) - (1 << 20)
    assert gpu == "None"


# The command

OPTIONS = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu", "--set", "preprocessing.size=64,64"),
    *("--set", "few:sampler.ratio=0.02", "--published"),
)
UNKNOWN = "[backbone]\nname = 'resnet18'\n[aggregator]\nname = 'average-pool'\n[sampler]\nname = 'all'\n"


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from patchcore_plugin.cli import main; main()", *map(str, arguments)]


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; its exit code and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def command(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[object]]:
    """A comparison of two recipes and one whose scorer is not installed."""
    folder = tmp_path_factory.mktemp("recipes")
    shipped = Path(cli.__file__).parents[1] / "recipes" / "patchcore-1.toml"
    (folder / "few.toml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "absent.toml").write_text(UNKNOWN + "[scorer]\nname = 'nowhere'\n", encoding="utf-8")
    recipes = ("--recipe", "patchcore", "--recipe", folder / "absent.toml", "--recipe", folder / "few.toml")
    return lambda out: ["evaluate", dataset, "--out", out, *recipes, *OPTIONS]


@pytest.fixture(scope="module")
def compared(
    command: Callable[[Path], list[object]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[int, str, str]]:
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, run(*command(out))


def figures(out: Path) -> dict[str, Any]:
    """All that must not depend on when it was measured."""
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    for recipe in content["recipes"].values():
        for each in (recipe["mean"], *recipe["categories"].values()):
            for key in ("fit_seconds_per_image", "predict_seconds_per_image", "peak_memory_bytes"):
                each.pop(key)
    return dict(content)


def test_the_command_compares(compared: tuple[Path, tuple[int, str, str]]) -> None:
    out, (code, said, told) = compared
    assert code == 1
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert list(content["recipes"]) == ["patchcore", "absent", "few"]
    all_, few = (content["recipes"][name]["categories"]["washer"] for name in ("patchcore", "few"))
    assert tuple(all_) == COMPARED
    # 64 patches of each of 10 photos.
    assert (all_["bank_rows"], few["bank_rows"]) == (64, 13)
    for each in (all_, few):
        assert each["image_auroc"] == 1.0
        assert 0.9 < each["pixel_auroc"] <= 1
        assert 100 << 20 < each["peak_memory_bytes"] < 8 << 30
        assert each["peak_gpu_memory_bytes"] is None
        assert 0 < each["predict_seconds_per_image"] < each["fit_seconds_per_image"] + 60
    reason = content["recipes"]["absent"]["failed"]["washer"]
    assert reason.startswith("unknown scorer 'nowhere'; available: ")
    assert told.splitlines()[-2:] == [
        f"patchcore: recipe absent: {reason}",
        "patchcore: some recipes failed; all others are done",
    ]
    assert re.search(r"^washer +few +1\.0000 .* 13 *$", said, re.MULTILINE)
    assert re.search(r"^washer +absent +failed ", said, re.MULTILINE)
    assert f"failed   recipe absent: {reason}\n" in said
    assert "They were not measured here" in said
    assert re.search(r"^PaDiM +0\.953 +0\.975 +0\.921 +arXiv 2011\.08785", said, re.MULTILINE)
    for name in ("patchcore", "few"):
        alone = json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
        assert alone["categories"]["washer"]["aupro"] == content["recipes"][name]["categories"]["washer"]["aupro"]
        assert (out / name / "report.html").is_file()
        assert len((out / name / "washer" / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 6
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="few/report.html"' in page


def test_a_killed_run_goes_on_and_finds_the_same(
    command: Callable[[Path], list[object]], compared: tuple[Path, tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed = subprocess.Popen(program(*command(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.startswith("few, washer"):
            break
    killed.kill()
    killed.wait()
    # The process of the pair, which holds the other end too, must end by itself, and before it is done.
    rest = killed.stderr.read()
    killed.stderr.close()
    assert "few, washer: predict: 6/6" not in rest
    assert (out / "patchcore" / "washer" / NAME).is_file()
    assert not (out / "few" / "washer" / NAME).exists()
    code, _, told = run(*command(out))
    assert code == 1
    assert "patchcore, washer: finished before, taken over" in told
    assert "patchcore, washer: predict" not in told
    assert "few, washer: predict: 6/6" in told
    assert figures(out) == figures(compared[0])


def test_what_is_wrong_is_told_before_the_work(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "patchcore.toml").write_text("summary = ''\n" + UNKNOWN + "[scorer]\nname = 'knn'\n", encoding="utf-8")

    def told(*arguments: object) -> str:
        code, said, line = run("evaluate", dataset, "--out", tmp_path / "out", *arguments)
        assert (code, said, line.count("\n")) == (1, "", 1)
        assert not (tmp_path / "out").exists()
        return line.removeprefix("patchcore: ").rstrip()

    two = ("--recipe", "patchcore", "--recipe", "patchcore-1")
    file = tmp_path / "patchcore.toml"
    assert told("--recipe", "patchcore", "--recipe", file) == (
        f"--recipe patchcore and --recipe {file} are both called 'patchcore'; "
        "give each once, or rename one of the files"
    )
    misspelt = told(*two, "--set", "sampler.ration=1")
    assert misspelt.startswith("recipe 'patchcore': sampler 'greedy-coreset': unknown option 'ration'; did you mean ")
    assert misspelt.endswith("; to set an option of one recipe only: --set RECIPE:PART.OPTION=VALUE")
    assert told(*two, "--set", "padim:map.sigma=1").startswith("--set padim:map.sigma=1: 'padim' is none of the")
    # With a misspelt backbone there is nothing to compare.
    assert told(*two, "--backbone", "resnet").startswith("unknown backbone 'resnet'")
    code, _, told_ = run("evaluate", dataset, "--out", tmp_path / "out", "--published")
    assert code == 2
    assert "belong to a comparison" in " ".join(told_.split())


DYING = """
    import os
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        signal: int = 0

        def __post_init__(self):
            if self.signal:
                os.kill(os.getpid(), self.signal)

    def create(config):
        scorer = pp.Host(entry_points=False).create("scorer", "knn")
        def fit(bank):
            raise RuntimeError("no room\\nfor anything")
        scorer.fit = fit
        return scorer

    @pp.hookimpl
    def patchcore_scorers():
        return [pp.ScorerSpec(name="dies", config=Config, create=create, summary="")]
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, r"its process was killed, as the system does when memory runs out; take fewer photos, "),
        (0, r"RuntimeError: no room$"),
    ],
)
def test_a_pair_whose_process_dies(
    number: int,
    reason: str,
    dataset: Path,
    tmp_path: Path,
    distribution: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    distribution("dying", DYING)
    options = (f"scorer.signal={int(number)}", "preprocessing.size=64,64")
    wanted = setup.Setup(
        recipe="patchcore", backbone="efficientnet-lite0", scorer="dies", options=options, device="cpu"
    )
    asked = pair.Pair(wanted, setup.Blocked(), "patchcore", load_category(dataset), tmp_path, "skip")
    with pytest.raises(PatchcoreError, match=reason):
        pair.measure(asked, lambda stage, done, total: None)
    # What is not foreseen is a bug, and its traceback is wanted.
    assert ("for anything" in capfd.readouterr().err) == (number == 0)


def test_the_benchmark_of_the_family_fits_all_recipes() -> None:
    host, names = Host(), Recipe.names()
    words = arguments(names, seed=3)
    options = [value for key, value in itertools.pairwise(words) if key == "--set"]
    assert {value for key, value in itertools.pairwise(words) if key == "--recipe"} == set(names)
    for name, own in setup.options_by_recipe(options, names).items():
        recipe = setup.Setup(recipe=name, backbone=BACKBONE, options=own, seed=3).load().resolved(host, 3).to_dict()
        members = recipe.get("members", [recipe])
        assert all(member["backbone"]["name"].startswith("efficientnet-lite") for member in members)
        # An ensemble of one network three times would be none.
        assert len({member["backbone"]["name"] for member in members}) == len(members)


def test_a_comparison_of_nothing() -> None:
    assert Comparison([], []).to_json() == {"categories": [], "setup": {}, "recipes": {}, "published": []}
