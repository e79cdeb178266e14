"""What several test files share: an undisturbed environment, drawn images, and fake distributions."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from patchcore_plugin.kernels._native import SWITCH, native

if TYPE_CHECKING:
    from tests.commands import CommandResult

# What the caller's shell sets is kept out: which plugins are blocked, and whether output is a terminal. Typer asks
# for the latter when it is imported, before any fixture runs.
for name in (
    *("PATCHCORE_BLOCK_PLUGINS", "PATCHCORE_STRICT_PLUGINS", "PATCHCORE_COMPILED"),
    *("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
):
    os.environ.pop(name, None)


def draw(seed: int, *, defect: bool = False, size: tuple[int, int] = (72, 96)) -> npt.NDArray[np.uint8]:
    """Draw a washer on a bench, BGR; a defective one has a dark blot."""
    height, width = size
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 200, dtype=np.uint8)
    centre = width // 2 + int(rng.integers(-3, 4)), height // 2 + int(rng.integers(-3, 4))
    cv2.circle(image, centre, height // 3, (90, 140, 90), -1)
    cv2.circle(image, centre, height // 8, (200, 200, 200), -1)
    if defect:
        cv2.circle(image, (centre[0] + height // 5, centre[1]), height // 9, (10, 10, 60), -1)
    noisy = image + rng.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write(path: Path, image: npt.NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small category in MVTec AD's layout; not to be changed."""
    root = tmp_path_factory.mktemp("drawn") / "washer"
    for number in range(10):
        write(root / "train" / "good" / f"{number:03}.png", draw(number))
    for number in range(3):
        write(root / "test" / "good" / f"{number:03}.png", draw(100 + number))
        clean, bad = draw(200 + number), draw(200 + number, defect=True)
        write(root / "test" / "blot" / f"{number:03}.png", bad)
        mask = (np.abs(clean.astype(int) - bad).max(axis=2) > 40).astype(np.uint8) * 255
        write(root / "ground_truth" / "blot" / f"{number:03}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def good(dataset: Path) -> Path:
    """The folder of its ten good images."""
    return dataset / "train" / "good"


@pytest.fixture(scope="session")
def fitted_washer(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """A model that `patchcore fit` made of the small category, and what the command said; not to be changed."""
    from tests.commands import SMALL, run_command  # which imports Typer

    model = tmp_path_factory.mktemp("fitted") / "new" / "part.safetensors"
    return model, run_command("fit", dataset, "--out", model, *SMALL)


@pytest.fixture(scope="session")
def washer_model(fitted_washer: tuple[Path, CommandResult]) -> Path:
    """The model file of `fitted_washer`."""
    return fitted_washer[0]


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a distribution of one module with one entry point; returns the folder to put on PYTHONPATH.

    The module is called as the distribution, with underscores.
    """
    modules: list[str] = []

    def install(name: str, source: str, *, version: str = "1.0", entry_point: str = "") -> Path:
        module = name.replace("-", "_")
        folder = tmp_path / "installed" / name
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        points = f"[patchcore_plugin]\n{entry_point or name} = {module}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        modules.append(module)
        return folder

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where images arrive that are watched for."""
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the results of a watch go."""
    return tmp_path / "out"


INSTRUCTION_SETS = ("portable", "AVX2", "AVX-512 VNNI")


@pytest.fixture(params=("torch", "compiled"))
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the torch kernels, and with the compiled ones for the best instruction set."""
    name: str = request.param
    monkeypatch.setenv(SWITCH, "0" if name == "torch" else "1")
    if name == "compiled":
        if native() is None:
            pytest.skip("patchcore-native is not installed")
        monkeypatch.setattr("patchcore_plugin.kernels.coreset.native.BUDGET", math.inf)
    return name


@pytest.fixture(params=range(len(INSTRUCTION_SETS)), ids=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test with the compiled kernels for each instruction set of this processor."""
    monkeypatch.setenv(SWITCH, "1")
    module = native()
    if module is None:
        pytest.skip("patchcore-native is not installed")
    library, number = module.library(), request.param
    best = library.patchcore_using()
    monkeypatch.setattr("patchcore_plugin.kernels.coreset.native.BUDGET", math.inf)
    try:
        if library.patchcore_use(number) != number:
            pytest.skip(f"this processor has no {INSTRUCTION_SETS[number]}")
        yield INSTRUCTION_SETS[number]
    finally:
        library.patchcore_use(best)


@pytest.fixture
def torch_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with the torch kernels only."""
    monkeypatch.setenv(SWITCH, "0")
