"""The records that hooks return: one per component that a plugin provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .protocols import Aggregator, Backbone, Sampler, Scorer

CONTRACT_VERSION = 1
"""The contract that this host speaks. It grows when the roles or records change incompatibly."""


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """What a plugin says about one component.

    Parameters
    ----------
    name
        Lower-case name by which users ask for it, unique within its role.
    config
        A frozen dataclass with typed, documented fields: the options. The host validates what
        the user wrote against it before `create` is called. A field named ``seed`` receives the
        run's seed unless it was set.
    create
        Takes a `config` and returns the component. Heavy imports belong inside it.
    summary
        One line for ``patchcore plugins list``.
    contract
        The contract version that the plugin was written for; see `CONTRACT_VERSION`.
    kernels
        Takes a kind of device ("cpu", "cuda") and says in a few words what will compute there, where that depends on
        the machine; for ``patchcore plugins show`` and the model's manifest. It must not import torch.
    """

    role: ClassVar[str]

    name: str
    config: type[Any]
    create: Callable[[Any], Any]
    summary: str
    contract: int = 1
    kernels: Callable[[str], str] | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(ComponentSpec):
    """A feature extractor; `create` returns a `patchcore_plugin.plugins.protocols.Backbone`."""

    role: ClassVar[str] = "backbone"
    create: Callable[[Any], Backbone]


@dataclass(frozen=True, kw_only=True)
class AggregatorSpec(ComponentSpec):
    """Feature maps to patch vectors; `create` returns a `patchcore_plugin.plugins.protocols.Aggregator`."""

    role: ClassVar[str] = "aggregator"
    create: Callable[[Any], Aggregator]


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(ComponentSpec):
    """Which patches stay in the bank; `create` returns a `patchcore_plugin.plugins.protocols.Sampler`."""

    role: ClassVar[str] = "sampler"
    create: Callable[[Any], Sampler]


@dataclass(frozen=True, kw_only=True)
class ScorerSpec(ComponentSpec):
    """Distance to normality; `create` returns a `patchcore_plugin.plugins.protocols.Scorer`."""

    role: ClassVar[str] = "scorer"
    create: Callable[[Any], Scorer]


ROLES: dict[str, type[ComponentSpec]] = {
    spec.role: spec for spec in (BackboneSpec, AggregatorSpec, SamplerSpec, ScorerSpec)
}
"""The four roles, in the order of the data flow, and the record of each."""
