"""`patchcore fit`: the model file, the summary, and fits that are interrupted."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp
from tests.commands import SMALL, CommandResult, corrupt, patchcore, run_command, run_failing, run_json


def test_summary_and_progress(fitted_washer: tuple[Path, CommandResult]) -> None:
    model, ended = fitted_washer
    assert model.is_file()
    assert "32 of 640 patches" in ended.out
    assert "reading images: 10/10\n" in ended.err
    assert "patchcore:" not in ended.err
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_defect_among_the_training_images_has_the_highest_score(dataset: Path, good: Path, tmp_path: Path) -> None:
    defect = next((dataset / "test" / "blot").iterdir())
    summary = run_json("fit", good, defect, "--out", tmp_path / "m.safetensors", *SMALL)
    scores = [image["score"] for image in summary["highest_scores"]]
    assert summary["highest_scores"][0]["path"] == str(defect)
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3
    # The model was fitted on the defect and now scores it low, so only the held-out score reveals it.
    (prediction,) = pp.Detector.load(tmp_path / "m.safetensors", device="cpu").predict([defect])
    assert prediction.score < min(scores)


def test_next_command_can_be_copied(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "my part.safetensors"
    (line,) = (
        line for line in run_command("fit", good, "--out", out, *SMALL).out.splitlines() if line.startswith("next")
    )
    assert shlex.split(line)[1:] == ["patchcore", "predict", str(out), "IMAGES", "--out", "results"]


def test_json_summary_with_an_unreadable_image_skipped(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    ended = patchcore("fit", bad, good, "--out", out, "--on-error", "skip", "--json", *SMALL)
    assert ended.code == 1
    summary = json.loads(ended.out)
    assert list(summary) == [
        *("model", "images", "skipped", "bank_rows", "patches_seen", "covering_radius", "radius_is_exact"),
        *("radius_curve", "threshold", "threshold_source", "map_threshold", "false_alarm_rate", "highest_scores"),
        "seconds",
    ]
    (reason,) = summary["skipped"]
    assert reason.startswith(f"{bad}: ")
    assert "--on-error" not in reason
    assert (summary["model"], summary["images"]) == (str(out), 10)
    assert (summary["bank_rows"], summary["patches_seen"]) == (32, 640)
    *_, first, last = ended.err.splitlines()
    assert first == f"patchcore: {reason}"
    assert "1 of 11 images" in last
    detector = pp.Detector.load(out, device="cpu")
    assert detector.threshold == summary["threshold"]
    assert detector.covering_radius == summary["covering_radius"]


def test_unreadable_image_stops_the_fit(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    for paths in ([bad, good], [good, bad]):
        message = run_failing("fit", *paths, "--out", out, *SMALL)
        assert message.startswith(f"{bad}: ")
        assert message.endswith("--on-error skip")
    assert not out.exists()


def test_only_unreadable_images(tmp_path: Path) -> None:
    bad = corrupt(tmp_path / "bad.png")
    ended = patchcore("fit", bad, "--out", tmp_path / "m", "--on-error", "skip", *SMALL)
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("patchcore: no ")
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_same_seed_gives_the_same_file(good: Path, tmp_path: Path) -> None:
    images = sorted(good.iterdir())[:3]
    files = [tmp_path / name for name in "abc"]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        run_command("fit", *images, "--out", file, "--seed", seed, *SMALL)
    first, repeated, other = files
    assert first.read_bytes() == repeated.read_bytes()
    banks = [pp.Detector.load(file, device="cpu").bank.origin for file in (first, other)]
    assert not torch.equal(*banks)


def test_options_reach_the_model(good: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "own.toml", tmp_path / "m"
    recipe.write_text(run_command("recipes", "show", "patchcore-1").out, encoding="utf-8")
    images = sorted(good.iterdir())[:2]
    choices = ["--sampler", "random", "--set", "sampler.count=7", "--set", "map.sigma=1"]
    layers = ["--backbone", "efficientnet-lite0", "--set", "backbone.layers=stage3,", "--device", "cpu"]
    run_command(
        "fit", *images, "--out", out, "--recipe", recipe, "--set", "preprocessing.size=64,48", *choices, *layers
    )
    detector = pp.Detector.load(out, device="cpu")
    assert detector.recipe.name == "own"
    assert detector.recipe.sampler.name == "random"
    assert detector.recipe.preprocessing.size == (64, 48)
    assert detector.recipe.map.sigma == 1
    assert detector.bank.vectors.shape == (7, 40)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import patchcore_plugin.models.file as model_file
    from patchcore_plugin.cli import main
    from patchcore_plugin.cli.console import Reporter

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def write_half(tensors, path, metadata):
        save_file(tensors, path, metadata=metadata)
        Path(path).write_bytes(Path(path).read_bytes()[:2000])
        die()

    when = sys.argv.pop(1)
    if when == "while fitting":
        Reporter.__call__ = lambda self, stage, done, total: die()
    elif when == "before renaming":
        Path.replace = os.replace = lambda *arguments: die()
    else:
        save_file, model_file.save_file = model_file.save_file, write_half
    main()
"""


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("when", ["while fitting", "while writing", "before renaming"])
def test_killed_fit_leaves_the_old_model_intact(when: str, good: Path, washer_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.safetensors"
    before = washer_model.read_bytes()
    out.write_bytes(before)
    images = sorted(good.iterdir())[:2]
    arguments = ["fit", *images, "--out", out, *SMALL]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), when, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert out.read_bytes() == before
    assert pp.Detector.load(out, device="cpu").threshold is not None
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == [out]

    run_command(*arguments)
    assert out.read_bytes() != before
