"""Which checks a plugin has to pass."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from patchcore_plugin.errors import PluginError
from patchcore_plugin.plugins.builtin import PLUGINS
from patchcore_plugin.plugins.hookspecs import PROJECT
from patchcore_plugin.plugins.manager import OWN_DISTRIBUTION, Component, Host, Plugin

from . import records
from .subject import Check, Subject, check_of

Function = TypeVar("Function", bound=Callable[..., Any])
Options = Mapping[str, Mapping[str, Any]]


def checks(plugin: object, *, options: Options | None = None, device: str = "cpu") -> list[Check]:
    """Return all checks of all components that a plugin provides.

    Parameters
    ----------
    plugin
        A module or object with hooks, or the name of an installed plugin or distribution.
    options
        Options of components by the component's name, such as ``{"my-name": {"weights": "random"}}``; defaults
        otherwise.
    device
        Where inputs are: "cpu", "cuda", "cuda:1".

    Raises
    ------
    PluginError
        If the plugin cannot be loaded or provides nothing, another one claims a name of it too, or `options` names
        no component of it.
    """
    host, module = _host_of(plugin)
    found = [each for each in host.components() if _provides(plugin, each.plugin)]
    if not found:
        raise PluginError(f"{_name_of(plugin)} provides no component; return records from its hooks, or unblock it")
    given = options or {}
    names = [each.spec.name for each in found]
    for name in given:
        if name not in names:
            raise PluginError(f"options for {name!r}, which the plugin does not provide; it has: {', '.join(names)}")
    return [
        check
        for each in found
        for check in component_checks(host, each, options=given.get(each.spec.name), device=device, module=module)
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
        Where it comes from.
    component
        Its record and plugin.
    options
        What it is made with; its defaults otherwise.
    device
        Where its inputs are.
    behaviour
        Whether it is to be made and called; if not, its record and options alone are checked, without torch.
    module
        The module that holds its plugin; by default that of the entry point.

    Raises
    ------
    PluginError
        If another plugin claims the same name.
    """
    host.component(component.spec.role, component.spec.name)
    module = module or _module_of(component.plugin)
    it = Subject(host=host, component=component, options=dict(options or {}), device=device, module=module)
    functions: list[Callable[[Subject], None]] = list(records.CHECKS)
    if module is None:
        functions.remove(records.listing_imports_nothing_heavy)
    if behaviour:
        from .common import role_module  # imports torch

        functions += role_module(it.role).CHECKS
    return [check_of(each, it) for each in functions]


def parametrize_checks(
    plugin: object, *, options: Options | None = None, device: str = "cpu"
) -> Callable[[Function], Function]:
    """Return a decorator that runs a test of one argument, ``check``, with each of `checks`.

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
        host = Host()
        matching = [each for each in host.plugins if _provides(plugin, each)]
        if not matching:
            names = sorted({each.name for each in host.plugins} | {each.distribution for each in host.plugins})
            raise PluginError(f"no plugin or distribution {plugin!r} is installed; there are: {', '.join(names)}")
        for each in matching:
            if each.status != "loaded":
                raise PluginError(f"{each}: {each.reason}")
        return host, None
    name = _name_of(plugin)
    # Alone, so that a name which another plugin claims too can be checked; that is a check of its own.
    host = Host(block=[OWN_DISTRIBUTION], entry_points=False, extra={name: plugin}, strict=True)
    importable = isinstance(plugin, ModuleType) and name != "__main__"
    return host, name if importable else None


def _name_of(plugin: object) -> str:
    return plugin if isinstance(plugin, str) else getattr(plugin, "__name__", type(plugin).__name__)


def _provides(wanted: object, plugin: Plugin) -> bool:
    if not isinstance(wanted, str):
        return True  # the host has no other
    return _canonical(wanted) in (_canonical(plugin.name), _canonical(plugin.distribution))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _module_of(plugin: Plugin) -> str | None:
    """Return the module of an installed or built-in plugin."""
    if plugin.distribution == OWN_DISTRIBUTION and plugin.name in PLUGINS:
        return PLUGINS[plugin.name].__name__
    for entry in importlib.metadata.entry_points(group=PROJECT, name=plugin.name):
        if entry.dist is None or entry.dist.name in (plugin.distribution, None):
            return entry.module
    return None
