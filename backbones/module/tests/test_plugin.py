"""The plugin for networks of one's own, through the public API only."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import patchcore_module as plugin
import pytest
import torch
from safetensors.torch import save_file

import patchcore_plugin as pp
from patchcore_plugin.testing import parametrize_checks

SOURCE = '''
import torch
from torch import nn

class Net(nn.Module):
    """The classifier at the end takes photos of 32 x 32 only."""

    def __init__(self, width=4, tokens=False):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.pool = nn.AdaptiveMaxPool2d(2, return_indices=True)
        self.flat = nn.Flatten()
        self.last = nn.Identity()
        self.head = nn.Linear(8 * 8 * 8, 5)
        self.idle = nn.Identity()

    def forward(self, x):
        x = self.act(self.blocks(self.act(self.stem(x))))
        self.pool(self.last(x))
        return self.head(self.flat(x))

def broken(width=4):
    raise KeyError("no\\nsuch thing")

def number():
    return 3
'''
FACTORY = "own_networks:Net"
OPTIONS: dict[str, Any] = {"factory": FACTORY, "weights": "factory", "layers": ("stem", "blocks")}


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A user's module with networks, on the path; the user allows what it has."""
    (tmp_path / "own_networks.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(plugin.ALLOWED, f"something:else, {FACTORY},own_networks:broken,own_networks:number")
    import own_networks  # type: ignore[import-not-found]  # written above

    yield own_networks
    del sys.modules["own_networks"]


def create(**options: Any) -> Any:
    return plugin.create(plugin.Config(**{**OPTIONS, **options}))


def message(kind: type[pp.PatchcoreError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        create(**options)
    return str(caught.value)


def images(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make(networks: Any, **arguments: Any) -> Any:
    """Return the user's network, its weights and statistics unlike those that it is made with."""
    network = networks.Net(**arguments).eval()
    generator = torch.Generator().manual_seed(3)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


@pytest.fixture
def saved(networks: Any, tmp_path: Path) -> Path:
    torch.save(make(networks).state_dict(), tmp_path / "whole.pth")
    return tmp_path / "whole.pth"


@parametrize_checks(plugin, options={"module": OPTIONS})
def test_conformance(check: Any) -> None:
    check()


def test_maps_are_the_layers_outputs(networks: Any, saved: Path) -> None:
    """What follows them in place, the activation, does not change them."""
    network = make(networks)
    with torch.no_grad():
        stem = network.stem(images())
        blocks = network.blocks(stem.relu())
    maps = create(weights=str(saved))(images())
    assert len(maps) == 2
    assert torch.equal(maps[0], stem)
    assert torch.equal(maps[1], blocks)
    assert all(not m.requires_grad for m in maps)


def test_maps_are_finest_first_whatever_the_order_of_layers() -> None:
    names = ("blocks.1", "stem", "blocks.0")
    assert [tuple(m.shape) for m in create(layers=names)(images(24, 40))] == [
        (2, 4, 12, 20),
        (2, 8, 6, 10),
        (2, 8, 6, 10),
    ]


def test_the_classifier_is_not_reached() -> None:
    backbone = create()
    assert backbone(images(48, 32))[1].shape == (2, 8, 12, 8)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        backbone._network(images(48, 32))
    assert not any(module._forward_hooks for module in backbone._network.modules())


def test_of_a_layer_that_runs_twice_the_first_output_counts(networks: Any, saved: Path) -> None:
    activation, _ = create(weights=str(saved), layers=("act", "last"))(images())
    assert torch.equal(activation, make(networks).stem(images()).relu())


def test_normalisation_is_what_the_options_say() -> None:
    assert (create().mean, create().std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = create(mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    assert (own.mean, own.std) == ((0.5, 0.5, 0.5), (1, 1, 1))


def test_what_the_factory_draws_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = create(seed=3).weight_hash()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert create(seed=3).weight_hash() == a != create(seed=4).weight_hash()
    assert create(arguments={"width": 5})(images())[0].shape[1] == 5


def test_a_fit_is_loaded_in_another_process(tmp_path: Path, saved: Path) -> None:
    rng = np.random.default_rng(0)
    good = [rng.integers(90, 110, (32, 32, 3), dtype=np.uint8) for _ in range(6)]
    backbone = {"name": "module", **OPTIONS, "weights": str(saved), "arguments": {"width": 4}}
    detector = pp.Detector.from_recipe("patchcore", backbone=backbone, preprocessing={"size": (32, 32)})
    detector.fit(good).save(tmp_path / "part.safetensors")
    np.save(tmp_path / "photo.npy", good[0])
    code = (
        "import sys, numpy as np, patchcore_plugin as pp;"
        "print(repr(pp.Detector.load(sys.argv[1]).predict([np.load(sys.argv[2])])[0].score))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "part.safetensors"), str(tmp_path / "photo.npy")]
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert float(found.stdout) == detector.predict([good[0]])[0].score


# What may run


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("os:system", {"command": "touch TRACE"}),
        ("subprocess:run", {"args": "touch TRACE", "shell": True}),
        ("own_networks:system", {"command": "touch TRACE"}),
        ("own_networks:Ne", {}),
        ("trap:Net", {}),
    ],
)
@pytest.mark.parametrize("allowed", [None, FACTORY, "own_networks", "os,subprocess,trap", "*"])
def test_a_factory_that_is_not_allowed_is_neither_called_nor_imported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    networks: Any,
    factory: str,
    arguments: dict[str, Any],
    allowed: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    networks.system = os.system
    (tmp_path / "trap.py").write_text("open('TRACE', 'w').close()")
    monkeypatch.delenv(plugin.ALLOWED)
    if allowed is not None:
        monkeypatch.setenv(plugin.ALLOWED, allowed)
    assert message(pp.OptionError, factory=factory, arguments=arguments) == (
        f"backbone module: factory {factory} is not allowed here, so nothing of it was imported; "
        "if you trust its code and these arguments, name it in the environment: "
        f"PATCHCORE_MODULE_FACTORIES={factory}"
    )
    assert not (tmp_path / "TRACE").exists()


def test_a_model_file_cannot_choose_what_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fitted model is the stranger's; here nothing is allowed."""
    good = [np.full((32, 32, 3), value, dtype=np.uint8) for value in range(90, 96)]
    detector = pp.Detector.from_recipe(
        "patchcore", backbone={"name": "module", **OPTIONS}, preprocessing={"size": (32, 32)}
    )
    detector.fit(good).save(tmp_path / "part.safetensors")
    monkeypatch.delenv(plugin.ALLOWED)
    del sys.modules["own_networks"]
    with pytest.raises(pp.OptionError, match="factory own_networks:Net is not allowed here"):
        pp.Detector.load(tmp_path / "part.safetensors")
    assert "own_networks" not in sys.modules
    monkeypatch.setenv(plugin.ALLOWED, FACTORY)
    assert pp.Detector.load(tmp_path / "part.safetensors").threshold == detector.threshold


@pytest.mark.parametrize(
    "factory", ["own_networks", "own_networks.Net", "own_networks:Net.__init__", "a b:c", ":f", ""]
)
def test_a_factory_is_written_in_one_way(factory: str) -> None:
    with pytest.raises(pp.OptionError) as caught:
        pp.Host().configure("backbone", "module", {**OPTIONS, "factory": factory})
    assert str(caught.value) == (
        "backbone 'module': option 'factory' must be written package.module:function, such as my_networks:SmallNet, "
        f"got {factory!r}"
    )


def test_factories_that_cannot_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(plugin.ALLOWED, "gone.away:Net,own_networks:net,own_networks:broken,own_networks:number,bad:Net")
    (tmp_path / "bad.py").write_text("import gone_too")
    assert message(pp.OptionError, factory="gone.away:Net") == (
        "backbone module: gone.away cannot be imported: ModuleNotFoundError: No module named 'gone'; "
        "install it, or say in which folder it lies: PYTHONPATH=FOLDER"
    )
    assert message(pp.OptionError, factory="bad:Net") == (
        "backbone module: bad cannot be imported: ModuleNotFoundError: No module named 'gone_too'; mend it"
    )
    assert message(pp.OptionError, factory="own_networks:net") == (
        "backbone module: own_networks has no function or class 'net' (did you mean 'Net'?)"
    )
    assert message(pp.OptionError, factory="own_networks:broken", arguments={"width": 3}) == (
        "backbone module: factory own_networks:broken failed with arguments {'width': 3}: KeyError: 'no\\nsuch thing'"
    )
    assert message(pp.OptionError, factory="own_networks:number") == (
        "backbone module: factory own_networks:number must return a torch.nn.Module, got int"
    )


# Layers and images that cannot be


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (("block",), "the network has no submodule 'block'; near ones are blocks, blocks.1, blocks.0"),
        (("?",), "the network has no submodule '?'; at its top are stem, act, blocks, pool, flat, last, head, idle"),
        (("",), "the network has no submodule ''; at its top are stem, act, blocks, pool, flat, last, head, idle"),
    ],
)
def test_layers_that_do_not_exist_are_refused_before_weights_are_read(layers: tuple[str, ...], text: str) -> None:
    assert message(pp.OptionError, layers=layers, weights="nowhere.pth") == f"backbone module: layers: {text}"


def test_a_layer_named_twice_is_refused() -> None:
    assert message(pp.OptionError, layers=("stem", "stem")) == "backbone module: layers names 'stem' twice"


@pytest.mark.parametrize(
    ("layer", "got"), [("flat", "float32 [2, 512]"), ("head", "float32 [2, 5]"), ("pool", "tuple")]
)
def test_layers_without_maps_are_named(layer: str, got: str) -> None:
    with pytest.raises(pp.TensorError) as caught:
        create(layers=("stem", layer))(images())
    assert str(caught.value) == (
        f"backbone module: layer '{layer}' must put out floating-point maps [B, C, h, w] of 2 images, got {got}; "
        "choose another layer, or let the factory return a module that makes maps of it"
    )


def test_layers_that_do_not_run_are_named() -> None:
    with pytest.raises(pp.TensorError) as caught:
        create(layers=("stem", "idle"))(images())
    assert str(caught.value) == ("backbone module: layers: idle did not run; choose layers that its forward calls")


def test_wrong_images_are_named() -> None:
    with pytest.raises(pp.TensorError) as caught:
        create()(torch.zeros(3, 32, 32))
    assert str(caught.value) == "backbone module: expected images [B, 3, H, W], got [3, 32, 32]"


# Weights


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


class Trap:
    """Leaves a trace where its pickle is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_pickle_is_run(tmp_path: Path) -> None:
    torch.save({"layer": Trap(tmp_path / "trace")}, tmp_path / "trap.pth")
    assert "(UnpicklingError)" in message(pp.WeightsError, weights=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "trace").exists()


# The distribution


def test_listing_imports_no_torch() -> None:
    code = "import sys; import patchcore_module as p; p.patchcore_backbones(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_wheel_holds_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    monkeypatch.chdir(Path(__file__).parents[1])
    with zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path))) as wheel:
        files = {name.partition("dist-info/")[2] or name for name in wheel.namelist()}
        modules = ("__init__.py", "_factory.py", "_features.py", "_weights.py", "py.typed")
        assert files == {
            *(f"patchcore_module/{name}" for name in modules),
            *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"),
        }
        points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        assert wheel.read(points).decode().split("\n")[:2] == ["[patchcore_plugin]", "module = patchcore_module"]
