"""Records that hooks return: one for each component that a plugin provides.

Examples
--------
>>> import patchcore_plugin as pp
>>> pp.CONTRACT_VERSION
1
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from patchcore_plugin.errors import PluginError

from .protocols import StreamingScorer

if TYPE_CHECKING:
    from .protocols import Aggregator, Backbone, Sampler, Scorer

CONTRACT_VERSION = 1
"""Version of the contract that this host supports. It grows when roles or records change incompatibly."""
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """Description of one component.

    Parameters
    ----------
    name
        Lower-case name that users select the component by, unique within its role.
    config
        Frozen dataclass with typed, documented fields: the options. The host validates the user's options against it
        before it calls `create`. A field named ``seed`` receives the seed of the run unless the user sets it.
    create
        Function that takes a `config` and returns the component. Import heavy packages inside it.
    summary
        One line for ``patchcore plugins list``.
    contract
        Contract version that the plugin was written for; see `CONTRACT_VERSION`.
    kernels
        Function that takes a device type ("cpu", "cuda") and returns a few words on what computes there. Set it if
        that depends on the machine. It is shown by ``patchcore plugins show``, is stored in model files, and must not
        import torch.

    Examples
    --------
    >>> from dataclasses import dataclass, is_dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Config:
    ...     step: int = 10
    >>> spec = SamplerSpec(name="every", config=Config, create=print, summary="every n-th patch")
    >>> isinstance(spec, ComponentSpec), spec.role
    (True, 'sampler')
    """

    role: ClassVar[str]
    CAPABILITIES: ClassVar[tuple[str, ...]] = ()
    """Fields of the record that state `Capabilities`."""

    name: str
    config: type[Any]
    create: Callable[[Any], Any]
    summary: str
    contract: int = 1
    kernels: Callable[[str], str] | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(ComponentSpec):
    """Description of a feature extractor; `create` returns a `Backbone`.

    See `ComponentSpec` for the parameters.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> Config = make_dataclass("Config", [], frozen=True)
    >>> BackboneSpec(name="colours", config=Config, create=print, summary="mean colours").role
    'backbone'
    """

    role: ClassVar[str] = "backbone"
    create: Callable[[Any], Backbone]


@dataclass(frozen=True, kw_only=True)
class AggregatorSpec(ComponentSpec):
    """Description of an aggregator; `create` returns an `Aggregator`.

    See `ComponentSpec` for the parameters.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> Config = make_dataclass("Config", [], frozen=True)
    >>> AggregatorSpec(name="finest", config=Config, create=print, summary="finest map only").role
    'aggregator'
    """

    role: ClassVar[str] = "aggregator"
    create: Callable[[Any], Aggregator]


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(ComponentSpec):
    """Description of a sampler; `create` returns a `Sampler`.

    See `ComponentSpec` for the other parameters.

    Parameters
    ----------
    keeps_all
        Whether the sampler returns every row, with any options. None: the host creates one to find out.
    reduces
        Whether the sampler can select from a bank and new patches (attribute ``reduction``). None: the host creates one
        to find out.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> Config = make_dataclass("Config", [], frozen=True)
    >>> SamplerSpec(name="every", config=Config, create=print, summary="every row", keeps_all=True).keeps_all
    True
    """

    role: ClassVar[str] = "sampler"
    CAPABILITIES: ClassVar[tuple[str, ...]] = ("keeps_all", "reduces")
    create: Callable[[Any], Sampler]
    keeps_all: bool | None = None
    reduces: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ScorerSpec(ComponentSpec):
    """Description of a scorer; `create` returns a `Scorer`.

    See `ComponentSpec` for the other parameters.

    Parameters
    ----------
    streaming
        Whether the scorer is a `StreamingScorer`, with any options. None: the host creates one to find out.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> Config = make_dataclass("Config", [], frozen=True)
    >>> ScorerSpec(name="mean", config=Config, create=print, summary="distance to the mean", streaming=False).role
    'scorer'
    """

    role: ClassVar[str] = "scorer"
    CAPABILITIES: ClassVar[tuple[str, ...]] = ("streaming",)
    create: Callable[[Any], Scorer]
    streaming: bool | None = None


ROLES: dict[str, type[ComponentSpec]] = {
    spec.role: spec for spec in (BackboneSpec, AggregatorSpec, SamplerSpec, ScorerSpec)
}
"""The record type of each role, in the order of the data flow."""


@dataclass(frozen=True)
class Capabilities:
    """Abilities of a component beyond its basic contract.

    Parameters
    ----------
    keeps_all
        The sampler returns every row.
    reduces
        The sampler can select from a bank and new patches (attribute ``reduction``).
    streaming
        The scorer is a `StreamingScorer`.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> Capabilities.of(pp.Host(entry_points=False).create("sampler", "all"))
    Capabilities(keeps_all=True, reduces=False, streaming=False)
    """

    keeps_all: bool = False
    reduces: bool = False
    streaming: bool = False

    @classmethod
    def of(cls, component: object) -> Capabilities:
        """Return the capabilities of a component, as its attributes show them."""
        return cls(
            keeps_all=bool(getattr(component, "keeps_all", False)),
            reduces=hasattr(component, "reduction"),
            streaming=isinstance(component, StreamingScorer),
        )


def check_record(record: object, expected: type[ComponentSpec], hook: str) -> None:
    """Check a record that a hook returned.

    Parameters
    ----------
    record
        The record.
    expected
        Its type.
    hook
        Name of the hook.

    Raises
    ------
    PluginError
        If the record has another type, is for a newer contract, or has an invalid name or config.
    """
    if not isinstance(record, expected):
        raise PluginError(f"{hook} must return {expected.__name__} records, got {type(record).__name__}")
    if record.contract > CONTRACT_VERSION:
        raise PluginError(
            f"{record.role} {record.name!r} needs contract {record.contract}, this host supports "
            f"{CONTRACT_VERSION}; upgrade patchcore-plugin"
        )
    if not _NAME.fullmatch(record.name.replace("_", "-")):
        raise PluginError(f"{record.role} {record.name!r}: a name is lower-case words joined by '-', '_' or '.'")
    if not (isinstance(record.config, type) and is_dataclass(record.config)):
        raise PluginError(f"{record.role} {record.name!r}: config must be a dataclass")
