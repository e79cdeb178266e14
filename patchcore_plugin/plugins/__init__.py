"""Contracts, hooks, the host, built-in components and the conformance kit."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import StagedBackbone, differences, initialise, read_weights
    from .discovery import Plugin
    from .hookspecs import PROJECT, hookimpl, hookspec
    from .manager import Component, Host, default_host
    from .options import Option, describe, validate
    from .protocols import (
        Aggregator,
        Backbone,
        MemoryBank,
        Patches,
        Reduction,
        Sampler,
        Scorer,
        Scores,
        StreamingScorer,
        hash_weights,
    )
    from .specs import (
        CONTRACT_VERSION,
        ROLES,
        AggregatorSpec,
        BackboneSpec,
        Capabilities,
        ComponentSpec,
        SamplerSpec,
        ScorerSpec,
    )

__all__ = [
    "CONTRACT_VERSION",
    "PROJECT",
    "ROLES",
    "Aggregator",
    "AggregatorSpec",
    "Backbone",
    "BackboneSpec",
    "Capabilities",
    "Component",
    "ComponentSpec",
    "Host",
    "MemoryBank",
    "Option",
    "Patches",
    "Plugin",
    "Reduction",
    "Sampler",
    "SamplerSpec",
    "Scorer",
    "ScorerSpec",
    "Scores",
    "StagedBackbone",
    "StreamingScorer",
    "default_host",
    "describe",
    "differences",
    "hash_weights",
    "hookimpl",
    "hookspec",
    "initialise",
    "read_weights",
    "validate",
]

_MODULES = {
    "backbones": ("StagedBackbone", "differences", "initialise", "read_weights"),
    "discovery": ("Plugin",),
    "hookspecs": ("PROJECT", "hookimpl", "hookspec"),
    "manager": ("Component", "Host", "default_host"),
    "options": ("Option", "describe", "validate"),
    "protocols": (
        *("Aggregator", "Backbone", "MemoryBank", "Patches", "Reduction", "Sampler", "Scorer", "Scores"),
        *("StreamingScorer", "hash_weights"),
    ),
    "specs": (
        *("CONTRACT_VERSION", "ROLES", "AggregatorSpec", "BackboneSpec", "Capabilities", "ComponentSpec"),
        *("SamplerSpec", "ScorerSpec"),
    ),
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
