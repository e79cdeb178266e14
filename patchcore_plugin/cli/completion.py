"""What the shell offers when Tab is pressed: names, without torch, and without a word about broken plugins."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Callable

import typer

from patchcore_plugin.errors import PluginError
from patchcore_plugin.plugins.builtin import PLUGINS
from patchcore_plugin.plugins.hookspecs import PROJECT
from patchcore_plugin.plugins.manager import OWN_DISTRIBUTION, Host
from patchcore_plugin.plugins.specs import ROLES

Completion = Callable[[typer.Context, str], list[str]]


def names_of(*roles: str) -> Completion:
    """Return a completion of the names of components of these roles."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        host = _host(context)
        return _matching({name for role in roles for name in host.names(role)}, incomplete)

    return complete


components = names_of(*ROLES)


def recipes(incomplete: str) -> list[str]:
    """Complete the name of a shipped recipe."""
    from patchcore_plugin.models.recipes.recipe import Recipe

    return _matching(Recipe.names(), incomplete)


def roles(incomplete: str) -> list[str]:
    """Complete the name of a role."""
    return [role for role in ROLES if role.startswith(incomplete)]


def plugins(incomplete: str) -> list[str]:
    """Complete the name of a plugin or distribution; none is imported, for it may be slow or broken."""
    names = {*PLUGINS, OWN_DISTRIBUTION}
    for entry in importlib.metadata.entry_points(group=PROJECT):
        names.add(entry.name)
        with contextlib.suppress(Exception):  # an installation that is half gone has no name
            names.add(entry.dist.name if entry.dist else entry.name)
    return _matching(names - {None}, incomplete)


def _host(context: typer.Context) -> Host:
    """Return the host as the words before the cursor want it; what plugins print would be taken for names."""
    given = context.find_root().params
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return Host(block=given.get("block") or (), entry_points=not given.get("no_plugins"), strict=False)
        except PluginError:  # what is to be blocked is misspelt: nothing that may be meant is imported
            return Host(entry_points=False, strict=False)


def _matching(names: set[str] | list[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
