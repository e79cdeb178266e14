"""Finding patchcore-native, and falling back to torch with a reason if it does not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from patchcore_plugin.kernels import _native
from patchcore_plugin.kernels.backend import describe
from patchcore_plugin.kernels.nearest import NearestRows
from tests.kernels.vectors import normal


@pytest.fixture
def reload(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look for patchcore-native again, in this test and after it."""
    monkeypatch.delenv(_native.SWITCH, raising=False)
    _native._load.cache_clear()
    yield
    monkeypatch.undo()
    _native._load.cache_clear()


class StaleLibrary:
    """A library of another version, of which no other symbol may be used."""

    def __init__(self, version: int) -> None:
        self.patchcore_version = lambda: version


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_it_is_installed_if_there_is_a_compiler() -> None:
    assert _native.native() is not None


@pytest.mark.parametrize("version", [None, 0, _native.INTERFACE + 1])
def test_a_module_of_another_version_is_not_used(
    version: int | None, reload: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = ModuleType("patchcore_native")  # has no library(): touching it would fail
    if version is not None:
        stale.VERSION = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "patchcore_native", stale)
    assert _native.native() is None
    assert f"interface version {version}, expected {_native.INTERFACE}" in _native.unavailable()
    assert describe() == f"torch ({_native.rejection()})"
    assert "\n" not in describe()
    assert int(NearestRows(normal(9, 4))(normal(9, 4)[:1])[1]) == 0


def test_a_library_of_another_version_is_not_used(reload: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = ModuleType("patchcore_native")
    stale.VERSION = _native.INTERFACE  # type: ignore[attr-defined]
    stale.library = lambda: StaleLibrary(7)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "patchcore_native", stale)
    assert _native.native() is None
    assert "interface version 7" in describe()


@pytest.mark.parametrize("source", ["raise RuntimeError('two\\nlines')", "import nothing_of_that_name", "VERSION = 1"])
def test_a_broken_module_is_not_used(
    source: str, reload: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "patchcore_native.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "patchcore_native", raising=False)
    assert _native.native() is None
    assert describe().startswith("torch (patchcore-native cannot be loaded: ")
    assert "\n" not in describe()
    monkeypatch.delitem(sys.modules, "patchcore_native", raising=False)


def test_a_missing_distribution_needs_no_reason(reload: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "patchcore_native", None)
    assert _native.native() is None
    assert "not installed" in _native.unavailable()
    assert describe() == "torch"


def test_portable_kernels_need_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_native.SWITCH, "1")
    module = _native.native()
    if module is None:
        pytest.skip("patchcore-native is not installed")
    best = module.library().patchcore_using()
    try:
        module.library().patchcore_use(0)
        assert _native.native() is module
        monkeypatch.delenv(_native.SWITCH)
        assert _native.native() is None
        assert "torch is probably faster" in _native.unavailable()
        assert describe() == "torch"
    finally:
        module.library().patchcore_use(best)


def test_a_variable_disables_it(torch_kernels: None) -> None:
    assert _native.native() is None
    assert _native.SWITCH in _native.unavailable()
    assert _native.rejection() == ""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_an_old_library_without_newer_symbols_is_not_used(tmp_path: Path) -> None:
    native = pytest.importorskip("patchcore_native")
    folder = tmp_path / "patchcore_native"
    folder.mkdir()
    shutil.copy(native.__file__, folder)
    library = folder / ("libpatchcore.dylib" if sys.platform == "darwin" else "libpatchcore.so")
    (tmp_path / "old.c").write_text("int patchcore_version(void) { return 0; }\n", encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "old.c"], check=True, timeout=120)
    code = (
        "from patchcore_plugin.kernels.backend import describe; import sys; print(describe(), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert "version 0, expected 1" in ended.stdout
    assert ended.stdout.endswith(" False\n")  # listings call `describe`, and must not


def test_the_versions_agree() -> None:
    native = pytest.importorskip("patchcore_native")
    assert native.VERSION == native.library().patchcore_version() == _native.INTERFACE
