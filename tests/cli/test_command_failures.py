"""Failures of commands: told in one line that says what to do, and nothing is left on disk."""

from __future__ import annotations

import errno
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.specs import ROLES
from tests.commands import SMALL, failure


def test_an_empty_folder(tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "m.safetensors"
    empty.mkdir()
    suffixes = ".bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp"
    message = f"{empty}: no images in this folder ({suffixes})"
    assert failure("fit", empty, "--out", out) == message
    assert failure("predict", out, empty, "--out", tmp_path / "r") == message
    assert "not a data set in a supported layout" in failure("evaluate", empty, "--out", tmp_path / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert failure("fit", nowhere, "--out", tmp_path / "m") == f"{nowhere}: no such file or folder; check the path"
    assert failure("evaluate", nowhere, "--out", tmp_path / "r") == f"{nowhere}: no such file or folder; check the path"


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_an_unknown_component(command: str, dataset: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        return failure(command, dataset, "--out", tmp_path / "out", *arguments)

    backbones, aggregators, samplers, scorers = (", ".join(pp.Host().names(role)) for role in ROLES)
    assert said("--backbone", "resnet19") == (
        f"unknown backbone 'resnet19'; did you mean 'resnet18'? available: {backbones}"
    )
    assert said("--sampler", "zzz") == f"unknown sampler 'zzz'; available: {samplers}"
    assert said("--aggregator", "x") == f"unknown aggregator 'x'; available: {aggregators}"
    assert said("--scorer", "x") == f"unknown scorer 'x'; available: {scorers}"
    assert said("--recipe", "x") == (
        f"unknown recipe 'x'; available: {', '.join(pp.Recipe.names())}, or the path of a .toml file"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "sampler.ratoi=0.1",
            "sampler 'greedy-coreset': unknown option 'ratoi'; did you mean 'ratio'? "
            "its options are: ratio, count, radius, projection_dim, seed",
        ),
        ("sampler.ratio=2", "sampler 'greedy-coreset': option 'ratio' must be less than or equal to 1, got 2"),
        ("sampler.ratio=none", "sampler 'greedy-coreset': option 'ratio' must be a valid number, got None"),
        ("aggregator.patch_size=4", "aggregator 'average-pool': patch_size must be odd, got 4"),
        (
            "smapler.ratio=0.1",
            "unknown part 'smapler' of a recipe; it has: backbone, aggregator, sampler, scorer, preprocessing, map",
        ),
        ("map.sigma=-1", "map: option 'sigma' must be greater than or equal to 0, got -1"),
        ("sampler.name=5", "sampler: its name must be text, got 5"),
        ("ratio=0.1", "--set ratio=0.1: expected PART.OPTION=VALUE, such as sampler.ratio=0.01"),
        ("sampler.ratio", "--set sampler.ratio: expected PART.OPTION=VALUE, such as sampler.ratio=0.01"),
        (
            "backbone.layers=stage9,",
            "backbone efficientnet-lite0: layers has no 'stage9' (did you mean 'stage7'?); "
            "choose from stage1, stage2, stage3, stage4, stage5, stage6, stage7",
        ),
    ],
)
def test_a_misspelt_option(option: str, message: str, good: Path, tmp_path: Path) -> None:
    said = failure("fit", good, "--out", tmp_path / "m", "--backbone", "efficientnet-lite0", "--set", option)
    assert said == message
    assert list(tmp_path.iterdir()) == []


def test_missing_weights(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert failure("fit", good, "--out", tmp_path / "m", "--device", "cpu") == (
        "backbone wide_resnet50: the ImageNet weights are not on this computer and cannot be downloaded (no network): "
        "connect to the network once so that torchvision downloads them, "
        "or give a weights file with backbone.weights=PATH, "
        "or choose a backbone whose weights come with its package, "
        "such as efficientnet-lite0 from patchcore-efficientnet-lite"
    )
    missing = tmp_path / "none.pth"
    weights = failure("fit", good, "--out", tmp_path / "m", "--set", f"backbone.weights={missing}")
    assert weights == (
        f"backbone wide_resnet50: weights: no file {missing}; "
        "give imagenet, random, or the path of a .pth or .safetensors file"
    )


def test_a_model_file_that_is_missing_or_damaged(good: Path, washer_model: Path, tmp_path: Path) -> None:
    missing, cut = tmp_path / "none.safetensors", tmp_path / "cut.safetensors"
    said = failure("predict", missing, good, "--out", tmp_path / "r")
    assert said == f"{missing}: no such model file; make one with: patchcore fit IMAGES --out {missing}"
    cut.write_bytes(washer_model.read_bytes()[:-1])
    said = failure("predict", cut, good, "--out", tmp_path / "r")
    assert re.fullmatch(rf"{re.escape(str(cut))}: damaged \(.+\); copy it again from its source, or fit again", said)
    assert not (tmp_path / "r").exists()


def test_a_model_whose_plugin_is_not_installed(good: Path, washer_model: Path, tmp_path: Path) -> None:
    said = failure("--no-plugins", "predict", washer_model, good, "--out", tmp_path / "r")
    assert said == (
        f"{washer_model}: needs backbone 'efficientnet-lite0', which is not available here; "
        "pip install --upgrade patchcore-efficientnet-lite (details: patchcore plugins list)"
    )


def test_an_output_that_cannot_be_written(good: Path, washer_model: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    advice = "check the path, its permissions and the free space"
    said = failure("fit", good, "--out", file / "sub" / "m.safetensors", *SMALL)
    assert said == f"{file / 'sub'}: {os.strerror(errno.ENOTDIR)}; {advice}"
    said = failure("fit", good, "--out", file / "m.safetensors", *SMALL)
    assert said == f"{file}: {os.strerror(errno.EEXIST)}; {advice}"
    said = failure("fit", good, "--out", folder, *SMALL)
    assert said == f"{folder}: is a folder; give --out a file in it, such as {folder / 'model.safetensors'}"
    said = failure("predict", washer_model, good, "--out", file)
    assert said == f"{file}: {os.strerror(errno.EEXIST)}; {advice}"
    assert file.read_text() == "mine"


def test_a_folder_without_permission_is_told_before_the_work(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    said = failure("fit", good, "--out", tmp_path / "m.safetensors", *SMALL)
    assert said == f"{tmp_path / 'm.safetensors'}: its folder cannot be written to; choose another --out"


def test_images_that_may_not_be_read(
    good: Path, washer_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a failure like any other, and not wrong usage."""
    closed = tmp_path / "image.png"
    closed.write_bytes((good / "000.png").read_bytes())
    access, read_bytes = os.access, Path.read_bytes

    def closed_to_all(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(closed) and access(path, mode))
    monkeypatch.setattr(Path, "read_bytes", closed_to_all)
    message = (
        f"{closed}: cannot be opened ({os.strerror(errno.EACCES)}); check its permissions, or pass --on-error skip"
    )
    assert failure("fit", good, closed, "--out", tmp_path / "m", *SMALL) == message
    arguments = [washer_model, closed, "--out", tmp_path / "r", "--device", "cpu", "--on-error", "stop"]
    assert failure("predict", *arguments) == message


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "meta"])
def test_a_device_that_is_not_there(device: str, good: Path, washer_model: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() > (7 if device[-1] == "7" else 0) and device.startswith("cuda"):
        pytest.skip("it is there")
    pattern = rf"device '{device}' cannot be used \(.+\); use --device cpu or auto"
    options = [*SMALL, "--device", device]  # the last one counts
    assert re.fullmatch(pattern, failure("fit", good, "--out", tmp_path / "m", *options))
    assert re.fullmatch(pattern, failure("predict", washer_model, good, "--out", tmp_path / "r", "--device", device))
