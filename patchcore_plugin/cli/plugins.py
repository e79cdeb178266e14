"""`patchcore plugins`: what is installed, what it provides, and what is wrong with it."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from patchcore_plugin.errors import OptionError, PluginError
from patchcore_plugin.plugins.manager import Component, Host
from patchcore_plugin.plugins.options import describe
from patchcore_plugin.plugins.specs import ROLES

from . import completion
from .console import print_json, print_table
from .setup import JsonOption, SetOption, host_of, parse_option

app = typer.Typer(help="List, show and check plugins.", no_args_is_help=True)

RoleOption = Annotated[
    str | None,
    typer.Option("--role", help=f"Only this role: {', '.join(ROLES)}.", autocompletion=completion.roles),
]


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
    name: Annotated[
        str,
        typer.Argument(help="Name of a component, such as greedy-coreset.", autocompletion=completion.components),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show a component's options: types, defaults and meaning."""
    host = host_of(context)
    found = [host.component(role, name) for role in _roles_of(host, name)]
    if as_json:
        print_json([_described(component) for component in found])
        return
    for component in found:
        role, spec = component.spec.role, component.spec
        print(f"{role} {name}: {spec.summary}")
        print(f"from plugin {component.plugin}")
        if spec.kernels:
            print(f"kernels on a CPU: {spec.kernels('cpu')}")
        options = describe(spec.config)
        if options:
            rows = [[f"{role}.{each.name}", each.type, each.default, each.meaning] for each in options]
            print_table(["option", "type", "default", "meaning"], rows)
        else:
            print("no options")


def _described(component: Component) -> dict[str, Any]:
    spec, plugin = component.spec, component.plugin
    return {
        "role": spec.role,
        "name": spec.name,
        "summary": spec.summary,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "kernels": spec.kernels("cpu") if spec.kernels else None,
        "options": [vars(option) for option in describe(spec.config)],
    }


def _roles_of(host: Host, name: str) -> list[str]:
    roles = [role for role in ROLES if name in host.names(role)]
    if not roles:
        every = sorted({each for role in ROLES for each in host.names(role)})
        failed = [f"{plugin}: {plugin.reason}" for plugin in host.plugins if plugin.status == "failed"]
        missing = f"; not loaded: {'; '.join(failed)}" if failed else ""
        raise PluginError(f"no component is called {name!r}; there are: {', '.join(every)}{missing}")
    return roles


@app.command("check")
def check_plugins(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Check these components only, backbones included; by default all.",
            metavar="NAME",
            autocompletion=completion.components,
        ),
    ] = None,
    options: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load every plugin and check what it provides; exit code 1, with a line for each thing that is wrong.

    Backbones are made and called only if they are named; of the others, all that they do is checked.
    """
    host = host_of(context)
    if options and not names:
        raise OptionError("--set needs the name of a component: patchcore plugins check NAME --set ROLE.OPTION=VALUE")
    report = _Report()
    if names:
        wanted = [host.component(role, name) for name in names for role in _roles_of(host, name)]
    else:
        report.problems += [f"{plugin}: {plugin.reason}" for plugin in host.plugins if plugin.status == "failed"]
        report.problems += host.clashes()
        every = host.components()
        keys = [(each.spec.role, each.spec.name) for each in every]
        wanted = [each for each, key in zip(every, keys, strict=True) if keys.count(key) == 1]
    given = _options_by_role(options or [], wanted)
    try:
        import torch  # noqa: F401
    except Exception as error:  # whatever a damaged installation raises
        problem = f"torch cannot be imported ({type(error).__name__}: {error}); no component was called"
        report.problems.append(" ".join(problem.split()))
        callable_roles: set[str] = set()
    else:
        callable_roles = set(ROLES) if names else set(ROLES) - {"backbone"}
    with contextlib.redirect_stdout(sys.stderr):  # what components print is not part of the answer
        for component in wanted:
            role = component.spec.role
            report.check(host, component, given.get(role, {}), behaviour=role in callable_roles)
    if names:
        report.problems += report.unavailable  # it was asked for
    loaded = [str(plugin) for plugin in host.plugins if plugin.status == "loaded"]
    problems = list(dict.fromkeys(report.problems))
    if as_json:
        print_json(
            {
                "loaded": loaded,
                "checked": report.checked,
                "unavailable": report.unavailable,
                "problems": problems,
            }
        )
    else:
        print(f"{_counted(len(loaded), 'plugin')} loaded, {_counted(len(host.components()), 'component')}")
        report.print(asked=bool(names))
    for problem in problems:
        typer.echo(f"patchcore: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


def _options_by_role(texts: list[str], wanted: list[Component]) -> dict[str, dict[str, Any]]:
    roles = {component.spec.role for component in wanted}
    given: dict[str, dict[str, Any]] = {}
    for text in texts:
        role, option, value = parse_option(text)
        if role not in roles:
            raise OptionError(
                f"--set {text}: no {role} is checked; name one, or set {' or '.join(sorted(roles))} options"
            )
        given.setdefault(role, {})[option] = value
    return given


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass
class _Report:
    """What was checked, and what came of it."""

    checked: list[dict[str, Any]] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def check(self, host: Host, component: Component, options: dict[str, Any], *, behaviour: bool) -> None:
        """Check a component; one that cannot be made is left at that."""
        from patchcore_plugin.plugins.testing import ConformanceError, UnavailableError, component_checks

        passed: list[str] = []
        failed: list[str] = []
        faults: dict[str, list[str]] = {}
        for check in component_checks(host, component, options=options, behaviour=behaviour):
            try:
                check()
            except UnavailableError as error:
                self.unavailable.append(str(error))
                break
            except ConformanceError as error:
                failed.append(check.title)
                faults.setdefault(str(error), []).append(check.title)
            else:
                passed.append(check.title)
        self.problems += [f"{fault} [{', '.join(titles)}]" for fault, titles in faults.items()]
        spec = component.spec
        self.checked.append({"role": spec.role, "name": spec.name, "passed": passed, "failed": failed})

    def print(self, *, asked: bool) -> None:
        """Say what was checked."""
        called = [f"{each['role']} {each['name']}" for each in self.checked if "can-be-created" in each["passed"]]
        passed, failed = (sum(len(each[what]) for each in self.checked) for what in ("passed", "failed"))
        print(f"{_counted(passed, 'check')} passed, {failed} failed, of {_counted(len(self.checked), 'component')}")
        if called:
            print(f"made and called: {', '.join(called)}")
        if asked:
            return
        print("of backbones, records and options only; to call one: patchcore plugins check NAME")
        for line in self.unavailable:
            print(f"not fully checked: {line}")
