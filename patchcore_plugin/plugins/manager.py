"""The plugin host: finds plugins, keeps what went wrong with them, and makes components by name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import pluggy

from patchcore_plugin.errors import PatchcoreError, PluginError

from . import builtin, hookspecs
from .options import validate
from .protocols import Aggregator, Backbone, Sampler, Scorer
from .specs import CONTRACT_VERSION, ROLES, ComponentSpec

OWN_DISTRIBUTION = "patchcore-plugin"
_PROTOCOLS = {"backbone": Backbone, "aggregator": Aggregator, "sampler": Sampler, "scorer": Scorer}
_HOOKS = tuple(f"patchcore_{role}s" for role in ROLES)
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin as it was found, whether or not it could be loaded.

    Parameters
    ----------
    name
        The entry point's name, by which it is blocked; so is the distribution's.
    distribution, version
        What it was installed with.
    status
        "loaded", "failed" or "blocked".
    reason
        Why it is not loaded, in one line.
    records
        What it provides.
    """

    name: str
    distribution: str
    version: str
    status: Literal["loaded", "failed", "blocked"]
    reason: str = ""
    records: tuple[ComponentSpec, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True, kw_only=True)
class Component:
    """One component and the plugin that provides it."""

    spec: ComponentSpec
    plugin: Plugin


