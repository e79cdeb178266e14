"""The plugin host: all components by role and name, and their creation."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, overload

from patchcore_plugin.errors import PluginError, did_you_mean

from .component import Component
from .discovery import OWN_DISTRIBUTION, Plugin, candidates, canonical_name, discover
from .protocols import Aggregator, Backbone, Sampler, Scorer
from .specs import ROLES, Capabilities

__all__ = ["OWN_DISTRIBUTION", "Component", "Host", "Plugin", "default_host"]


class Host:
    """All installed components, by role and name.

    Plugins are the built-in ones, those of the entry-point group ``patchcore_plugin``, and `extra`. A plugin that fails
    to load is listed in `plugins` with the reason; all others work.

    Parameters
    ----------
    block
        Names of plugins or distributions that are not loaded, in addition to those in the environment variable
        PATCHCORE_BLOCK_PLUGINS (comma-separated; names there need not be installed).
    entry_points
        Whether to load installed plugins; the built-in ones are loaded unless blocked.
    extra
        Further plugins by name, as modules or objects with hooks, for tests and notebooks.
    strict
        Whether to raise the failure of a plugin; if None, whether PATCHCORE_STRICT_PLUGINS is 1.
    trace
        Function that receives pluggy's trace of hook calls as text, for example ``print``.

    Attributes
    ----------
    plugins : tuple of Plugin
        All plugins with their status.

    Raises
    ------
    PluginError
        If a name in `block` is not installed, or, if strict, a plugin fails.

    Examples
    --------
    >>> host = Host(entry_points=False)
    >>> host.names("aggregator")
    ['average-pool', 'global-pool']
    >>> host.create("sampler", "greedy-coreset", ratio=0.01)
    <patchcore_plugin.plugins.builtin.greedy_coreset.GreedyCoreset object at ...>
    """

    def __init__(
        self,
        *,
        block: Iterable[str] = (),
        entry_points: bool = True,
        extra: Mapping[str, object] | None = None,
        strict: bool | None = None,
        trace: Callable[[str], object] | None = None,
    ) -> None:
        block, extra = list(block), extra or {}
        entries = candidates(entry_points=entry_points, extra=extra)
        if block:  # checked before any import: a misspelt name would load what is to be blocked
            blockable = entries if entry_points else candidates(entry_points=True, extra=extra)
            _require_known(block, [name for entry in blockable for name in (entry.name, entry.distribution)])
        variable = os.environ.get("PATCHCORE_BLOCK_PLUGINS", "").split(",")
        blocked = {canonical_name(name) for name in (*block, *variable)} - {""}
        strict = os.environ.get("PATCHCORE_STRICT_PLUGINS") == "1" if strict is None else strict
        plugins, records = discover(entries, blocked=blocked, strict=strict, trace=trace)
        self.plugins: tuple[Plugin, ...] = tuple(plugins)
        self._components = [Component(spec=record, plugin=plugin) for record, plugin in records]

    def names(self, role: str) -> list[str]:
        """Return the names of the components of a role, sorted, including those claimed twice."""
        return sorted({component.spec.name for component in self.components(role)})

    def components(self, role: str | None = None) -> list[Component]:
        """Return all components of a role, or of all roles in the order of the data flow.

        Raises
        ------
        PluginError
            If there is no such role.
        """
        if role is not None and role not in ROLES:
            raise PluginError(f"unknown role {role!r}; {did_you_mean(role, ROLES)}the roles are: {', '.join(ROLES)}")
        return [component for component in self._components if role in (None, component.spec.role)]

    def component(self, role: str, name: str) -> Component:
        """Return a component by name.

        Parameters
        ----------
        role
            "backbone", "aggregator", "sampler" or "scorer".
        name
            Name of the component.

        Raises
        ------
        PluginError
            If no plugin provides it, or more than one does.
        """
        matches = [component for component in self.components(role) if component.spec.name == name]
        if len(matches) == 1:
            return matches[0]
        if matches:
            providers = [component.plugin for component in matches]
            last = providers[-1]
            unique = [plugin.name for plugin in providers].count(last.name) == 1
            raise PluginError(
                f"{role} {name!r} is claimed by {' and '.join(str(plugin) for plugin in providers)}; "
                f"block one of them, for example with --block {last.name if unique else last.distribution}"
            )
        names = self.names(role)
        message = f"unknown {role} {name!r}; {did_you_mean(name, names)}available: {', '.join(names) or 'none'}"
        missing = [f"{plugin}: {plugin.reason}" for plugin in self.plugins if plugin.status != "loaded"]
        raise PluginError(f"{message}; not loaded: {'; '.join(missing)}" if missing else message)

    def clashes(self) -> list[str]:
        """Return one line for each name that more than one plugin claims."""
        lines = []
        for role in ROLES:
            for name in self.names(role):
                try:
                    self.component(role, name)
                except PluginError as error:
                    lines.append(str(error))
        return lines

    def configure(self, role: str, name: str, options: Mapping[str, Any]) -> Any:
        """Return the config of a component for some options, without importing anything heavy.

        Parameters
        ----------
        role
            "backbone", "aggregator", "sampler" or "scorer".
        name
            Name of the component.
        options
            Options by name; the others get their defaults.

        Raises
        ------
        PluginError
            If the name is unknown or claimed twice, or the config class of the plugin is broken.
        OptionError
            If an option does not exist or its value is invalid.
        """
        return self.component(role, name).configure(options)

    @overload
    def create(self, role: Literal["backbone"], name: str, **options: Any) -> Backbone: ...
    @overload
    def create(self, role: Literal["aggregator"], name: str, **options: Any) -> Aggregator: ...
    @overload
    def create(self, role: Literal["sampler"], name: str, **options: Any) -> Sampler: ...
    @overload
    def create(self, role: Literal["scorer"], name: str, **options: Any) -> Scorer: ...
    def create(self, role: str, name: str, **options: Any) -> Any:
        """Create a component.

        Parameters
        ----------
        role
            "backbone", "aggregator", "sampler" or "scorer".
        name
            Name of the component.
        **options
            Its options; see ``patchcore plugins show ROLE NAME``.

        Returns
        -------
        Backbone, Aggregator, Sampler or Scorer
            A new component.

        Raises
        ------
        PluginError
            If the name is unknown or claimed twice, or the plugin fails to create it.
        OptionError
            If an option does not exist or its value is invalid.
        """
        return self.build(role, name, self.configure(role, name, options))

    def build(self, role: str, name: str, config: Any) -> Any:
        """Return a new component for a config.

        Parameters
        ----------
        role
            "backbone", "aggregator", "sampler" or "scorer".
        name
            Name of the component.
        config
            A config that `configure` returned.

        Raises
        ------
        PluginError
            If the name is unknown or claimed twice, or the plugin fails to create the component.
        """
        return self.component(role, name).build(config)

    def capabilities(self, role: str, name: str, config: Any) -> Capabilities:
        """Return what a component can do, without creating it where possible.

        Parameters
        ----------
        role
            "backbone", "aggregator", "sampler" or "scorer".
        name
            Name of the component.
        config
            A config that `configure` returned.

        Raises
        ------
        PluginError
            If the name is unknown or claimed twice, or the component has to be created and that fails.
        """
        return self.component(role, name).capabilities(config)


def default_host() -> Host:
    """Return the host of all installed plugins, the same one for all callers in a process.

    A change of PATCHCORE_BLOCK_PLUGINS, PATCHCORE_STRICT_PLUGINS or ``sys.path`` is respected: the next call returns
    another host. To use a plugin that was installed after the first call, create a `Host`.

    Examples
    --------
    >>> default_host() is default_host()
    True
    """
    variables = ("PATCHCORE_BLOCK_PLUGINS", "PATCHCORE_STRICT_PLUGINS")
    return _cached_host(tuple(os.environ.get(name) for name in variables), tuple(sys.path))


@functools.lru_cache(maxsize=4)
def _cached_host(_variables: tuple[str | None, ...], _path: tuple[str, ...]) -> Host:
    return Host()


def _require_known(block: Iterable[str], names: Iterable[str]) -> None:
    known = {canonical_name(name): name for name in names if name not in ("-", "?")}
    for name in block:
        if canonical_name(name) not in known:
            raise PluginError(
                f"cannot block {name!r}: no plugin or distribution of that name is installed; "
                f"{did_you_mean(name, known.values())}run 'patchcore plugins list' for all names"
            )
