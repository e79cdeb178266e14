"""Members of an ensemble that share a backbone: its layers are computed once, and they are fitted together."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.kernels import device
from patchcore_plugin.models.fitting import budget as memory
from patchcore_plugin.models.fitting import learners as learning
from tests.models.ensembles import COARSE, FINE, GOOD, OTHER, TEST, alone, make, member


class Counting:
    """A backbone of two layers, that counts its calls; `telling` whether it says which they are."""

    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, layers: Sequence[str], shift: float, calls: list[int], telling: bool) -> None:
        self._layers, self._shift, self._calls = layers, shift, calls
        if telling:
            self.layers = tuple(name for name in ("fine", "coarse") if name in layers)

    def __call__(self, images: Tensor) -> list[Tensor]:
        self._calls.append(len(images))
        strides = {"fine": 8, "coarse": 16}
        pooled = {name: torch.nn.functional.avg_pool2d(images + self._shift, strides[name]) for name in strides}
        return [pooled[name] for name in strides if name in self._layers]

    def to(self, device: Any) -> Counting:
        return self

    def weight_hash(self) -> str:
        return f"{self._layers} {self._shift}"


def counting(calls: list[int], *, telling: bool = True) -> pp.Host:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        layers: tuple[str, ...] = ("fine",)
        shift: float = 0.0

    class Plugin:
        @pp.hookimpl
        def patchcore_backbones(self) -> list[pp.BackboneSpec]:
            def create(config: Config) -> Counting:
                return Counting(config.layers, config.shift, calls, telling)

            return [pp.BackboneSpec(name="counting", config=Config, create=create, summary="counts")]

    return pp.Host(entry_points=False, extra={"counting": Plugin()})


FIRST = {"name": "counting", "layers": ["fine"]}


@pytest.mark.parametrize(
    ("second", "telling", "passes"),
    [
        (FIRST, True, 1),
        (FIRST, False, 1),
        ({**FIRST, "layers": ["coarse"]}, True, 1),
        ({**FIRST, "layers": ["coarse", "fine"]}, True, 1),
        ({**FIRST, "layers": ["coarse"]}, False, 2),
        ({**FIRST, "shift": 1.0}, True, 2),
    ],
)
@pytest.mark.parametrize("tiles", [{}, {"tile": [32, 32]}], ids=["whole", "tiles"])
def test_layers_are_computed_once(
    second: dict[str, Any], telling: bool, passes: int, tiles: dict[str, Any], tmp_path: Path
) -> None:
    calls: list[int] = []
    host = counting(calls, telling=telling)
    preprocessing = {"size": [64, 64], **tiles}
    ensemble = make(member(FIRST), member(second, scorer="knn"), host=host, preprocessing=preprocessing)

    def counted(work: Callable[[], object]) -> int:
        calls.clear()
        work()
        return len(calls)

    detectors = [alone(ensemble, number, host) for number in range(2)]
    one_image = 4 if tiles else 1
    fit = counted(lambda: detectors[0].fit(GOOD))
    assert counted(lambda: ensemble.fit(GOOD)) == passes * (fit + one_image)
    assert counted(lambda: ensemble.predict(GOOD)) == passes * counted(lambda: detectors[0].predict(GOOD))
    detectors[1].fit(GOOD)
    for each, detector in zip(ensemble.members, detectors, strict=True):
        assert torch.equal(each.bank.vectors, detector.bank.vectors)
        assert [a.score for a in each.predict(TEST)] == [b.score for b in detector.predict(TEST)]
    ensemble.save(tmp_path / "m")
    again = pp.Ensemble.load(tmp_path / "m", device="cpu", host=host)
    assert [a.score for a in again.predict(TEST)] == [b.score for b in ensemble.predict(TEST)]


def test_only_members_that_share_a_backbone_are_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[learning.Kept] = weakref.WeakSet()
    held: list[int] = []

    class Watched(learning.Kept):
        def hold_out(self) -> None:
            super().hold_out()
            alive.add(self)

        def learned(self) -> learning.Learned:
            held.append(len(alive))
            return super().learned()

    monkeypatch.setattr(learning, "Kept", Watched)
    make(member(FINE), member(OTHER), member({**OTHER, "weights": "random"})).fit(GOOD[:3])
    assert held == [1, 1, 1]
    held.clear()
    make(member(FINE), member(OTHER), member(COARSE)).fit(GOOD[:3])
    assert held == [2, 1, 1]


def test_memory_for_members_that_are_fitted_together_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def fit(*members: Any, free: int) -> None:
        monkeypatch.setattr(device, "available", lambda device: free)
        make(*members).fit(GOOD, progress=lambda stage, done, total: read.append(stage))

    needed = memory.check(12, 64, 40 + 80, torch.device("cpu"))
    enough = int(1.5 * needed)
    fit(member(FINE), member({**FINE, "weights": "random"}), free=enough)
    read.clear()
    with pytest.raises(pp.PatchcoreError) as caught:
        fit(member(FINE), member(FINE), free=enough)
    assert str(caught.value) == (
        "member 0 (patchcore) and member 1 (patchcore) share a backbone and are fitted together: about 0.0 GB are "
        "needed and 0.0 GB are free; take fewer images, raise aggregator.stride, or lower preprocessing.size"
    )
    with pytest.raises(pp.PatchcoreError, match="12 images make 768 patches of 120 values"):
        fit(member(OTHER), member(FINE), free=int(0.9 * needed))
    assert read == []
