"""Weights of the torchvision backbones: from files, from the cache, and random ones."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from patchcore_plugin.errors import WeightsError
from patchcore_plugin.plugins.protocols import hash_weights
from tests.plugins.torchvision_networks import create, images, message, whole_resnet18

pytestmark = pytest.mark.slow


def test_both_formats_of_weights_are_equal(tmp_path: Path) -> None:
    torch.save(whole_resnet18().state_dict(), tmp_path / "r.pth")
    save_file(whole_resnet18().state_dict(), tmp_path / "r.safetensors")
    headless = {k: t for k, t in whole_resnet18().state_dict().items() if not k.startswith("fc.")}
    torch.save(headless | {"fc.weight": torch.zeros(5, 512)}, tmp_path / "tuned.pth")
    a, b, c = (create("resnet18", weights=str(tmp_path / n)) for n in ("r.pth", "r.safetensors", "tuned.pth"))
    assert a.weight_hash() == b.weight_hash() == c.weight_hash()
    for x, y, z in zip(a(images()), b(images()), c(images()), strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)


def test_state_dict_in_a_checkpoint_is_read(tmp_path: Path) -> None:
    for name, content in (
        ("plain.pth", whole_resnet18().state_dict()),
        ("c.pth", {"epoch": 3, "state_dict": whole_resnet18().state_dict()}),
    ):
        torch.save(content, tmp_path / name)
    plain, checkpoint = (create("resnet18", weights=str(tmp_path / name)) for name in ("plain.pth", "c.pth"))
    assert plain.weight_hash() == checkpoint.weight_hash()


def test_hash_is_that_of_the_published_weights(tmp_path: Path) -> None:
    """However the backbone computes, models saved before must load."""
    tensors = {key: tensor.clone() for key, tensor in whole_resnet18().state_dict().items()}
    save_file(tensors, tmp_path / "r.safetensors")
    tensors["bn1.running_mean"][0] += 1
    save_file(tensors, tmp_path / "changed.safetensors")
    backbone, changed = (
        create("resnet18", weights=str(tmp_path / n)) for n in ("r.safetensors", "changed.safetensors")
    )
    kept = {
        key: tensor for key, tensor in whole_resnet18().state_dict().items() if not key.startswith(("layer4.", "fc."))
    }
    assert backbone.weight_hash() == hash_weights(kept)
    assert backbone.weight_hash() != changed.weight_hash()
    assert backbone.to("cpu") is backbone


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = create("resnet18", weights="random", seed=3).weight_hash()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert create("resnet18", weights="random", seed=3).weight_hash() == a
    assert create("resnet18", weights="random", seed=4).weight_hash() != a
    assert not torch.cuda.is_initialized()


def test_random_biases_are_zero() -> None:
    """Squeeze-and-excitation has convolutions with biases, which no file fills."""
    stages = create("efficientnet_b4", weights="random", layers=("stage2",))._stages
    biases = [module.bias for name, module in stages.named_modules() if name.endswith((".fc1", ".fc2"))]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_imagenet_weights_come_from_torchvisions_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole_resnet18().state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = str(tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    assert create("resnet18").weight_hash() == create("resnet18", weights=file).weight_hash()


def test_failed_download_lists_alternatives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    text = message(WeightsError, "wide_resnet50")
    for fact in ("no route to host", "backbone.weights=PATH", "efficientnet-lite0"):
        assert fact in text
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_missing_file_is_refused() -> None:
    text = message(WeightsError, "resnet18", weights="imagnet")
    assert "no file imagnet" in text
    assert "imagenet, random" in text


@pytest.mark.parametrize(("name", "kind"), [("w.pth", "RuntimeError"), ("w.safetensors", "SafetensorError")])
def test_damaged_file_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (torch.save if name == "w.pth" else save_file)(whole_resnet18().state_dict(), path)
    path.write_bytes(path.read_bytes()[:100_000])
    text = message(WeightsError, "resnet18", weights=str(path))
    assert str(path) in text
    assert kind in text


def test_pickled_objects_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(whole_resnet18(), path)
    assert "UnpicklingError" in message(WeightsError, "resnet18", weights=str(path))


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {1: torch.zeros(1)}])
def test_files_without_tensors_are_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    assert "does not contain named tensors" in message(WeightsError, "resnet18", weights=str(path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.pth"
    torch.save(whole_resnet18().state_dict(), path)
    text = message(WeightsError, "resnet50", weights=str(path))
    assert "165 missing (layer1.0.conv3.weight" in text
    assert "23 of another shape (layer1.0.conv1.weight" in text
    torch.save({**whole_resnet18().state_dict(), "extra": torch.zeros(1)}, path)
    assert "1 unexpected (extra)" in message(WeightsError, "resnet18", weights=str(path))
