"""Discovery of plugins: load each one, register it with pluggy, and call its hooks.

Hooks are called for one plugin at a time, so a failure stays with the plugin that caused it. Each call goes through
pluggy: wrappers of other plugins apply to it, ``tryfirst`` and ``trylast`` order the plugins, and pluggy can trace it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import pluggy

from patchcore_plugin.errors import PluginError, did_you_mean, one_line

from . import builtin, hookspecs
from .specs import ROLES, ComponentSpec, check_record

OWN_DISTRIBUTION = "patchcore-plugin"
HOOKS = {role: f"patchcore_{role}s" for role in ROLES}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin and its status, loaded or not.

    Parameters
    ----------
    name
        Name of the entry point. A plugin is blocked by this name or by that of its distribution.
    distribution, version
        The distribution that installed it.
    status
        "loaded", "failed" or "blocked".
    reason
        Why it is not loaded, in one line.
    records
        The components that it provides.

    Examples
    --------
    >>> print(Plugin(name="acme", distribution="acme-samplers", version="2.1", status="loaded"))
    acme (acme-samplers 2.1)
    """

    name: str
    distribution: str
    version: str
    status: Literal["loaded", "failed", "blocked"]
    reason: str = ""
    records: tuple[ComponentSpec, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Candidate:
    """A plugin before it is loaded; `load` returns its module or object."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]

    @property
    def names(self) -> set[str]:
        """Canonical names that block it."""
        return {canonical_name(self.name), canonical_name(self.distribution)}

    def plugin(self, status: Literal["loaded", "failed", "blocked"], **fields: Any) -> Plugin:
        """Return the plugin with its status.

        Parameters
        ----------
        status
            "loaded", "failed" or "blocked".
        **fields
            Further fields of `Plugin`: the reason or the records.
        """
        return Plugin(name=self.name, distribution=self.distribution, version=self.version, status=status, **fields)


def candidates(*, entry_points: bool, extra: Mapping[str, object]) -> list[Candidate]:
    """Return all plugins: the built-in ones, those of entry points sorted by name, and further ones.

    Parameters
    ----------
    entry_points
        Whether to include installed plugins.
    extra
        Further plugins by name, as modules or objects with hooks.
    """
    own = _version_of(OWN_DISTRIBUTION)
    result = [Candidate(name, OWN_DISTRIBUTION, own, _return(module)) for name, module in builtin.PLUGINS.items()]
    if entry_points:
        installed = sorted(importlib.metadata.entry_points(group=hookspecs.PROJECT), key=lambda entry: entry.name)
        result += [Candidate(entry.name, *_origin(entry), entry.load) for entry in installed]
    return result + [Candidate(name, "-", "-", _return(plugin)) for name, plugin in extra.items()]


def discover(
    entries: Iterable[Candidate], *, blocked: set[str], strict: bool, trace: Callable[[str], object] | None = None
) -> tuple[list[Plugin], list[tuple[ComponentSpec, Plugin]]]:
    """Load plugins and collect their records.

    Parameters
    ----------
    entries
        The plugins, in the order of the result.
    blocked
        Canonical names of plugins or distributions that are not loaded.
    strict
        Whether to raise the first failure.
    trace
        Function that receives pluggy's trace of hook calls.

    Returns
    -------
    plugins
        All plugins with their status.
    records
        All records with their plugin: by role in the order of the data flow, then in pluggy's call order.

    Raises
    ------
    PluginError
        If `strict` and a plugin failed.
    """
    # Numbered, because two distributions may have entry points of one name.
    by_key = {f"{candidate.name}#{number}": candidate for number, candidate in enumerate(entries)}
    registry = _Registry(trace)
    registry.load({key: candidate for key, candidate in by_key.items() if not blocked & candidate.names})
    records = [pair for role in ROLES for pair in registry.records(role)]
    records = [(key, record) for key, record in records if key not in registry.failures]
    plugins = {}
    for key, candidate in by_key.items():
        if key in registry.failures:
            plugins[key] = candidate.plugin("failed", reason=failure_reason(registry.failures[key]))
        elif blocked & candidate.names:
            plugins[key] = candidate.plugin("blocked", reason="blocked by name")
        else:
            provided = tuple(record for owner, record in records if owner == key)
            plugins[key] = candidate.plugin("loaded", records=provided)
    if strict and registry.failures:
        key, error = next(iter(registry.failures.items()))
        raise PluginError(f"{plugins[key]}: {plugins[key].reason}") from error
    return list(plugins.values()), [(record, plugins[key]) for key, record in records]


class _Registry:
    """Loaded plugins in a pluggy manager, and why others failed."""

    def __init__(self, trace: Callable[[str], object] | None) -> None:
        self.failures: dict[str, BaseException] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        if trace is not None:
            self._manager.trace.root.setwriter(trace)
            self._manager.enable_tracing()

    def load(self, entries: Mapping[str, Candidate]) -> None:
        """Load and register plugins; failures are recorded."""
        modules: dict[str, object] = {}
        for key, candidate in entries.items():
            with self._isolate(key):
                module = candidate.load()
                twin = next((entries[owner].name for owner in modules if modules[owner] is module), None)
                if twin is not None:
                    raise PluginError(f"its module is already registered as {twin!r}")
                modules[key] = module
        # Pluggy calls plugins in reverse order of registration.
        for key, module in reversed(modules.items()):
            with self._isolate(key):
                self._register(key, module)

    def records(self, role: str) -> Iterator[tuple[str, ComponentSpec]]:
        """Yield the records of a role with the keys of their plugins, in pluggy's call order."""
        hook = HOOKS[role]
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        for implementation in reversed(implementations):
            if not _is_wrapper(implementation):
                with self._isolate(implementation.plugin_name):
                    for record in self._call_wrapped(role, implementation.plugin):
                        yield implementation.plugin_name, record

    @contextlib.contextmanager
    def _isolate(self, key: str) -> Iterator[None]:
        """Record an exception as the failure of a plugin, and unregister the plugin."""
        try:
            yield
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit on import must not end the host
            if self._manager.has_plugin(key):
                self._manager.unregister(name=key)
            self.failures[key] = error

    def _register(self, key: str, module: object) -> None:
        plugin = _as_hashable(module)
        self._manager.register(plugin, name=key)
        self._manager.check_pending()
        callers = self._manager.get_hookcallers(plugin) or []
        for hook in HOOKS.values():
            if hook not in {caller.name for caller in callers} and callable(getattr(plugin, hook, None)):
                raise PluginError(f"{hook} is not marked as a hook; write @patchcore_plugin.hookimpl above it")
        if not callers:
            raise PluginError("it has no hooks; mark a function such as patchcore_samplers with hookimpl")
        for caller in callers:
            if sum(implementation.plugin is plugin for implementation in caller.get_hookimpls()) > 1:
                raise PluginError(f"it implements {caller.name} twice; use one function or two plugins")

    def _call_wrapped(self, role: str, plugin: object) -> list[ComponentSpec]:
        """Call a hook of one plugin with the wrappers of all plugins; a wrapper that fails is unregistered."""
        implementations = getattr(self._manager.hook, HOOKS[role]).get_hookimpls()
        wrappers = [implementation for implementation in implementations if _is_wrapper(implementation)]
        try:
            return self._call(role, plugin, *(wrapper.plugin for wrapper in wrappers))
        except (Exception, SystemExit):
            self._call(role, plugin)  # raises if the plugin itself is the cause
        sound = []
        for wrapper in wrappers:
            with self._isolate(wrapper.plugin_name):
                self._call(role, plugin, wrapper.plugin)
                sound.append(wrapper.plugin)
        return self._call(role, plugin, *sound)

    def _call(self, role: str, *plugins: object) -> list[ComponentSpec]:
        hook = HOOKS[role]
        others = [
            other
            for _, other in self._manager.list_name_plugin()
            if other is not None and not any(other is plugin for plugin in plugins)
        ]
        results = self._manager.subset_hook_caller(hook, others)()
        # Pluggy leaves out results that are None.
        for result in results if isinstance(results, list) and results else [None]:
            if not isinstance(result, list):
                raise PluginError(f"{hook} must return a list, got {type(result).__name__}")
            for record in result:
                check_record(record, ROLES[role], hook)
        return [record for result in results for record in result]


def canonical_name(name: str) -> str:
    """Return a name as distributions are compared: ``My_Plugin`` becomes ``my-plugin``."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def failure_reason(error: BaseException) -> str:
    """Return why a plugin failed, in one line: the class and text of an exception, or the text of a PluginError."""
    if isinstance(error, pluggy.PluginValidationError):
        unknown = re.search(r"unknown hook '(\w+)'", str(error))
        if unknown:
            hint = did_you_mean(unknown[1], HOOKS.values())
            return f"unknown hook {unknown[1]!r}; {hint}the hooks are: {', '.join(HOOKS.values())}"
    if isinstance(error, PluginError) or not str(error).strip():
        return one_line(error)
    return f"{type(error).__name__}: {one_line(error)}"


def _is_wrapper(implementation: pluggy.HookImpl) -> bool:
    return implementation.wrapper or implementation.hookwrapper


def _as_hashable(plugin: object) -> object:
    """Return a plugin, or its attributes as a module if it is not hashable: pluggy's subset callers need a set."""
    if type(plugin).__hash__ is not None:
        return plugin
    module = ModuleType(type(plugin).__name__)
    vars(module).update({name: getattr(plugin, name) for name in dir(plugin) if not name.startswith("__")})
    return module


def _return(plugin: object) -> Callable[[], object]:
    return lambda: plugin


def _origin(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Return distribution and version of an entry point, "?" if its metadata is incomplete."""
    if entry.dist is None:
        return "?", "?"
    try:
        name, version = entry.dist.metadata["Name"], entry.dist.metadata["Version"]
    except Exception:  # the exception for a missing METADATA file depends on the Python version
        return "?", "?"
    return name or "?", version or "?"


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "?"
