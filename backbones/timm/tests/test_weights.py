"""Weights: from files, from the hub's cache, drawn; and what is said where there are none."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from patchcore_timm import _weights
from safetensors.torch import save_file

import patchcore_plugin as pp

from .networks import create, images, message, original


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    torch.save(original("test_resnet").state_dict(), tmp_path / "whole.pth")
    return tmp_path / "whole.pth"


def test_weights_of_any_kind_of_file_give_equal_maps(whole: Path) -> None:
    tensors = torch.load(whole, weights_only=True)
    save_file(tensors, whole.with_suffix(".safetensors"))
    fine_tuned = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    torch.save({"state_dict": {**fine_tuned, "fc.weight": torch.zeros(2, 9)}, "epoch": 3}, whole.parent / "tuned.pth")
    paths = (whole, whole.with_suffix(".safetensors"), whole.parent / "tuned.pth")
    first, *others = [create(weights=str(path)) for path in paths]
    for other in others:
        assert other.weight_hash() == first.weight_hash() != create().weight_hash()
        for a, b in zip(other(images()), first(images()), strict=True):
            assert torch.equal(a, b)


def test_missing_or_damaged_file_is_refused(tmp_path: Path, whole: Path) -> None:
    assert "no file nowhere.pth" in message(pp.WeightsError, weights="nowhere.pth")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    assert "(SafetensorError)" in message(pp.WeightsError, weights=str(cut))
    whole.write_bytes(whole.read_bytes()[:1000])
    assert "(RuntimeError)" in message(pp.WeightsError, weights=str(whole))


def test_no_pickle_is_run(trap: Any) -> None:
    assert "cannot be read as a .pth" in message(pp.WeightsError, weights=str(trap.file))
    assert not trap.is_sprung()


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    a = create(seed=3).weight_hash()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]  # noqa: NPY002
    torch.manual_seed(6)
    assert create(seed=3).weight_hash() == a
    assert create(seed=4).weight_hash() != a


def test_weights_of_another_network(tmp_path: Path, whole: Path) -> None:
    tensors = torch.load(whole, weights_only=True)
    del tensors["conv1.0.weight"], tensors["bn1.weight"], tensors["bn1.bias"]
    tensors["more"] = torch.zeros(1)
    tensors["layer1.0.bn1.weight"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "other.pth")
    text = message(pp.WeightsError, weights=str(tmp_path / "other.pth"))
    for difference in ("3 missing (conv1.0.weight", "1 unexpected (more)", "1 of another shape (layer1.0.bn1.weight)"):
        assert difference in text


def test_model_without_pretrained_weights_is_refused() -> None:
    assert "no pretrained weights of convnext_atto_rms" in message(
        pp.WeightsError, model="convnext_atto_rms", weights="pretrained"
    )


def test_unreachable_hub_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repository: str, **_: Any) -> None:
        raise OSError(f"no route\nto {repository}")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_weights, "model_info", unreachable)
    assert "(no route to timm/test_vit.r160_in1k)" in message(pp.WeightsError, model="test_vit", weights="pretrained")


def test_downloaded_weights_are_read_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    """The hub's cache, as a download leaves it; any question to the hub fails."""
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(torch.load(whole, weights_only=True), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_weights, "model_info", None)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", None)
    assert create(weights="pretrained").weight_hash() == create(weights=str(whole)).weight_hash()
