"""`patchcore fit`: the model file, what is said about it, and what happens when it is broken off."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp
from tests.commands import SMALL, Ended, corrupt, done, failure, loaded, patchcore


def test_fit_says_what_it_did(fitted_washer: tuple[Path, Ended]) -> None:
    model, ended = fitted_washer
    judged = "scores of 10 good images, each judged by a bank of the others"
    assert model.is_file()
    assert re.fullmatch(
        rf"""model      {re.escape(str(model))}
images     10, in \d+\.\d s
bank       32 of 640 patches, covering radius \d+\.\d{{4}}
smaller    covering radius by bank rows, for --set sampler.radius=\.\.\.(  \d+: \d+\.\d{{3}})+
threshold  \d+\.\d{{4}} \(at most 9\.09% false alarms; {judged} \(5 folds\)\)
highest    (\S+\.png \(\d+\.\d{{4}}\)(, )?){{3}}: if one of these good images shows a defect, remove it and fit again
next       patchcore predict {re.escape(str(model))} IMAGES --out results
""",
        ended.out,
    )
    assert "reading images: 10/10\n" in ended.err
    assert re.search(
        r"^10 images make [\d,]+ patches of [\d,]+ values: at most [\d.e-]+ GB of memory; ", ended.err, re.M
    )
    assert "patchcore:" not in ended.err
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_a_defect_among_the_good_images_is_named_first(dataset: Path, good: Path, tmp_path: Path) -> None:
    defect = next((dataset / "test" / "blot").iterdir())
    summary = loaded("fit", good, defect, "--out", tmp_path / "m.safetensors", *SMALL)
    scores = [each["score"] for each in summary["highest"]]
    assert summary["highest"][0]["path"] == str(defect)
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3
    # Which is why it is told: the model knows the defect now, and passes it.
    (found,) = pp.Detector.load(tmp_path / "m.safetensors", device="cpu").predict([defect])
    assert found.score < min(scores)


def test_the_command_to_go_on_with_can_be_copied(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "my part.safetensors"
    (line,) = (line for line in done("fit", good, "--out", out, *SMALL).out.splitlines() if line.startswith("next"))
    assert shlex.split(line)[1:] == ["patchcore", "predict", str(out), "IMAGES", "--out", "results"]


def test_fit_as_json_with_an_unreadable_image_skipped(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    ended = patchcore("fit", bad, good, "--out", out, "--on-error", "skip", "--json", *SMALL)
    assert ended.code == 1
    summary = json.loads(ended.out)
    assert list(summary) == [
        "model",
        "images",
        "skipped",
        "bank_rows",
        "patches_seen",
        "covering_radius",
        "radius_is_exact",
        "radius_curve",
        "threshold",
        "threshold_source",
        "map_threshold",
        "false_alarm_rate",
        "highest",
        "seconds",
    ]
    (reason,) = summary["skipped"]
    assert reason.startswith(f"{bad}: not a readable image (")
    assert reason.endswith("); replace or remove it")
    assert (summary["model"], summary["images"]) == (str(out), 10)
    assert (summary["bank_rows"], summary["patches_seen"]) == (32, 640)
    assert ended.err.endswith(f"patchcore: {reason}\npatchcore: 1 of 11 images were skipped; all others are done\n")
    detector = pp.Detector.load(out, device="cpu")
    assert detector.threshold == summary["threshold"]
    assert detector.covering_radius == summary["covering_radius"]


def test_fit_stops_at_an_unreadable_image(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    for position in ([bad, good], [good, bad]):
        said = failure("fit", *position, "--out", out, *SMALL)
        assert said.startswith(f"{bad}: not a readable image (")
        assert said.endswith("); replace or remove it, or pass --on-error skip")
    assert not out.exists()


def test_fit_of_nothing_but_unreadable_images(tmp_path: Path) -> None:
    bad = corrupt(tmp_path / "bad.png")
    ended = patchcore("fit", bad, "--out", tmp_path / "m", "--on-error", "skip", *SMALL)
    assert ended.code == 1
    assert ended.err.endswith("patchcore: no image to fit on; give at least one readable image of a good part\n")
    assert not (tmp_path / "m").exists()


def test_one_seed_gives_one_model(good: Path, tmp_path: Path) -> None:
    images = sorted(good.iterdir())[:3]
    files = [tmp_path / name for name in "abc"]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        done("fit", *images, "--out", file, "--seed", seed, *SMALL)
    first, again, other = files
    assert first.read_bytes() == again.read_bytes()
    banks = [pp.Detector.load(file, device="cpu").bank.origin for file in (first, other)]
    assert not torch.equal(*banks)


def test_options_reach_the_model(good: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "m"
    shown = done("recipes", "show", "patchcore-1").out
    own.write_text(shown, encoding="utf-8")
    images = sorted(good.iterdir())[:2]
    choices = ["--sampler", "random", "--set", "sampler.count=7", "--set", "map.sigma=1"]
    layers = ["--backbone", "efficientnet-lite0", "--set", "backbone.layers=stage3,", "--device", "cpu"]
    done("fit", *images, "--out", out, "--recipe", own, "--set", "preprocessing.size=64,48", *choices, *layers)
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

    def half_a_file(tensors, path, metadata):
        whole(tensors, path, metadata=metadata)
        Path(path).write_bytes(Path(path).read_bytes()[:2000])
        die()

    when = sys.argv.pop(1)
    if when == "while fitting":
        Reporter.__call__ = lambda self, stage, done, total: die()
    elif when == "before renaming":
        Path.replace = os.replace = lambda *arguments: die()
    else:
        whole, model_file.save_file = model_file.save_file, half_a_file
    main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system does not kill in that way")
@pytest.mark.parametrize("when", ["while fitting", "while writing", "before renaming"])
def test_a_killed_fit_leaves_the_old_model_whole(when: str, good: Path, washer_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.safetensors"
    before = washer_model.read_bytes()
    out.write_bytes(before)
    images = sorted(good.iterdir())[:2]
    arguments = ["fit", *images, "--out", out, *SMALL]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), when, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert out.read_bytes() == before
    assert pp.Detector.load(out, device="cpu").threshold is not None
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == [out]

    done(*arguments)
    assert out.read_bytes() != before
