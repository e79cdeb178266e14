"""`patchcore plugins`: list, show and check installed plugins."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from patchcore_plugin.errors import OptionError, PluginError, did_you_mean, one_line
from patchcore_plugin.plugins.manager import Component, Host
from patchcore_plugin.plugins.options import describe
from patchcore_plugin.plugins.specs import ROLES

from . import completion
from .console import format_count, print_json, print_table
from .options import JsonOption, SetOption, create_host
from .parsing import parse_option

app = typer.Typer(help="List, show and check plugins.", no_args_is_help=True)

RoleOption = Annotated[
    str | None,
    typer.Option("--role", help=f"List one role only: {', '.join(ROLES)}.", autocompletion=completion.roles),
]


@app.command("list")
def list_plugins(context: typer.Context, role: RoleOption = None, as_json: JsonOption = False) -> None:
    """List the components of all plugins, and the plugins that failed to load or are blocked."""
    host = create_host(context)
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
    """Show the options of a component: type, default and meaning."""
    host = create_host(context)
    components = [host.component(role, name) for role in _find_roles(host, name)]
    if as_json:
        print_json([_describe(component) for component in components])
        return
    for component in components:
        role, spec = component.spec.role, component.spec
        print(f"{role} {name}: {spec.summary}")
        print(f"plugin: {component.plugin}")
        if spec.kernels:
            print(f"CPU kernels: {spec.kernels('cpu')}")
        options = describe(spec.config)
        if options:
            rows = [[f"{role}.{option.name}", option.type, option.default, option.meaning] for option in options]
            print_table(["option", "type", "default", "meaning"], rows)
        else:
            print("no options")


def _describe(component: Component) -> dict[str, Any]:
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


def _find_roles(host: Host, name: str) -> list[str]:
    roles = [role for role in ROLES if name in host.names(role)]
    if not roles:
        names = sorted({name for role in ROLES for name in host.names(role)})
        failures = [f"{plugin}: {plugin.reason}" for plugin in host.plugins if plugin.status == "failed"]
        missing = f"; not loaded: {'; '.join(failures)}" if failures else ""
        raise PluginError(
            f"unknown component {name!r}; {did_you_mean(name, names)}available: {', '.join(names)}{missing}"
        )
    return roles


@app.command("check")
def check_plugins(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Components to check, including backbones.",
            show_default="all components",
            metavar="NAME",
            autocompletion=completion.components,
        ),
    ] = None,
    options: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load all plugins and check that their components conform to the contracts.

    Prints one line per problem and exits with code 1 if there are any.

    Backbones are created and called only if they are named, because they may need weights.
    """
    host = create_host(context)
    if options and not names:
        raise OptionError("--set requires a component: patchcore plugins check NAME --set ROLE.OPTION=VALUE")
    report = _ConformanceReport()
    if names:
        components = [host.component(role, name) for name in names for role in _find_roles(host, name)]
    else:
        report.problems += [f"{plugin}: {plugin.reason}" for plugin in host.plugins if plugin.status == "failed"]
        report.problems += host.clashes()
        keys = [(component.spec.role, component.spec.name) for component in host.components()]
        components = [component for component, key in zip(host.components(), keys, strict=True) if keys.count(key) == 1]
    options_by_role = _group_by_role(options or [], components)
    try:
        import torch  # noqa: F401
    except Exception as error:  # a damaged installation can raise anything
        problem = f"torch cannot be imported ({type(error).__name__}: {one_line(error)}); no component was called"
        report.problems.append(problem)
        callable_roles: set[str] = set()
    else:
        callable_roles = set(ROLES) if names else set(ROLES) - {"backbone"}
    with contextlib.redirect_stdout(sys.stderr):  # output of components must not mix with the JSON document
        for component in components:
            role = component.spec.role
            report.check(host, component, options_by_role.get(role, {}), behaviour=role in callable_roles)
    if names:
        report.problems += report.unavailable  # the user asked for these components
    plugins = [str(plugin) for plugin in host.plugins if plugin.status == "loaded"]
    problems = list(dict.fromkeys(report.problems))
    if as_json:
        print_json(
            {
                "loaded": plugins,
                "checked": report.results,
                "unavailable": report.unavailable,
                "problems": problems,
            }
        )
    else:
        print(f"{format_count(len(plugins), 'plugin')} loaded, {format_count(len(host.components()), 'component')}")
        report.print_summary(all_components=not names)
    for problem in problems:
        typer.echo(f"patchcore: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


def _group_by_role(texts: list[str], components: list[Component]) -> dict[str, dict[str, Any]]:
    roles = {component.spec.role for component in components}
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        role, option, value = parse_option(text)
        if role not in roles:
            raise OptionError(
                f"--set {text}: no {role} is being checked; name one, or set a {' or '.join(sorted(roles))} option"
            )
        options.setdefault(role, {})[option] = value
    return options


@dataclass
class _ConformanceReport:
    """Results of the conformance checks.

    Parameters
    ----------
    results
        For each component: role, name, and titles of the checks that passed and failed.
    unavailable
        A line for each component that cannot be created.
    problems
        A line for each violation of a contract.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def check(self, host: Host, component: Component, options: dict[str, Any], *, behaviour: bool) -> None:
        """Check a component, up to the point where it cannot be created."""
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
        self.results.append({"role": spec.role, "name": spec.name, "passed": passed, "failed": failed})

    def print_summary(self, *, all_components: bool) -> None:
        """Print the number of checks, and which components were created and called."""
        called = [
            f"{result['role']} {result['name']}" for result in self.results if "can-be-created" in result["passed"]
        ]
        passed, failed = (sum(len(result[key]) for result in self.results) for key in ("passed", "failed"))
        print(
            f"{format_count(passed, 'check')} passed, {failed} failed, "
            f"{format_count(len(self.results), 'component')} checked"
        )
        if called:
            print(f"created and called: {', '.join(called)}")
        if all_components:
            print("backbones were not created; to check one: patchcore plugins check NAME")
            for line in self.unavailable:
                print(f"not fully checked: {line}")
