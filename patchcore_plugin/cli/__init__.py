"""The command line. Commands import heavy libraries only when they run, so that help and listings are fast."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated

import typer

from patchcore_plugin.errors import PatchcoreError, one_line
from patchcore_plugin.plugins.manager import OWN_DISTRIBUTION

from . import (
    app,
    calibrate,
    completion,
    demo,
    evaluate,
    export,
    export_backbone,
    fit,
    plugins,
    predict,
    recipes,
    update,
    watch,
)
from .options import PluginFilter

command_line = typer.Typer(
    name="patchcore",
    help="Find defects in product images after fitting on good images only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command_line.command("fit")(fit.command)
command_line.command("calibrate")(calibrate.command)
command_line.command("update")(update.command)
command_line.command("predict")(predict.command)
command_line.command("watch")(watch.command)
command_line.command("evaluate")(evaluate.command)
command_line.command("export")(export.command)
command_line.command("export-backbone")(export_backbone.command)
command_line.add_typer(plugins.app, name="plugins")
command_line.add_typer(recipes.app, name="recipes")
command_line.command("app")(app.command)
command_line.command("demo")(demo.command)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"{OWN_DISTRIBUTION} {importlib.metadata.version(OWN_DISTRIBUTION)}")
        raise typer.Exit


@command_line.callback()
def global_options(
    context: typer.Context,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Do not load this plugin or distribution; repeatable.",
            metavar="NAME",
            autocompletion=completion.plugins,
        ),
    ] = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Load built-in plugins only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version)
    ] = False,
) -> None:
    """Find defects in product images after fitting on good images only."""
    context.obj = PluginFilter(names=tuple(block or ()), entry_points=not no_plugins)


def main() -> None:
    """Run the command line and exit: code 0 for success, 1 for a failure explained in one line, 2 for wrong usage."""
    try:
        try:
            command_line(prog_name="patchcore")
        finally:
            sys.stdout.flush()
    except PatchcoreError as error:
        _fail(one_line(error))
    except BrokenPipeError:
        # The reader closed the pipe. Python flushes standard output again on exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        location = f"{error.filename}: " if error.filename else ""
        _fail(f"{location}{error.strerror or one_line(error)}; check the path, its permissions and the free space")


def _fail(message: str) -> None:
    print(f"patchcore: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
