"""The command line as a whole: help, wrong usage, and a reader who has enough."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from patchcore_plugin.cli import app
from tests.commands import Ended, done, patchcore, process


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, groups of commands included."""
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


COMMANDS = list(commands(typer.main.get_command(app)))


def unframed(ended: Ended) -> str:
    """Return what was said, in one line and without the frames around it."""
    return " ".join(re.sub("[─│╭╮╰╯]", " ", ended.out + ended.err).split())


def test_the_commands() -> None:
    assert {words[0] for words in COMMANDS if words} == {
        *("fit", "calibrate", "update", "predict", "watch", "evaluate", "export", "export-backbone"),
        *("plugins", "recipes", "app", "demo"),
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(command: tuple[str, ...], option: str) -> None:
    ended = done(*command, option)
    assert f"Usage: {' '.join(('patchcore', *command))} [OPTIONS]" in unframed(ended)
    assert ended.err == ""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_in_the_help_is_taken_for_markup(command: tuple[str, ...]) -> None:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    assert " ".join(found.help.split()) in unframed(done(*command, "--help"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fitt"], "No such command 'fitt'"),
        (["fit"], "Missing argument 'IMAGES"),
        (["fit", "images"], "Missing option '--out'"),
        (["fit", "--out", "x"], "Missing argument 'IMAGES"),
        (["fit", "images", "--out", "x", "--seed", "one"], "Invalid value for '--seed'"),
        (["fit", "images", "--out", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["fit", "images", "--out", "x", "--seed", str(2**63)], "Invalid value for '--seed'"),
        (["fit", "images", "--out", "x", "--on-error", "ignore"], "Invalid value for '--on-error'"),
        (["fit", "images", "--out", "x", "--colour"], "No such option: --colour"),
        (["predict", "model", "--out", "x"], "Missing argument 'IMAGES"),
        (["evaluate", "--out", "x"], "Missing argument 'DATASET"),
        (["calibrate", "model", "--cost", "2"], "--cost belongs to --criterion cost"),
        (["plugins", "show"], "Missing argument 'NAME"),
        (["plugins", "remove"], "No such command 'remove'"),
        (["recipes", "show"], "Missing argument 'NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(arguments: list[str], complaint: str) -> None:
    ended = patchcore(*arguments)
    assert (ended.code, ended.out) == (2, "")
    said = unframed(ended)
    assert said.startswith("Usage: patchcore ")
    assert complaint.lower() in said.lower()  # an argument's name is written in capitals by some versions of typer


@pytest.mark.parametrize("arguments", [[], ["plugins"], ["recipes"]], ids=" ".join)
def test_without_a_command_there_is_help(arguments: list[str]) -> None:
    ended = patchcore(*arguments)
    assert ended.code in (0, 2)  # 0 from click before 8.2
    assert f"Usage: {' '.join(['patchcore', *arguments])} [OPTIONS] COMMAND" in unframed(ended)


def test_the_version() -> None:
    version = importlib.metadata.version("patchcore-plugin")
    assert done("--version") == Ended(0, f"patchcore-plugin {version}\n", "")
    assert done("--version", "fitt").out == f"patchcore-plugin {version}\n"


def test_the_package_runs_as_the_command() -> None:
    command = [sys.executable, "-W", "error", "-m", "patchcore_plugin", "plugins", "show", "no-such-component"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("patchcore: no component is called 'no-such-component'; there are: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_has_enough_is_told_nothing(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        process("recipes", "show", "patchcore"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        shown.stdout.close()
        said = shown.stderr.read()
    assert (shown.returncode, said) == (1, b"")
