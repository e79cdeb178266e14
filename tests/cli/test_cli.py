"""The command line as a whole: help, wrong usage, version and broken pipes."""

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

from patchcore_plugin.cli import command_line
from tests.commands import CommandResult, patchcore, process, run_command


def list_commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, and of each group of commands."""
    yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from list_commands(child, (*words, name))


COMMANDS = list(list_commands(typer.main.get_command(command_line)))


def unframed(ended: CommandResult) -> str:
    """Return the output on one line, without frames."""
    return " ".join(re.sub("[─│╭╮╰╯]", " ", ended.out + ended.err).split())


def test_names_of_the_commands() -> None:
    assert {words[0] for words in COMMANDS if words} == {
        *("fit", "calibrate", "update", "predict", "watch", "evaluate", "export", "export-backbone"),
        *("plugins", "recipes", "app", "demo"),
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: tuple[str, ...]) -> None:
    ended = run_command(*command, "--help")
    assert f"Usage: {' '.join(('patchcore', *command))} [OPTIONS]" in unframed(ended)
    assert ended.err == ""
    assert run_command(*command, "-h") == ended
    # Nothing in the help is interpreted as markup.
    group: Any = typer.main.get_command(command_line)
    for name in command:
        group = group.commands[name]
    assert " ".join(group.help.split()) in unframed(ended)


def test_help_of_every_option_is_a_sentence() -> None:
    for words in COMMANDS:
        command: Any = typer.main.get_command(command_line)
        for name in words:
            command = command.commands[name]
        for parameter in command.params:
            assert re.fullmatch(r"[A-Z].*\.", parameter.help or ""), (words, parameter.name)


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
        (["fit", "images", "--out", "x", "--memory-budget", "2"], "Invalid value for '--memory-budget'"),
        (["fit", "images", "--out", "x", "--colour"], "No such option: --colour"),
        (["predict", "model", "--out", "x"], "Missing argument 'IMAGES"),
        (["evaluate", "--out", "x"], "Missing argument 'DATASET"),
        (["calibrate", "model", "--cost", "2"], "--criterion cost"),
        (["plugins", "show"], "Missing argument 'NAME"),
        (["plugins", "remove"], "No such command 'remove'"),
        (["recipes", "show"], "Missing argument 'NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(arguments: list[str], complaint: str) -> None:
    ended = patchcore(*arguments)
    assert (ended.code, ended.out) == (2, "")
    message = unframed(ended)
    assert message.startswith("Usage: patchcore ")
    assert complaint.lower() in message.lower()  # some versions of typer write arguments in capitals


@pytest.mark.parametrize("arguments", [[], ["plugins"], ["recipes"]], ids=" ".join)
def test_without_a_command_help_is_printed(arguments: list[str]) -> None:
    ended = patchcore(*arguments)
    assert ended.code in (0, 2)  # 0 from click before 8.2
    assert f"Usage: {' '.join(['patchcore', *arguments])} [OPTIONS] COMMAND" in unframed(ended)


def test_version() -> None:
    version = importlib.metadata.version("patchcore-plugin")
    assert run_command("--version") == CommandResult(0, f"patchcore-plugin {version}\n", "")
    assert run_command("--version", "fitt").out == f"patchcore-plugin {version}\n"


@pytest.mark.e2e
def test_package_runs_as_the_command() -> None:
    command = [sys.executable, "-W", "error", "-m", "patchcore_plugin", "plugins", "show", "no-such-component"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("patchcore: unknown component 'no-such-component'; ")


@pytest.mark.e2e
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe_ends_without_a_message(unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        process("recipes", "show", "patchcore"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        message = command.stderr.read()
    assert (command.returncode, message) == (1, b"")
