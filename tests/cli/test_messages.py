"""The most important messages and summaries of the commands, word by word; other tests check key facts only."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import patchcore_plugin as pp
from patchcore_plugin.cli import command_line
from patchcore_plugin.cli.isolation import _describe_exit
from patchcore_plugin.cli.options import require_writable
from patchcore_plugin.cli.parsing import group_by_recipe, parse_option, parse_size
from tests.commands import SMALL, CommandResult, corrupt, patchcore, run_command, run_failing

CPU = ("--device", "cpu")


def mask(text: str) -> str:
    """Replace decimals, which differ between machines, and spaces at the ends of lines."""
    return re.sub(r" +$", "", re.sub(r"\d+\.\d+", "#", text), flags=re.MULTILINE)


def describe_calibration(model: Path) -> str:
    return mask(pp.Detector.load(model, device="cpu").calibration.describe())


@pytest.fixture
def model(washer_model: Path, tmp_path: Path) -> Path:
    """A copy of the fitted model."""
    return Path(shutil.copy(washer_model, tmp_path / "part.safetensors"))


# Summaries


def test_fit(fitted_washer: tuple[Path, CommandResult], good: Path) -> None:
    model, ended = fitted_washer
    summary = re.sub(r"(  \d+: #)+$", "  #", mask(ended.out), flags=re.MULTILINE)
    assert re.sub(r"(, )?\S+\d{3}\.png \(#\)", "*", summary) == (
        f"model      {model}\n"
        "images     10, in # s\n"
        "bank       32 of 640 patches, covering radius #\n"
        "curve      covering radius by bank rows, for --set sampler.radius=RADIUS:  #\n"
        f"threshold  # ({describe_calibration(model)})\n"
        "highest    ***: if one of these images shows a defect, remove it and fit again\n"
        f"next       patchcore predict {model} IMAGES --out results\n"
    )


def test_predict(model: Path, dataset: Path, tmp_path: Path) -> None:
    image, out = dataset / "test" / "blot" / "000.png", tmp_path / "out"
    table, rest = mask(run_command("predict", model, image, "--out", out, *CPU).out).split("\nscored")
    assert re.sub(" +", " ", table) == f"verdict score p-value image\ndefect # # {image}"
    assert rest == (
        "     1 image, 1 defective\n"
        f"threshold  # ({describe_calibration(model)})\n"
        "colours    # to # in all heat maps\n"
        f"written    {out}/results.jsonl, {out}/heat_maps, {out}/overlays, {out}/why\n"
    )


def test_calibrate(model: Path, dataset: Path) -> None:
    others, blots = dataset / "test" / "good", dataset / "test" / "blot"
    ended = run_command("calibrate", model, others, "--defective", blots, "--false-alarm-rate", 0.5, *CPU)
    assert re.sub(r"\d of 3", "N of 3", mask(ended.out)) == (
        f"model      {model}\n"
        f"threshold  # ({describe_calibration(model)}), previously #\n"
        "map        regions are above #\n"
        "good       N of 3 images score above the previous threshold\n"
        "defective  N of 3 images score above the threshold\n"
    )


def test_update(model: Path, dataset: Path) -> None:
    images = sorted((dataset / "test" / "good").iterdir()) + sorted((dataset / "train" / "good").iterdir())[:2]
    summary = mask(run_command("update", model, *images, *CPU).out)
    assert re.sub(r"after +\d+", "after      N", re.sub(r"\d of 3", "N of 3", summary)).rpartition("highest")[0] == (
        f"model      {model}\n"
        "images     3 added in # s; 2 already in the model\n"
        "before     32 of 640 patches, covering radius #\n"
        "after      N of 832 patches, covering radius at most #\n"
        f"threshold  # ({describe_calibration(model)}), previously #\n"
        "new        N of 3 images score above the previous threshold\n"
    )


def test_watch(model: Path, dataset: Path, folder: Path, out: Path) -> None:
    shutil.copy(dataset / "test" / "blot" / "000.png", folder)
    ended = run_command("watch", model, folder, "--out", out, "--every", 0.01, "--until-idle", 0, *CPU)
    assert re.sub(" +", " ", mask(ended.out)) == (
        "verdict score p-value latency image\n"
        "defect # # # s 000.png\n"
        "1 image: 1 defective, 0 unreadable; latency # s (median), # s (maximum)\n"
    )


def test_evaluate(dataset: Path, tmp_path: Path) -> None:
    heading, _, *rest = run_command("evaluate", dataset, "--out", tmp_path, *SMALL).out.splitlines()
    assert re.sub(" +", " ", heading).strip() == (
        "category image AUROC AP F1-max pixel AUROC AUPRO false alarms detected fit s s/image bank radius"
    )
    assert rest == [
        "false alarms, detected: share of good and of defective test images above the model's threshold",
        f"written  {tmp_path}/metrics.json, {tmp_path}/report.html",
    ]


def test_plugins_check() -> None:
    ended = run_command("--no-plugins", "plugins", "check", "average-pool")
    assert re.sub(r"\d+", "N", ended.out) == (
        "N plugins loaded, N components\n"
        "N checks passed, N failed, N component checked\n"
        "created and called: aggregator average-pool\n"
    )


def test_recipes_show() -> None:
    assert run_command("recipes", "show", "patchcore-paper").out.splitlines()[1] == (
        "# Only the central 224 x 224 pixels of the resized image are inspected: "
        "defects in the border are NOT detected."
    )


# Failures


def test_skipped_images(good: Path, tmp_path: Path) -> None:
    bad, out = corrupt(tmp_path / "bad.png"), tmp_path / "m.safetensors"
    ended = patchcore("fit", bad, *sorted(good.iterdir())[:2], "--out", out, "--on-error", "skip", *SMALL)
    assert ended.err.splitlines()[-1] == "patchcore: skipped 1 of 3 images; the rest were processed"


def test_operating_system_errors(good: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run_failing("fit", good, "--out", file / "m.safetensors", *SMALL) == (
        f"{file}: {os.strerror(errno.EEXIST)}; check the path, its permissions and the free space"
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda: parse_option("ratio=0.1"),
            "--set ratio=0.1: expected ROLE.OPTION=VALUE, such as sampler.ratio=0.01",
        ),
        (
            lambda: group_by_recipe(["c:map.sigma=2"], ["a", "b"]),
            "--set c:map.sigma=2: recipe 'c' is not evaluated; choose from: a, b",
        ),
        (lambda: parse_size("2"), "invalid size '2'; pass a number with MB, MiB, GB or GiB, such as 2GB"),
        (
            lambda: require_writable(Path("/")),
            "/: is a folder; pass a file name to --out, such as /model.safetensors",
        ),
    ],
)
def test_invalid_values(function: Callable[[], Any], message: str) -> None:
    with pytest.raises((pp.PatchcoreError, typer.BadParameter)) as error:
        function()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "m", "--cost", "2"], "--cost requires --criterion cost; pass both or neither"),
        (
            ["evaluate", "data", "--out", "x", "--fresh"],
            "--published and --fresh require a comparison; pass --recipe at least twice",
        ),
        (["export-backbone", "--out", "x", "--size", "256"], "expected HEIGHT,WIDTH, such as 256,256, got 256"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ended = patchcore(*arguments)
    assert ended.code == 2
    assert message in ended.err


def test_unknown_names(dataset: Path, tmp_path: Path) -> None:
    message = run_failing("--no-plugins", "plugins", "show", "average-pol")
    assert message.startswith(
        "unknown component 'average-pol'; did you mean 'average-pool'? available: all, average-pool,"
    )
    message = run_failing("evaluate", dataset, "--out", tmp_path / "r", "--category", "bolt", *SMALL)
    assert message == "unknown category 'bolt'; the data set contains: washer"


def test_isolated_process_dies() -> None:
    assert _describe_exit(-9) == (
        "the process was killed, probably because memory ran out; "
        "use fewer images, lower preprocessing.size, or choose a backbone with fewer channels"
    )
    assert _describe_exit(3) == ("the process exited with code 3; run this --recipe and --category alone to see why")


# Help


@pytest.mark.parametrize(
    ("command", "option", "text"),
    [
        (
            "fit",
            "--false-alarm-rate",
            "Target false-alarm rate on good images. "
            "[default: (0.01, or the lowest that the number of images supports)]",
        ),
        ("fit", "--seed", "Random seed. [default: 0]"),
        ("predict", "--frame-step", "Process every Nth frame of a video. [default: 1]"),
    ],
)
def test_help_of_options(command: str, option: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    line = next(line for line in run_command(command, "--help").out.splitlines() if f" {option} " in line)
    assert text in re.sub(" +", " ", line)


def test_help_of_commands() -> None:
    commands: dict[str, Any] = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    assert {name: commands[name].help.partition("\n")[0] for name in ("fit", "calibrate", "update", "predict")} == {
        "fit": "Fit a model on images of good parts.",
        "calibrate": "Choose a new threshold for a model, without fitting it again.",
        "update": "Add good images to a model without fitting it again.",
        "predict": "Score images, and draw heat maps of their defects.",
    }