class Host:
    """All components that are installed, by role and name.

    Each entry point of the group ``patchcore_plugin`` is loaded on its own: one that is broken is remembered with
    the reason in `plugins`, and everything else works.

    Parameters
    ----------
    block
        Names of plugins or distributions that are not loaded at all, added to those in the environment variable
        PATCHCORE_BLOCK_PLUGINS (separated by commas), which may name some that are not installed.
    entry_points
        Whether installed plugins are looked for; the built-in ones always are there unless blocked.
    extra
        More plugins by name, as modules or objects with hooks; for tests and notebooks.
    strict
        Raise what went wrong with a plugin; if None, whether PATCHCORE_STRICT_PLUGINS is 1.

    Raises
    ------
    PluginError
        If `block` names what is not installed, or, if strict, a plugin is broken.

    Examples
    --------
    >>> host = Host(entry_points=False)
    >>> host.names("aggregator")
    ['average-pool', 'global-pool']
    """

    def __init__(
        self,
        *,
        block: Iterable[str] = (),
        entry_points: bool = True,
        extra: Mapping[str, object] | None = None,
        strict: bool | None = None,
    ) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        block = list(block)
        from_environment = os.environ.get("PATCHCORE_BLOCK_PLUGINS", "").split(",")
        self._blocked = {_canonical(name) for name in (*block, *from_environment)} - {""}
        self._strict = os.environ.get("PATCHCORE_STRICT_PLUGINS") == "1" if strict is None else strict
        self.plugins: list[Plugin] = []
        own = _version_of(OWN_DISTRIBUTION)
        shipped = [(name, OWN_DISTRIBUTION, own, _giving(module)) for name, module in builtin.PLUGINS.items()]
        entries = sorted(importlib.metadata.entry_points(group=hookspecs.PROJECT), key=lambda each: each.name)
        installed = [(entry.name, *_origin(entry), entry.load) for entry in entries]
        added = [(name, "-", "-", _giving(plugin)) for name, plugin in (extra or {}).items()]
        # Before anything is imported: a misspelt name would let in what was to be kept out.
        _require_known(block, [name for each in (*shipped, *installed, *added) for name in each[:2]])
        for each in (*shipped, *(installed if entry_points else ()), *added):
            self._add(*each)

    def names(self, role: str) -> list[str]:
        """Return the names of a role's components, sorted, those claimed twice included."""
        return sorted({component.spec.name for component in self.components(role)})

    def components(self, role: str | None = None) -> list[Component]:
        """Return all components of a role, or of all roles in the order of the data flow."""
        if role is not None and role not in ROLES:
            raise PluginError(f"unknown role {role!r}; the roles are: {', '.join(ROLES)}")
        return [
            Component(spec=spec, plugin=plugin)
            for wanted in ROLES
            if role in (None, wanted)
            for plugin in self.plugins
            for spec in plugin.records
            if spec.role == wanted
        ]

    def component(self, role: str, name: str) -> Component:
        """Return the component of that name.

        Raises
        ------
        PluginError
            If there is none (with the choices and the plugins that failed), or more than one.
        """
        found = [component for component in self.components(role) if component.spec.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            providers = [component.plugin for component in found]
            claims = " and ".join(str(plugin) for plugin in providers)
            last = providers[-1]
            alone = [plugin.name for plugin in providers].count(last.name) == 1
            raise PluginError(
                f"{role} {name!r} is claimed by {claims}; block one of them, for example with "
                f"--block {last.name if alone else last.distribution}"
            )
        names = self.names(role)
        close = difflib.get_close_matches(name, names, n=1)
        message = f"unknown {role} {name!r}; " + (f"did you mean {close[0]!r}? " if close else "")
        message += f"available: {', '.join(names) or 'none'}"
        missing = [f"{plugin}: {plugin.reason}" for plugin in self.plugins if plugin.status != "loaded"]
        if missing:
            message += f"; not loaded: {'; '.join(missing)}"
        raise PluginError(message)

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
        """Return the component's config made of `options`, without importing anything heavy.

        Raises
        ------
        OptionError
            For an option that does not exist, or a value that it cannot take.
        """
        component = self.component(role, name)
        try:
            return validate(component.spec.config, options, f"{role} {name!r}")
        except PatchcoreError:
            raise
        except Exception as error:  # a field's type that cannot be checked, or a __post_init__ that is broken
            raise PluginError(
                f"{role} {name!r} of {component.plugin}: its options cannot be checked: {_reason(error, lines=1)}; "
                "report it to the plugin's author"
            ) from error

    @overload
    def create(self, role: Literal["backbone"], name: str, **options: Any) -> Backbone: ...
    @overload
    def create(self, role: Literal["aggregator"], name: str, **options: Any) -> Aggregator: ...
    @overload
    def create(self, role: Literal["sampler"], name: str, **options: Any) -> Sampler: ...
    @overload
    def create(self, role: Literal["scorer"], name: str, **options: Any) -> Scorer: ...
    def create(self, role: str, name: str, **options: Any) -> Any:
        """Make a component.

        Raises
        ------
        PluginError
            If the name is unknown or claimed twice, or the plugin fails to make it.
        OptionError
            For an option that does not exist, or a value that it cannot take.
        """
        return self.build(role, name, self.configure(role, name, options))

    def build(self, role: str, name: str, config: Any) -> Any:
        """Make a component from its config."""
        component = self.component(role, name)
        try:
            made = component.spec.create(config)
        except PatchcoreError:
            raise
        except Exception as error:
            raise PluginError(
                f"{role} {name!r} of {component.plugin} cannot be made: {_reason(error)}; "
                "check its options and its installation"
            ) from error
        if not isinstance(made, _PROTOCOLS[role]):
            raise PluginError(
                f"{role} {name!r} of {component.plugin}: create returned {type(made).__name__}, which is no "
                f"{_PROTOCOLS[role].__name__}; see patchcore_plugin.plugins.protocols"
            )
        return made

    def _add(self, name: str, distribution: str, version: str, load: Any) -> None:
        found = functools.partial(Plugin, name=name, distribution=distribution, version=version)
        if self._blocked & {_canonical(name), _canonical(distribution)}:
            self.plugins.append(found(status="blocked", reason="blocked by name"))
            return
        registered = f"{distribution}:{name}"
        try:
            # A plugin that calls sys.exit on import must not take the host with it.
            plugin = load()
            self._manager.register(plugin, name=registered)
            self._manager.check_pending()
            records = self._records(plugin)
        except (Exception, SystemExit) as error:
            if self._manager.has_plugin(registered):
                self._manager.unregister(name=registered)
            if self._strict:
                raise PluginError(f"{name} ({distribution} {version}): {_reason(error)}") from error
            self.plugins.append(found(status="failed", reason=_reason(error)))
        else:
            self.plugins.append(found(status="loaded", records=records))

    def _records(self, plugin: object) -> tuple[ComponentSpec, ...]:
        records: list[ComponentSpec] = []
        callers = self._manager.get_hookcallers(plugin) or []
        marked = {caller.name for caller in callers}
        for hook in _HOOKS:
            if hook not in marked and callable(getattr(plugin, hook, None)):
                raise PluginError(f"{hook} is not marked as a hook; write @patchcore_plugin.hookimpl above it")
        if not callers:
            raise PluginError("it has no hooks; mark a function such as patchcore_samplers with hookimpl")
        for caller in callers:
            if caller.spec is None:
                continue  # marked as optional: a hook of another version of the contract
            expected = ROLES[caller.name.removeprefix("patchcore_").removesuffix("s")]
            (implementation,) = (each for each in caller.get_hookimpls() if each.plugin is plugin)
            returned = implementation.function()
            if not isinstance(returned, list):
                raise PluginError(f"{caller.name} must return a list, got {type(returned).__name__}")
            for record in returned:
                _check_record(record, expected, caller.name)
                records.append(record)
        return tuple(records)


def _check_record(record: object, expected: type[ComponentSpec], hook: str) -> None:
    if not isinstance(record, expected):
        raise PluginError(f"{hook} must return {expected.__name__} records, got {type(record).__name__}")
    if record.contract > CONTRACT_VERSION:
        raise PluginError(
            f"{record.role} {record.name!r} is written for contract {record.contract}, this host speaks "
            f"{CONTRACT_VERSION}; upgrade {OWN_DISTRIBUTION}"
        )
    if not _NAME.fullmatch(record.name.replace("_", "-")):
        raise PluginError(f"{record.role} {record.name!r}: a name is lower-case words joined by '-', '_' or '.'")
    if not (isinstance(record.config, type) and dataclasses.is_dataclass(record.config)):
        raise PluginError(f"{record.role} {record.name!r}: config must be a dataclass")


def _canonical(name: str) -> str:
    """Return a name as distributions are compared: ``My_Plugin`` is ``my-plugin``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _giving(plugin: object) -> Callable[[], object]:
    return lambda: plugin


def _require_known(block: Iterable[str], names: Iterable[str]) -> None:
    known = {_canonical(name): name for name in names if name not in ("-", "?")}
    for name in block:
        if _canonical(name) not in known:
            close = difflib.get_close_matches(_canonical(name), known, n=1)
            hint = f"did you mean {known[close[0]]!r}? " if close else ""
            raise PluginError(
                f"cannot block {name!r}: no plugin or distribution of that name is installed; {hint}"
                "'patchcore plugins list' has them all"
            )


def _origin(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Return distribution and version of an entry point, even one whose installation is half gone."""
    if entry.dist is None:
        return "?", "?"
    try:
        name, version = entry.dist.metadata["Name"], entry.dist.metadata["Version"]
    except Exception:  # which exception a missing METADATA has depends on the Python version
        return "?", "?"
    return name or "?", version or "?"


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _reason(error: BaseException, lines: int | None = None) -> str:
    if isinstance(error, pluggy.PluginValidationError):
        match = re.search(r"unknown hook '(\w+)'", str(error))
        if match:
            close = difflib.get_close_matches(match[1], _HOOKS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            return f"unknown hook {match[1]!r}; {hint}the hooks are: {', '.join(_HOOKS)}"
    text = " ".join(" ".join(str(error).splitlines()[:lines]).split())
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
