"""`patchcore evaluate` with several recipes: the comparison, and resuming it after a kill."""

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
from patchcore_plugin.cli.options import DetectorOptions
from patchcore_plugin.cli.parsing import group_by_recipe
from patchcore_plugin.evaluation.cache import RECORD
from patchcore_plugin.evaluation.results import COMPARISON_METRICS
from patchcore_plugin.models.recipes import Recipe
from patchcore_plugin.plugins.manager import Host
from tests.commands import CommandResult, json_lines, patchcore, process, run_failing

pytestmark = pytest.mark.slow

OPTIONS = (
    *("--backbone", "efficientnet-lite0", "--device", "cpu", "--set", "preprocessing.size=64,64"),
    *("--set", "few:sampler.ratio=0.02", "--published"),
)
UNKNOWN = "[backbone]\nname = 'resnet18'\n[aggregator]\nname = 'average-pool'\n[sampler]\nname = 'all'\n"

Command = Callable[[Path], list[object]]


@pytest.fixture(scope="module")
def command(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A comparison of two recipes and of one whose scorer is not installed."""
    folder = tmp_path_factory.mktemp("recipes")
    shipped = Path(cli.__file__).parents[1] / "models" / "recipes" / "patchcore-1.toml"
    (folder / "few.toml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "absent.toml").write_text(UNKNOWN + "[scorer]\nname = 'nowhere'\n", encoding="utf-8")
    recipes = ("--recipe", "patchcore", "--recipe", folder / "absent.toml", "--recipe", folder / "few.toml")
    return lambda out: ["evaluate", dataset, "--out", out, *recipes, *OPTIONS]


@pytest.fixture(scope="module")
def compared(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, patchcore(*command(out))


def figures(out: Path) -> dict[str, Any]:
    """Return the comparison without times and memory."""
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    for recipe in content["recipes"].values():
        for metrics in (recipe["mean"], *recipe["categories"].values()):
            for key in ("fit_seconds_per_image", "predict_seconds_per_image", "peak_memory_bytes"):
                metrics.pop(key)
    return dict(content)


def test_comparison(compared: tuple[Path, CommandResult]) -> None:
    out, ended = compared
    assert ended.code == 1
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert list(content["recipes"]) == ["patchcore", "absent", "few"]
    all_, few = (content["recipes"][name]["categories"]["washer"] for name in ("patchcore", "few"))
    assert tuple(all_) == COMPARISON_METRICS
    # 64 patches of each of 10 images.
    assert (all_["bank_rows"], few["bank_rows"]) == (64, 13)
    for metrics in (all_, few):
        assert metrics["image_auroc"] == 1.0
        assert 0.9 < metrics["pixel_auroc"] <= 1
        assert 100 << 20 < metrics["peak_memory_bytes"] < 8 << 30
        assert metrics["peak_gpu_memory_bytes"] is None
        assert metrics["predict_seconds_per_image"] > 0
        assert metrics["fit_seconds_per_image"] > 0
    reason = content["recipes"]["absent"]["failed"]["washer"]
    assert reason.startswith("unknown scorer 'nowhere'")
    assert f"recipe absent: {reason}" in ended.err
    assert re.search(r"^washer +few +1\.0000 .* 13 *$", ended.out, re.MULTILINE)
    assert re.search(r"^washer +absent +failed ", ended.out, re.MULTILINE)
    assert f"recipe absent: {reason}\n" in ended.out
    assert re.search(r"^PaDiM +0\.953 .*arXiv 2011\.08785", ended.out, re.MULTILINE)
    for name in ("patchcore", "few"):
        metrics = json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["categories"]["washer"]["aupro"] == content["recipes"][name]["categories"]["washer"]["aupro"]
        assert (out / name / "report.html").is_file()
        assert len(json_lines(out / name / "washer" / "results.jsonl")) == 6
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="few/report.html"' in page


@pytest.mark.e2e
def test_killed_comparison_resumes_with_the_same_results(
    command: Command, compared: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # The first recipe is finished. Stored results may be copied with their folder.
    shutil.copytree(compared[0] / "patchcore", out / "patchcore")
    killed = subprocess.Popen(process(*command(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.startswith("few, washer"):
            break
    killed.kill()
    killed.wait()
    # The child process holds the other end of the pipe, too. It must exit by itself before it finishes.
    rest = killed.stderr.read()
    killed.stderr.close()
    assert "few, washer: predict: 6/6" not in rest
    assert (out / "patchcore" / "washer" / RECORD).is_file()
    assert not (out / "few" / "washer" / RECORD).exists()
    ended = patchcore(*command(out))
    assert ended.code == 1
    assert "patchcore, washer: predict" not in ended.err
    assert "few, washer: predict: 6/6" in ended.err
    assert figures(out) == figures(compared[0])


def test_invalid_comparison_fails_before_the_work(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "patchcore.toml").write_text("summary = ''\n" + UNKNOWN + "[scorer]\nname = 'knn'\n", encoding="utf-8")

    def refuse(*arguments: object) -> str:
        message = run_failing("evaluate", dataset, "--out", tmp_path / "out", *arguments)
        assert not (tmp_path / "out").exists()
        return message

    two = ("--recipe", "patchcore", "--recipe", "patchcore-1")
    file = tmp_path / "patchcore.toml"
    assert refuse("--recipe", "patchcore", "--recipe", file).startswith(f"--recipe patchcore and --recipe {file} ")
    message = refuse(*two, "--set", "sampler.ration=1")
    assert message.startswith("recipe 'patchcore': ")
    assert message.endswith("--set RECIPE:ROLE.OPTION=VALUE")
    assert refuse(*two, "--set", "padim:map.sigma=1").startswith("--set padim:map.sigma=1: ")
    # No recipe can run with a misspelt backbone.
    assert refuse(*two, "--backbone", "resnet").startswith("unknown backbone 'resnet'")
    ended = patchcore("evaluate", dataset, "--out", tmp_path / "out", "--published")
    assert ended.code == 2
    assert "--recipe" in ended.err


def test_family_benchmark_covers_all_recipes() -> None:
    host, names = Host(), Recipe.names()
    words = arguments(names, seed=3)
    options = [value for key, value in itertools.pairwise(words) if key == "--set"]
    assert {value for key, value in itertools.pairwise(words) if key == "--recipe"} == set(names)
    for name, group in group_by_recipe(options, names).items():
        setup = DetectorOptions(recipe=name, backbone=BACKBONE, options=group, seed=3)
        recipe = setup.load_recipe().resolve(host, 3).to_dict()
        members = recipe.get("members", [recipe])
        assert all(member["backbone"]["name"].startswith("efficientnet-lite") for member in members)
        # An ensemble needs different networks.
        assert len({member["backbone"]["name"] for member in members}) == len(members)
