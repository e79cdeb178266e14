"""The GPU kernels are compiled, as they are launched, for GPUs that need not be there; nothing is computed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
backends = pytest.importorskip("triton.backends.compiler")
compiler = pytest.importorskip("triton.compiler")

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled there")

KERNELS = {
    "nearest": ("encode", "find_witness", "mark_near", "measure_witness", "measure_marked"),
    "coreset": ("play_out",),
}
OUTPUTS = ("codes", "norms", "errors", "witness", "marks", "made")
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
}


class Gpu(NamedTuple):
    """A kind of GPU: its capability, and the bytes of shared memory that a program may have."""

    capability: int
    shared: int
    product: str
    """The instruction that multiplies 8-bit matrices."""


A100 = Gpu(80, 163 * 1024, "mma.sync.aligned.m16n8k32")
RTX_3060 = Gpu(86, 99 * 1024, "mma.sync.aligned.m16n8k32")
H100 = Gpu(90, 227 * 1024, "wgmma.mma_async")


class Made(NamedTuple):
    """A compiled kernel."""

    name: str
    ptx: str
    shared: int


class Launches:
    """Stands for a kernel: compiles what is launched."""

    def __init__(self, kernel: Any, gpu: Gpu, made: list[Made]) -> None:
        self._kernel, self._gpu, self._made = kernel, gpu, made

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *args: Any, **options: Any) -> None:
        names = [each.name for each in self._kernel.params]
        fixed = [each.name for each in self._kernel.params if each.is_constexpr]
        given = {**dict(zip(names, args, strict=False)), **{name: options.pop(name) for name in fixed}}
        source = compiler.ASTSource(
            self._kernel,
            {name: "constexpr" if name in fixed else _type(given[name]) for name in names},
            {(names.index(name),): given[name] for name in fixed},
            {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if isinstance(given[name], Tensor)},
        )
        compiled = triton.compile(source, target=backends.GPUTarget("cuda", self._gpu.capability, 32), options=options)
        self._made.append(Made(self._kernel.__name__, compiled.asm["ptx"], compiled.metadata.shared))
        for name in OUTPUTS:
            if name in given:
                given[name].zero_()  # whoever launches it may look at them


def _type(value: object) -> str:
    return TYPES[value.dtype] if isinstance(value, Tensor) else "i32"


@pytest.mark.parametrize(
    ("kind", "dims", "dtype"),
    [(H100, 1024, torch.float32), (A100, 128, torch.float16), (RTX_3060, 100, torch.float32)],
    ids=["9.0", "8.0", "8.6"],
)
def test_they_compile_and_fit(
    kind: Gpu, dims: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Made] = []
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for folder, names in KERNELS.items():
        module = importlib.import_module(f"patchcore_plugin.kernels.{folder}.gpu_triton")
        for name in names:
            monkeypatch.setattr(module, name, Launches(getattr(module, name), kind, made))
    from patchcore_plugin.kernels.coreset.gpu import GreedyOnGpu
    from patchcore_plugin.kernels.nearest import gpu

    if kind.shared < 160 * 1024:
        monkeypatch.setattr(gpu, "TILES", gpu.SMALL_TILES)
    points = torch.randn(600, dims, generator=torch.Generator().manual_seed(0)).to(dtype)
    GreedyOnGpu(points, 10, 0).run()
    assert {each.name for each in made} == {name for names in KERNELS.values() for name in names}
    for each in made:
        assert each.shared <= kind.shared, each.name
        # A fused multiply-add rounds once: distances would not be those of the CPU.
        assert "fma.rn.f64" not in each.ptx, each.name
        if each.name in ("find_witness", "mark_near"):
            assert kind.product in each.ptx, each.name
