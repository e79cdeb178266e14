"""Compile the library into the package: the kernels once per instruction set, and the code that selects one."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path(__file__).parent / "src" / "patchcore_native"
COMMON = ["-O3", "-std=c11", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
EXACT = "-ffp-contract=off"  # a fused multiply-add would round differently, and all kernels must give the same bits
PORTABLE = {"portable": ""}
X86 = {
    "portable": "",
    "avx2": "-DUSE_AVX2 -mavx2",
    "avx512": ("-DUSE_AVX512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mprefer-vector-width=512"),
}


class CompileHook(BuildHookInterface[Any]):
    """Run before a wheel or an editable installation is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tag the wheel for this platform and any Python, because the interface is plain C."""
        library = SOURCES / ("libpatchcore.dylib" if sys.platform == "darwin" else "libpatchcore.so")
        compile_library(library)
        build_data["artifacts"].append(f"/{library.relative_to(self.root)}")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_library(library: Path) -> None:
    """Compile the sources into `library` with the compiler in $CC, or cc."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    variants = X86 if platform.machine() in ("x86_64", "AMD64") else PORTABLE
    with tempfile.TemporaryDirectory() as folder:
        objects = [_compile(compiler, "library.c", Path(folder) / "library.o", ["-fvisibility=default"])]
        for name, flags in variants.items():
            kernels = [f"-DKERNELS=kernels_{name}", *flags.split()]
            objects.append(_compile(compiler, "kernels.c", Path(folder) / f"{name}.o", kernels))
        linked = library.with_suffix(".part")
        _run([*compiler, "-shared", *objects, "-lm", "-o", str(linked)])
        linked.replace(library)  # a running program continues with the file that it has mapped


def _compile(compiler: list[str], source: str, out: Path, flags: list[str]) -> str:
    _run([*compiler, *COMMON, EXACT, *flags, "-c", str(SOURCES / source), "-o", str(out)])
    return str(out)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError as error:
        raise SystemExit(
            f"patchcore-native needs a C compiler, but {command[0]!r} was not found; install gcc or clang, or set CC. "
            "Without patchcore-native, patchcore-plugin works but is slower"
        ) from error
