"""Weights for networks of one's own: every kind of file, and what is said of one that will not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import patchcore_plugin as pp

from .networks import create, images, message


def test_weights_of_any_kind_of_file_give_equal_maps(saved: Path) -> None:
    tensors = torch.load(saved, weights_only=True)
    save_file(tensors, saved.with_suffix(".safetensors"))
    prefixed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, "state_dict": {**prefixed, "loss.weight": torch.ones(2)}}, saved.with_suffix(".ckpt"))
    torch.save({"model": tensors, "optimizer": {"lr": 0.1}}, saved.with_suffix(".pt"))
    torch.save({name: tensor.double() for name, tensor in tensors.items()}, saved.parent / "double.pth")
    first = create(weights=str(saved))
    assert first.weight_hash() != create().weight_hash()
    for path, prefix in (
        (saved.with_suffix(".safetensors"), ""),
        (saved.with_suffix(".ckpt"), "model."),
        (saved.with_suffix(".pt"), ""),
        (saved.parent / "double.pth", ""),
    ):
        other = create(weights=str(path), prefix=prefix)
        assert other.weight_hash() == first.weight_hash()
        for a, b in zip(other(images()), first(images()), strict=True):
            assert torch.equal(a, b)


def test_weights_of_another_network(saved: Path) -> None:
    tensors = torch.load(saved, weights_only=True)
    other = saved.with_name("other.pth")
    for name in ("blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias"):
        tensors[f"{name}_"] = tensors.pop(name)
    tensors["stem.bias"] = torch.zeros(3)
    torch.save(tensors, other)
    names = ("blocks.0.weight", "blocks.0.bias")
    assert message(pp.WeightsError, weights=str(other)) == (
        f"backbone module: weights: {other} is of another network; tensors: 4 missing ({', '.join(names)}, ...); "
        f"4 unexpected ({'_, '.join(names)}_, ...); 1 of another shape (stem.bias)"
    )
    torch.save({**torch.load(saved, weights_only=True), "more": torch.zeros(1)}, other)
    assert message(pp.WeightsError, weights=str(other)) == (
        f"backbone module: weights: {other} is of another network; tensors: 1 unexpected (more)"
    )


def test_a_prefix_that_would_fit_is_told(saved: Path) -> None:
    tensors = torch.load(saved, weights_only=True)
    other = saved.with_name("other.pth")
    torch.save({f"net.model.{name}": tensor for name, tensor in tensors.items()}, other)
    assert message(pp.WeightsError, weights=str(other)).endswith("; with backbone.prefix=net.model. they would fit")


def test_a_file_that_does_not_exist_or_is_damaged(saved: Path) -> None:
    assert message(pp.WeightsError, weights="nowhere.pth") == (
        "backbone module: weights: no file nowhere.pth; give the path of a .pth or .safetensors file, or factory"
    )
    advice = "save one with torch.save(network.state_dict(), PATH)"
    cut = saved.with_name("cut.safetensors")
    cut.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    assert message(pp.WeightsError, weights=str(cut)) == (
        f"backbone module: weights: {cut} cannot be read as a .pth or .safetensors file of tensors "
        f"(SafetensorError); {advice}"
    )
    torch.save({"epoch": 3}, saved)
    assert message(pp.WeightsError, weights=str(saved)) == (
        f"backbone module: weights: {saved} holds something else than named tensors; "
        "save the network with torch.save(network.state_dict(), PATH)"
    )


def test_no_pickle_is_run(trap: Any) -> None:
    assert "(UnpicklingError)" in message(pp.WeightsError, weights=str(trap.file))
    assert not trap.is_sprung()
