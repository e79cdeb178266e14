"""One component of a plugin: its options, its creation and its capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchcore_plugin.errors import PatchcoreError, PluginError

from .discovery import Plugin, failure_reason
from .options import validate
from .protocols import Aggregator, Backbone, Sampler, Scorer
from .specs import Capabilities, ComponentSpec

_PROTOCOLS = {"backbone": Backbone, "aggregator": Aggregator, "sampler": Sampler, "scorer": Scorer}


@dataclass(frozen=True, kw_only=True)
class Component:
    """One component and the plugin that provides it.

    Parameters
    ----------
    spec
        Its record.
    plugin
        Its plugin.

    Examples
    --------
    >>> from patchcore_plugin import Host
    >>> component = Host(entry_points=False).component("sampler", "all")
    >>> config = component.configure({})
    >>> component.capabilities(config).keeps_all
    True
    """

    spec: ComponentSpec
    plugin: Plugin

    def __str__(self) -> str:
        return f"{self.spec.role} {self.spec.name!r}"

    def configure(self, options: Mapping[str, Any]) -> Any:
        """Return the config for `options`, without importing anything heavy.

        Raises
        ------
        OptionError
            If an option does not exist or its value is invalid.
        PluginError
            If the config class of the plugin is broken.
        """
        try:
            return validate(self.spec.config, options, str(self))
        except PatchcoreError:
            raise
        except Exception as error:  # a field type that cannot be checked, or a broken __post_init__
            reason = str(error).partition("\n")[0]
            raise PluginError(
                f"{self} of {self.plugin}: cannot check its options: {type(error).__name__}: {reason}; "
                "report it to the author of the plugin"
            ) from error

    def build(self, config: Any) -> Any:
        """Create the component from its config.

        Raises
        ------
        PluginError
            If `create` of the plugin fails or returns something else.
        """
        try:
            created = self.spec.create(config)
        except PatchcoreError:
            raise
        except Exception as error:
            raise PluginError(
                f"cannot create {self} of {self.plugin}: {failure_reason(error)}; "
                "check its options and its installation"
            ) from error
        protocol = _PROTOCOLS[self.spec.role]
        if not isinstance(created, protocol):
            raise PluginError(
                f"{self} of {self.plugin}: create returned {type(created).__name__}, which is not a "
                f"{protocol.__name__}; see patchcore_plugin.plugins.protocols"
            )
        return created

    def capabilities(self, config: Any) -> Capabilities:
        """Return what the component can do, from its record; create it from `config` only if the record does not say.

        Raises
        ------
        PluginError
            If it has to be created and that fails.
        """
        stated = {name: getattr(self.spec, name) for name in self.spec.CAPABILITIES}
        if None in stated.values():
            actual = Capabilities.of(self.build(config))
            stated = {name: getattr(actual, name) if value is None else value for name, value in stated.items()}
        return Capabilities(**stated)
