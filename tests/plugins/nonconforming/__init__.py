"""Components that meet their contract, and components that break it, for tests of the conformance checks."""

from . import aggregators, backbones, every_role, records, samplers, scorers, streaming
from .sound import BROKEN, SOUND, Backbone, Broken, Sampler, Scorer, plugin, record

__all__ = [
    "BROKEN",
    "SOUND",
    "Backbone",
    "Broken",
    "Sampler",
    "Scorer",
    "aggregators",
    "backbones",
    "every_role",
    "plugin",
    "record",
    "records",
    "samplers",
    "scorers",
    "streaming",
]
