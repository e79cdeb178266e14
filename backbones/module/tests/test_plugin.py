"""The plugin for networks of one's own, through the public API only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import patchcore_module as plugin
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.plugins.testing import parametrize_checks

from .networks import OPTIONS, create, images, make, message


@parametrize_checks(plugin, options={"module": OPTIONS})
def test_conformance(check: Any) -> None:
    check()


def test_maps_are_the_layers_outputs(networks: Any, whole: Path) -> None:
    """What follows them in place, the activation, does not change them."""
    network = make(networks)
    with torch.no_grad():
        stem = network.stem(images())
        blocks = network.blocks(stem.relu())
    maps = create(weights=str(whole))(images())
    assert len(maps) == 2
    assert torch.equal(maps[0], stem)
    assert torch.equal(maps[1], blocks)
    assert all(not m.requires_grad for m in maps)


def test_maps_are_finest_first_for_any_order_of_layers() -> None:
    names = ("blocks.1", "stem", "blocks.0")
    assert [tuple(m.shape) for m in create(layers=names)(images(24, 40))] == [
        (2, 4, 12, 20),
        (2, 8, 6, 10),
        (2, 8, 6, 10),
    ]


def test_classifier_does_not_run() -> None:
    backbone = create()
    assert backbone(images(48, 32))[1].shape == (2, 8, 12, 8)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        backbone._network(images(48, 32))
    assert not any(module._forward_hooks for module in backbone._network.modules())


def test_first_output_of_a_repeated_layer_is_used(networks: Any, whole: Path) -> None:
    activation, _ = create(weights=str(whole), layers=("act", "last"))(images())
    assert torch.equal(activation, make(networks).stem(images()).relu())


def test_normalisation_is_that_of_the_options() -> None:
    assert (create().mean, create().std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = create(mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    assert (own.mean, own.std) == ((0.5, 0.5, 0.5), (1, 1, 1))


def test_random_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = create(seed=3).weight_hash()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert create(seed=3).weight_hash() == a != create(seed=4).weight_hash()
    assert create(arguments={"width": 5})(images())[0].shape[1] == 5


@pytest.mark.slow
def test_model_is_loaded_in_another_process(tmp_path: Path, whole: Path) -> None:
    rng = np.random.default_rng(0)
    good = [rng.integers(90, 110, (32, 32, 3), dtype=np.uint8) for _ in range(6)]
    backbone = {"name": "module", **OPTIONS, "weights": str(whole), "arguments": {"width": 4}}
    detector = pp.Detector.from_recipe("patchcore", backbone=backbone, preprocessing={"size": (32, 32)})
    detector.fit(good).save(tmp_path / "part.safetensors")
    np.save(tmp_path / "image.npy", good[0])
    code = (
        "import sys, numpy as np, patchcore_plugin as pp;"
        "print(repr(pp.Detector.load(sys.argv[1]).predict([np.load(sys.argv[2])])[0].score))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "part.safetensors"), str(tmp_path / "image.npy")]
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert float(found.stdout) == detector.predict([good[0]])[0].score


# Invalid layers and images


@pytest.mark.parametrize(
    ("layers", "choices"),
    [
        (("block",), "blocks, blocks.1, blocks.0"),
        (("?",), "stem, act, blocks, pool, flat, last, head, idle"),
        (("",), "stem, act, blocks, pool, flat, last, head, idle"),
    ],
)
def test_unknown_layers_are_refused_before_weights_are_read(layers: tuple[str, ...], choices: str) -> None:
    assert message(pp.OptionError, layers=layers, weights="nowhere.pth").endswith(f"choose from {choices}")


def test_repeated_layer_is_refused() -> None:
    assert "'stem' twice" in message(pp.OptionError, layers=("stem", "stem"))


@pytest.mark.parametrize(
    ("layer", "got"), [("flat", "float32 [2, 512]"), ("head", "float32 [2, 5]"), ("pool", "tuple")]
)
def test_layers_without_maps_are_refused(layer: str, got: str) -> None:
    with pytest.raises(pp.TensorError, match=re.escape(f"got {got}")):
        create(layers=("stem", layer))(images())


def test_layers_that_do_not_run_are_refused() -> None:
    with pytest.raises(pp.TensorError, match="idle did not run"):
        create(layers=("stem", "idle"))(images())


def test_wrong_images_are_refused() -> None:
    with pytest.raises(pp.TensorError, match=r"got \[3, 32, 32\]"):
        create()(torch.zeros(3, 32, 32))
