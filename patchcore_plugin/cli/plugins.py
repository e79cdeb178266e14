"""`patchcore plugins`: what is installed, what it provides, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from patchcore_plugin.errors import PluginError
from patchcore_plugin.options import describe
from patchcore_plugin.specs import ROLES

from .console import print_json, print_table
from .setup import JsonOption, host_of

app = typer.Typer(help="List, show and check plugins.", no_args_is_help=True)

RoleOption = Annotated[str | None, typer.Option("--role", help=f"Only this role: {', '.join(ROLES)}.")]


@app.command("list")
def list_plugins(context: typer.Context, role: RoleOption = None, as_json: JsonOption = False) -> None:
    """List the components of all plugins, and the plugins that are not loaded."""
    host = host_of(context)
    rows = [
        {
            "role": component.spec.role,
            "name": component.spec.name,
            "distribution": component.plugin.distribution,
            "version": component.plugin.version,
            "plugin": component.plugin.name,
            "status": component.plugin.status,
            "summary": component.spec.summary,
        }
        for component in host.components(role)
    ]
    rows += [
        {
            "role": "-",
            "name": "-",
            "distribution": plugin.distribution,
            "version": plugin.version,
            "plugin": plugin.name,
            "status": plugin.status,
            "summary": plugin.reason,
        }
        for plugin in host.plugins
        if plugin.status != "loaded"
    ]
    if as_json:
        print_json(rows)
        return
    columns = ["role", "name", "plugin", "distribution", "version", "status", "summary"]
    print_table(columns, [[row[column] for column in columns] for row in rows])


@app.command("show")
def show_plugin(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a component, such as greedy-coreset.")],
    as_json: JsonOption = False,
) -> None:
    """Show a component's options: types, defaults and meaning."""
    host = host_of(context)
    roles = [role for role in ROLES if name in host.names(role)]
    if not roles:
        every = sorted({each for role in ROLES for each in host.names(role)})
        raise PluginError(f"no component is called {name!r}; there are: {', '.join(every)}")
    for role in roles:
        component = host.component(role, name)
        options = describe(component.spec.config)
        kernels = component.spec.kernels("cpu") if component.spec.kernels else None
        if as_json:
            print_json(
                {
                    "role": role,
                    "name": name,
                    "summary": component.spec.summary,
                    "plugin": component.plugin.name,
                    "distribution": component.plugin.distribution,
                    "version": component.plugin.version,
                    "kernels": kernels,
                    "options": [vars(option) for option in options],
                }
            )
            continue
        print(f"{role} {name}: {component.spec.summary}")
        print(f"from plugin {component.plugin}")
        if kernels:
            print(f"kernels on a CPU: {kernels}")
        if options:
            rows = [[f"{role}.{each.name}", each.type, each.default, each.meaning] for each in options]
            print_table(["option", "type", "default", "meaning"], rows)
        else:
            print("no options")


@app.command("check")
def check_plugins(context: typer.Context, as_json: JsonOption = False) -> None:
    """Load every plugin; exit code 1 if one failed or two claim the same name."""
    host = host_of(context)
    problems = [f"{plugin}: {plugin.reason}" for plugin in host.plugins if plugin.status == "failed"]
    problems += host.clashes()
    loaded = [plugin for plugin in host.plugins if plugin.status == "loaded"]
    if as_json:
        print_json({"loaded": [str(plugin) for plugin in loaded], "problems": problems})
    else:
        print(f"{len(loaded)} plugins loaded, {len(host.components())} components")
    for problem in problems:
        typer.echo(f"patchcore: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
