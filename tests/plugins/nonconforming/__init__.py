"""Components that keep to their contract, and ones that break it, for the conformance checks."""

from . import banks, every_role, maps, records, streaming
from .sound import BROKEN, SOUND, Backbone, Broken, Sampler, Scorer, plugin, record

__all__ = [
    "BROKEN",
    "SOUND",
    "Backbone",
    "Broken",
    "Sampler",
    "Scorer",
    "banks",
    "every_role",
    "maps",
    "plugin",
    "record",
    "records",
    "streaming",
]
