"""Shell completion: names only, without importing torch and without output from broken plugins."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Callable, Iterable

import typer

from patchcore_plugin.errors import PluginError
from patchcore_plugin.plugins.builtin import PLUGINS
from patchcore_plugin.plugins.hookspecs import PROJECT
from patchcore_plugin.plugins.manager import OWN_DISTRIBUTION, Host
from patchcore_plugin.plugins.specs import ROLES

Completion = Callable[[typer.Context, str], list[str]]


def component_names(*roles: str) -> Completion:
    """Return a function that completes the names of components of these roles."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        host = _create_host(context)
        return _matching({name for role in roles for name in host.names(role)}, incomplete)

    return complete


components = component_names(*ROLES)


def recipes(incomplete: str) -> list[str]:
    """Complete the name of a built-in recipe."""
    from patchcore_plugin.models.recipes import Recipe

    return _matching(Recipe.names(), incomplete)


def roles(incomplete: str) -> list[str]:
    """Complete the name of a role."""
    return [role for role in ROLES if role.startswith(incomplete)]


def plugins(incomplete: str) -> list[str]:
    """Complete the name of a plugin or distribution without importing it: it may be slow or broken."""
    names = {*PLUGINS, OWN_DISTRIBUTION}
    for entry in importlib.metadata.entry_points(group=PROJECT):
        names.add(entry.name)
        with contextlib.suppress(Exception):  # an incomplete installation has no name
            names.add(entry.dist.name if entry.dist else entry.name)
    return _matching(names - {None}, incomplete)


def _create_host(context: typer.Context) -> Host:
    """Return a host that respects the options before the cursor, and silence plugins that print."""
    options = context.find_root().params
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return Host(block=options.get("block") or (), entry_points=not options.get("no_plugins"), strict=False)
        except PluginError:  # a name to block is misspelt: import nothing that it may mean
            return Host(entry_points=False, strict=False)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
