"""`patchcore evaluate` of several recipes: their comparison, also after it was killed."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.family import BACKBONE, arguments
from patchcore_plugin import cli
from patchcore_plugin.cli import setup
from patchcore_plugin.evaluation.cache import RECORD
from patchcore_plugin.evaluation.results import COMPARISON_METRICS
from patchcore_plugin.models.recipes.recipe import Recipe
from patchcore_plugin.plugins.manager import Host
from tests.commands import Ended, failure, json_lines, patchcore, process

OPTIONS = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu", "--set", "preprocessing.size=64,64"),
    *("--set", "few:sampler.ratio=0.02", "--published"),
)
UNKNOWN = "[backbone]\nname = 'resnet18'\n[aggregator]\nname = 'average-pool'\n[sampler]\nname = 'all'\n"

Command = Callable[[Path], list[object]]


@pytest.fixture(scope="module")
def command(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A comparison of two recipes and one whose scorer is not installed."""
    folder = tmp_path_factory.mktemp("recipes")
    shipped = Path(cli.__file__).parents[1] / "models" / "recipes" / "patchcore-1.toml"
    (folder / "few.toml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "absent.toml").write_text(UNKNOWN + "[scorer]\nname = 'nowhere'\n", encoding="utf-8")
    recipes = ("--recipe", "patchcore", "--recipe", folder / "absent.toml", "--recipe", folder / "few.toml")
    return lambda out: ["evaluate", dataset, "--out", out, *recipes, *OPTIONS]


@pytest.fixture(scope="module")
def compared(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, patchcore(*command(out))


def figures(out: Path) -> dict[str, Any]:
    """All that must not depend on when it was measured."""
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    for recipe in content["recipes"].values():
        for each in (recipe["mean"], *recipe["categories"].values()):
            for key in ("fit_seconds_per_image", "predict_seconds_per_image", "peak_memory_bytes"):
                each.pop(key)
    return dict(content)


def test_the_command_compares(compared: tuple[Path, Ended]) -> None:
    out, ended = compared
    assert ended.code == 1
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert list(content["recipes"]) == ["patchcore", "absent", "few"]
    all_, few = (content["recipes"][name]["categories"]["washer"] for name in ("patchcore", "few"))
    assert tuple(all_) == COMPARISON_METRICS
    # 64 patches of each of 10 images.
    assert (all_["bank_rows"], few["bank_rows"]) == (64, 13)
    for each in (all_, few):
        assert each["image_auroc"] == 1.0
        assert 0.9 < each["pixel_auroc"] <= 1
        assert 100 << 20 < each["peak_memory_bytes"] < 8 << 30
        assert each["peak_gpu_memory_bytes"] is None
        assert each["predict_seconds_per_image"] > 0
        assert each["fit_seconds_per_image"] > 0
    reason = content["recipes"]["absent"]["failed"]["washer"]
    assert reason.startswith("unknown scorer 'nowhere'; available: ")
    assert ended.err.splitlines()[-2:] == [
        f"patchcore: recipe absent: {reason}",
        "patchcore: some recipes failed; all others are done",
    ]
    assert re.search(r"^washer +few +1\.0000 .* 13 *$", ended.out, re.MULTILINE)
    assert re.search(r"^washer +absent +failed ", ended.out, re.MULTILINE)
    assert f"failed   recipe absent: {reason}\n" in ended.out
    assert "15 categories" in ended.out
    assert re.search(r"^PaDiM +0\.953 +0\.975 +0\.921 +arXiv 2011\.08785", ended.out, re.MULTILINE)
    for name in ("patchcore", "few"):
        alone = json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
        assert alone["categories"]["washer"]["aupro"] == content["recipes"][name]["categories"]["washer"]["aupro"]
        assert (out / name / "report.html").is_file()
        assert len(json_lines(out / name / "washer" / "results.jsonl")) == 6
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="few/report.html"' in page


def test_a_killed_run_goes_on_and_finds_the_same(
    command: Command, compared: tuple[Path, Ended], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # The first recipe is finished: results may be taken elsewhere with their folder.
    shutil.copytree(compared[0] / "patchcore", out / "patchcore")
    killed = subprocess.Popen(process(*command(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
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
    assert (out / "patchcore" / "washer" / RECORD).is_file()
    assert not (out / "few" / "washer" / RECORD).exists()
    ended = patchcore(*command(out))
    assert ended.code == 1
    assert "patchcore, washer: reused" in ended.err
    assert "patchcore, washer: predict" not in ended.err
    assert "few, washer: predict: 6/6" in ended.err
    assert figures(out) == figures(compared[0])


def test_what_is_wrong_is_told_before_the_work(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "patchcore.toml").write_text("summary = ''\n" + UNKNOWN + "[scorer]\nname = 'knn'\n", encoding="utf-8")

    def told(*arguments: object) -> str:
        said = failure("evaluate", dataset, "--out", tmp_path / "out", *arguments)
        assert not (tmp_path / "out").exists()
        return said

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
    ended = patchcore("evaluate", dataset, "--out", tmp_path / "out", "--published")
    assert ended.code == 2
    assert "belong to a comparison" in " ".join(ended.err.split())


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
