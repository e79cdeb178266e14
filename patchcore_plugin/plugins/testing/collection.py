"""Collection of the checks of a plugin."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from patchcore_plugin.errors import PluginError, did_you_mean
from patchcore_plugin.plugins.builtin import PLUGINS
from patchcore_plugin.plugins.discovery import OWN_DISTRIBUTION, Plugin, canonical_name
from patchcore_plugin.plugins.hookspecs import PROJECT
from patchcore_plugin.plugins.manager import Component, Host, default_host

from . import spec_checks
from .check import Check, Subject, check_of

Function = TypeVar("Function", bound=Callable[..., Any])
Options = Mapping[str, Mapping[str, Any]]


def checks(plugin: object, *, options: Options | None = None, device: str = "cpu") -> list[Check]:
    """Return all checks of all components of a plugin.

    Parameters
    ----------
    plugin
        A module or object with hooks, or the name of an installed plugin or distribution.
    options
        Options by name of the component, such as ``{"my-name": {"weights": "random"}}``; by default those of the
        component.
    device
        Device of the inputs: "cpu", "cuda", "cuda:1".

    Returns
    -------
    list of Check
        Call each of them.

    Raises
    ------
    PluginError
        If the plugin fails to load, provides nothing, shares a name with another one, or `options` names a component
        that it does not provide.

    Examples
    --------
    >>> check = checks("simple-samplers")[0]
    >>> print(check)
    sampler-random-name-is-free
    >>> check()
    """
    host, module = _host_of(plugin)
    components = [component for component in host.components() if _provides(plugin, component.plugin)]
    if not components:
        raise PluginError(f"{_name_of(plugin)} provides no component; return records from its hooks, or unblock it")
    by_name = options or {}
    names = [component.spec.name for component in components]
    for name in by_name:
        if name not in names:
            raise PluginError(
                f"options for {name!r}, which the plugin does not provide; {did_you_mean(name, names)}"
                f"it provides: {', '.join(names)}"
            )
    return [
        check
        for component in components
        for check in component_checks(
            host, component, options=by_name.get(component.spec.name), device=device, module=module
        )
    ]


def component_checks(
    host: Host,
    component: Component,
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    behaviour: bool = True,
    module: str | None = None,
) -> list[Check]:
    """Return the checks of one component.

    Parameters
    ----------
    host
        The host of the component.
    component
        Its record and plugin.
    options
        Options to create it with; None for its defaults.
    device
        Device of the inputs.
    behaviour
        Whether to create and call it; otherwise only its record and options are checked, without torch.
    module
        Module of its plugin; by default that of the entry point.

    Raises
    ------
    PluginError
        If another plugin claims the same name.
    """
    host.component(component.spec.role, component.spec.name)
    module = module or _module_of(component.plugin)
    subject = Subject(host=host, component=component, options=dict(options or {}), device=device, module=module)
    functions: list[Callable[[Subject], None]] = list(spec_checks.CHECKS)
    if module is None:
        functions.remove(spec_checks.listing_imports_nothing_heavy)
    if behaviour:
        from .common import role_module  # imports torch

        functions += role_module(subject.role).CHECKS
    return [check_of(function, subject) for function in functions]


def parametrize_checks(
    plugin: object, *, options: Options | None = None, device: str = "cpu"
) -> Callable[[Function], Function]:
    """Return a decorator that runs a test with one argument, ``check``, for each of `checks`.

    Parameters
    ----------
    plugin, options, device
        The arguments of `checks`.

    Examples
    --------
    ::

        @parametrize_checks(my_plugin, options={"my-name": {"weights": "random"}})
        def test_conformance(check):
            check()
    """
    import pytest

    mark: Callable[[Function], Function] = pytest.mark.parametrize(
        "check", checks(plugin, options=options, device=device), ids=str
    )
    return mark


def _host_of(plugin: object) -> tuple[Host, str | None]:
    if isinstance(plugin, str):
        host = default_host()
        matches = [installed for installed in host.plugins if _provides(plugin, installed)]
        if not matches:
            names = sorted({name for plugin in host.plugins for name in (plugin.name, plugin.distribution)})
            raise PluginError(
                f"no plugin or distribution {plugin!r} is installed; {did_you_mean(plugin, names)}"
                f"available: {', '.join(names)}"
            )
        for match in matches:
            if match.status != "loaded":
                raise PluginError(f"{match}: {match.reason}")
        return host, None
    name = _name_of(plugin)
    # Without the built-in plugins, because a name that is claimed twice could not be checked; another check covers it.
    host = Host(block=[OWN_DISTRIBUTION], entry_points=False, extra={name: plugin}, strict=True)
    importable = isinstance(plugin, ModuleType) and name != "__main__"
    return host, name if importable else None


def _name_of(plugin: object) -> str:
    return plugin if isinstance(plugin, str) else getattr(plugin, "__name__", type(plugin).__name__)


def _provides(requested: object, plugin: Plugin) -> bool:
    if not isinstance(requested, str):
        return True  # the host has no other plugin
    return canonical_name(requested) in (canonical_name(plugin.name), canonical_name(plugin.distribution))


def _module_of(plugin: Plugin) -> str | None:
    """Return the module of an installed or built-in plugin."""
    if plugin.distribution == OWN_DISTRIBUTION and plugin.name in PLUGINS:
        return PLUGINS[plugin.name].__name__
    for entry in importlib.metadata.entry_points(group=PROJECT, name=plugin.name):
        if entry.dist is None or entry.dist.name in (plugin.distribution, None):
            return entry.module
    return None
