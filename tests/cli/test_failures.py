"""Failures of commands: one line with the problem and the next step, and no files left behind."""

from __future__ import annotations

import errno
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.specs import ROLES
from tests.commands import SMALL, run_failing


def test_empty_folder(tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "m.safetensors"
    empty.mkdir()
    for arguments in (("fit", empty, "--out", out), ("predict", out, empty, "--out", tmp_path / "r")):
        message = run_failing(*arguments)
        assert message.startswith(f"{empty}: ")
        assert ".png" in message
    message = run_failing("evaluate", empty, "--out", tmp_path / "r")
    assert message.startswith(f"{empty}: ")
    assert [name for name in ("MVTec", "VisA", "BTAD", "KolektorSDD2", ".csv") if name not in message] == []
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_missing_path(command: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert run_failing(command, missing, "--out", tmp_path / "out").startswith(f"{missing}: no such file or folder")


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_unknown_component(command: str, dataset: Path, tmp_path: Path) -> None:
    for role in ROLES:
        message = run_failing(command, dataset, "--out", tmp_path / "out", f"--{role}", "zzz")
        assert message.startswith(f"unknown {role} 'zzz'")
        assert message.endswith(", ".join(pp.Host().names(role)))
    message = run_failing(command, dataset, "--out", tmp_path / "out", "--backbone", "resnet19")
    assert "did you mean 'resnet18'?" in message
    message = run_failing(command, dataset, "--out", tmp_path / "out", "--recipe", "x")
    assert message.startswith("unknown recipe 'x'")
    assert ", ".join(pp.Recipe.names()) in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "facts"),
    [
        ("sampler.ratoi=0.1", ["greedy-coreset", "'ratoi'", "did you mean 'ratio'?", "projection_dim"]),
        ("sampler.ratio=2", ["greedy-coreset", "'ratio'", "less than or equal to 1", "got 2"]),
        ("sampler.ratio=none", ["'ratio'", "valid number", "got None"]),
        ("aggregator.patch_size=4", ["average-pool", "odd", "got 4"]),
        ("smapler.ratio=0.1", ["'smapler'", "sampler", "preprocessing"]),
        ("map.sigma=-1", ["map", "'sigma'", "greater than or equal to 0", "got -1"]),
        ("sampler.name=5", ["sampler", "name", "got 5"]),
        ("ratio=0.1", ["--set ratio=0.1", "ROLE.OPTION=VALUE"]),
        ("backbone.layers=stage9,", ["'stage9'", "did you mean 'stage7'", "stage1"]),
    ],
)
def test_misspelt_option(option: str, facts: list[str], good: Path, tmp_path: Path) -> None:
    message = run_failing("fit", good, "--out", tmp_path / "m", "--backbone", "efficientnet-lite0", "--set", option)
    assert [fact for fact in facts if fact not in message] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_missing_weights(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    message = run_failing("fit", good, "--out", tmp_path / "m", "--device", "cpu")
    assert message.startswith("backbone wide_resnet50: ")
    for advice in ("no network", "backbone.weights=PATH", "efficientnet-lite0"):
        assert advice in message
    missing = tmp_path / "none.pth"
    message = run_failing("fit", good, "--out", tmp_path / "m", "--set", f"backbone.weights={missing}")
    assert message.startswith("backbone wide_resnet50: ")
    assert str(missing) in message


def test_missing_or_damaged_model_file(good: Path, washer_model: Path, tmp_path: Path) -> None:
    missing, cut = tmp_path / "none.safetensors", tmp_path / "cut.safetensors"
    message = run_failing("predict", missing, good, "--out", tmp_path / "r")
    assert message.startswith(f"{missing}: ")
    assert "patchcore fit" in message
    cut.write_bytes(washer_model.read_bytes()[:-1])
    assert run_failing("predict", cut, good, "--out", tmp_path / "r").startswith(f"{cut}: damaged (")
    assert not (tmp_path / "r").exists()


def test_model_of_a_plugin_that_is_not_installed(good: Path, washer_model: Path, tmp_path: Path) -> None:
    message = run_failing("--no-plugins", "predict", washer_model, good, "--out", tmp_path / "r")
    assert message.startswith(f"{washer_model}: ")
    assert "'efficientnet-lite0'" in message
    assert "pip install --upgrade patchcore-efficientnet-lite" in message


def test_output_that_cannot_be_written(good: Path, washer_model: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    message = run_failing("fit", good, "--out", file / "sub" / "m.safetensors", *SMALL)
    assert message.startswith(f"{file / 'sub'}: {os.strerror(errno.ENOTDIR)}; ")
    for command in (
        ["fit", good, "--out", file / "m.safetensors", *SMALL],
        ["predict", washer_model, good, "--out", file],
    ):
        assert run_failing(*command).startswith(f"{file}: {os.strerror(errno.EEXIST)}; ")
    message = run_failing("fit", good, "--out", folder, *SMALL)
    assert message.startswith(f"{folder}: is a folder; ")
    assert message.endswith(str(folder / "model.safetensors"))
    assert file.read_text() == "mine"


def test_folder_without_permission_fails_before_the_fit(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    message = run_failing("fit", good, "--out", tmp_path / "m.safetensors", *SMALL)
    assert message.startswith(f"{tmp_path / 'm.safetensors'}: ")
    assert "not writable" in message


def test_images_without_permission(
    good: Path, washer_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command fails like with any other unreadable image; this is no wrong usage."""
    closed = tmp_path / "image.png"
    closed.write_bytes((good / "000.png").read_bytes())
    access, read_bytes = os.access, Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(closed) and access(path, mode))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    options = ["--device", "cpu", "--on-error", "stop"]
    for command in (
        ["fit", good, closed, "--out", tmp_path / "m", *SMALL],
        ["predict", washer_model, closed, "--out", tmp_path / "r", *options],
    ):
        message = run_failing(*command)
        assert message.startswith(f"{closed}: ")
        assert os.strerror(errno.EACCES) in message
        assert message.endswith("--on-error skip")


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "meta"])
def test_device_that_is_not_available(device: str, good: Path, washer_model: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() > (7 if device[-1] == "7" else 0) and device.startswith("cuda"):
        pytest.skip("the device is available")
    fit = ["fit", good, "--out", tmp_path / "m", *SMALL, "--device", device]  # the last --device counts
    for command in (fit, ["predict", washer_model, good, "--out", tmp_path / "r", "--device", device]):
        message = run_failing(*command)
        assert f"'{device}'" in message
        assert "--device cpu" in message
