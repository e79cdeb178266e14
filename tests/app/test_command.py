"""The command `patchcore app`, before it serves the page."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patchcore_plugin.cli import command_line
from patchcore_plugin.errors import PatchcoreError


def error_of(*arguments: str) -> str:
    """Return the error message of the command."""
    result = CliRunner().invoke(command_line, ["app", *arguments])
    assert isinstance(result.exception, PatchcoreError)
    return str(result.exception)


def test_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.cli.app.find_spec", lambda name: None)
    assert "pip install 'patchcore-plugin[app]'" in error_of()


def test_missing_model_or_folder_is_reported(tmp_path: Path) -> None:
    assert "gone.safetensors" in error_of(str(tmp_path / "gone.safetensors"))
    assert f"{tmp_path / 'gone'}: no such folder" in error_of("--images", str(tmp_path / "gone"))


@pytest.mark.parametrize(("option", "value"), [("--max-pixels", "inf"), ("--max-pixels", "0"), ("--max-upload", "0MB")])
def test_unusable_limits_are_refused(option: str, value: str) -> None:
    result = CliRunner().invoke(command_line, ["app", option, value])
    assert (result.exit_code, option in result.output) == (2, True)


def test_unusable_address_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"127.0.0.1, port {port} (Address already in use)" in error_of("--port", str(port))
    assert "nowhere.invalid, port 8080" in error_of("--host", "nowhere.invalid")


@pytest.mark.slow
def test_help_imports_neither_nicegui_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['patchcore', 'app', '--help']\n"
        "from patchcore_plugin.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'nicegui', 'torch', 'starlette'} & set(sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (process.returncode, process.stderr) == (0, "")
    assert "--max-upload" in process.stdout
