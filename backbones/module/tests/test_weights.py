"""Weights for networks of one's own: every kind of file, and what is said of one that will not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import patchcore_plugin as pp

from .networks import create, images, message


def test_weights_of_any_kind_of_file_give_equal_maps(whole: Path) -> None:
    tensors = torch.load(whole, weights_only=True)
    save_file(tensors, whole.with_suffix(".safetensors"))
    prefixed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, "state_dict": {**prefixed, "loss.weight": torch.ones(2)}}, whole.with_suffix(".ckpt"))
    torch.save({"model": tensors, "optimizer": {"lr": 0.1}}, whole.with_suffix(".pt"))
    torch.save({name: tensor.double() for name, tensor in tensors.items()}, whole.parent / "double.pth")
    first = create(weights=str(whole))
    assert first.weight_hash() != create().weight_hash()
    for path, prefix in (
        (whole.with_suffix(".safetensors"), ""),
        (whole.with_suffix(".ckpt"), "model."),
        (whole.with_suffix(".pt"), ""),
        (whole.parent / "double.pth", ""),
    ):
        other = create(weights=str(path), prefix=prefix)
        assert other.weight_hash() == first.weight_hash()
        for a, b in zip(other(images()), first(images()), strict=True):
            assert torch.equal(a, b)


def test_weights_of_another_network(whole: Path) -> None:
    tensors = torch.load(whole, weights_only=True)
    other = whole.with_name("other.pth")
    for name in ("blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"):
        tensors[f"{name}_"] = tensors.pop(name)
    tensors["stem.bias"] = torch.zeros(3)
    torch.save(tensors, other)
    text = message(pp.WeightsError, weights=str(other))
    for difference in (
        "4 missing (blocks.0.weight",
        "4 unexpected (blocks.0.weight_",
        "1 of another shape (stem.bias)",
    ):
        assert difference in text
    torch.save({**torch.load(whole, weights_only=True), "more": torch.zeros(1)}, other)
    assert "1 unexpected (more)" in message(pp.WeightsError, weights=str(other))


def test_matching_prefix_is_suggested(whole: Path) -> None:
    tensors = torch.load(whole, weights_only=True)
    other = whole.with_name("other.pth")
    torch.save({f"net.model.{name}": tensor for name, tensor in tensors.items()}, other)
    assert message(pp.WeightsError, weights=str(other)).endswith("; set backbone.prefix=net.model.")


def test_missing_or_damaged_file_is_refused(whole: Path) -> None:
    assert "no file nowhere.pth" in message(pp.WeightsError, weights="nowhere.pth")
    truncated = whole.with_name("truncated.safetensors")
    truncated.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    assert "(SafetensorError)" in message(pp.WeightsError, weights=str(truncated))
    torch.save({"epoch": 3}, whole)
    assert "does not contain named tensors" in message(pp.WeightsError, weights=str(whole))


def test_no_pickle_is_run(trap: Any) -> None:
    assert "(UnpicklingError)" in message(pp.WeightsError, weights=str(trap.file))
    assert not trap.is_sprung()
