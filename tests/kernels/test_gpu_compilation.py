"""The GPU kernels compile, with the arguments of real launches, for GPUs that need not be present."""

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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
]

KERNELS = {
    "nearest": ("encode", "find_witness", "mark_near", "measure_witness", "measure_marked"),
    "coreset": ("play_out",),
}
OUTPUTS = ("codes", "norms", "errors", "witness", "marks", "number")
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
}


class Gpu(NamedTuple):
    """A kind of GPU: its capability, and the bytes of shared memory for a program."""

    capability: int
    shared: int
    product: str
    """The instruction that multiplies 8-bit matrices."""


A100 = Gpu(80, 163 * 1024, "mma.sync.aligned.m16n8k32")
RTX_3060 = Gpu(86, 99 * 1024, "mma.sync.aligned.m16n8k32")
H100 = Gpu(90, 227 * 1024, "wgmma.mma_async")


class CompiledKernel(NamedTuple):
    """A compiled kernel."""

    name: str
    ptx: str
    shared: int


class Launches:
    """Replaces a kernel, and compiles each launch of it."""

    def __init__(self, kernel: Any, gpu: Gpu, compiled_kernels: list[CompiledKernel]) -> None:
        self._kernel, self._gpu, self._results = kernel, gpu, compiled_kernels

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *args: Any, **options: Any) -> None:
        names = [parameter.name for parameter in self._kernel.params]
        fixed = [parameter.name for parameter in self._kernel.params if parameter.is_constexpr]
        arguments = {**dict(zip(names, args, strict=False)), **{name: options.pop(name) for name in fixed}}
        source = compiler.ASTSource(
            self._kernel,
            {name: "constexpr" if name in fixed else _type(arguments[name]) for name in names},
            {(names.index(name),): arguments[name] for name in fixed},
            {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if isinstance(arguments[name], Tensor)},
        )
        compiled = triton.compile(source, target=backends.GPUTarget("cuda", self._gpu.capability, 32), options=options)
        self._results.append(CompiledKernel(self._kernel.__name__, compiled.asm["ptx"], compiled.metadata.shared))
        for name in OUTPUTS:
            if name in arguments:
                arguments[name].zero_()  # the caller may read them


def _type(value: object) -> str:
    return TYPES[value.dtype] if isinstance(value, Tensor) else "i32"


@pytest.mark.parametrize(
    ("kind", "dims", "dtype"),
    [(H100, 1024, torch.float32), (A100, 128, torch.float16), (RTX_3060, 100, torch.float32)],
    ids=["9.0", "8.0", "8.6"],
)
def test_kernels_compile_and_fit(
    kind: Gpu, dims: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_kernels: list[CompiledKernel] = []
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for folder, names in KERNELS.items():
        module = importlib.import_module(f"patchcore_plugin.kernels.{folder}._gpu_triton")
        for name in names:
            monkeypatch.setattr(module, name, Launches(getattr(module, name), kind, compiled_kernels))
    from patchcore_plugin.kernels.coreset.gpu import GreedyOnGpu
    from patchcore_plugin.kernels.coreset.task import Task
    from patchcore_plugin.kernels.nearest import gpu

    if kind.shared < 160 * 1024:
        monkeypatch.setattr(gpu, "TILES", gpu.SMALL_TILES)
    points = torch.randn(600, dims, generator=torch.Generator().manual_seed(0)).to(dtype)
    GreedyOnGpu(points, Task(10)).run()
    assert {kernel.name for kernel in compiled_kernels} == {name for names in KERNELS.values() for name in names}
    for kernel in compiled_kernels:
        assert kernel.shared <= kind.shared, kernel.name
        # A fused multiply-add rounds once, so distances would differ from those of the CPU.
        assert "fma.rn.f64" not in kernel.ptx, kernel.name
        if kernel.name in ("find_witness", "mark_near"):
            assert kind.product in kernel.ptx, kernel.name
