"""The command, before it serves anything."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patchcore_plugin.cli import app
from patchcore_plugin.errors import PatchcoreError


def run(*arguments: str) -> str:
    """Return what the command says is wrong."""
    done = CliRunner().invoke(app, ["app", *arguments])
    assert isinstance(done.exception, PatchcoreError)
    return str(done.exception)


def test_without_the_extra_one_line_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_plugin.cli.web.find_spec", lambda name: None)
    assert run() == "the app needs NiceGUI, which is not installed; pip install 'patchcore-plugin[app]'"


def test_what_is_wrong_at_the_start_is_told(tmp_path: Path) -> None:
    assert "gone.safetensors" in run(str(tmp_path / "gone.safetensors"))
    assert (
        run("--images", str(tmp_path / "gone"))
        == f"{tmp_path / 'gone'}: no such folder; give --images a folder that exists"
    )


def test_limits_that_are_none_are_refused() -> None:
    for option, value in (("--max-pixels", "inf"), ("--max-pixels", "0"), ("--max-upload", "0MB")):
        done = CliRunner().invoke(app, ["app", option, value])
        assert (done.exit_code, option in done.output) == (2, True)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run("--port", str(port)) == (
            f"cannot listen on 127.0.0.1, port {port} (Address already in use); choose another with --host and --port"
        )
    assert "cannot listen on nowhere.invalid, port 8080" in run("--host", "nowhere.invalid")


def test_help_imports_neither_nicegui_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['patchcore', 'app', '--help']\n"
        "from patchcore_plugin.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'nicegui', 'torch', 'starlette'} & set(sys.modules), 'too much'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--max-upload" in done.stdout
