"""Records that hooks return: one for each component that a plugin provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .protocols import StreamingScorer

if TYPE_CHECKING:
    from .protocols import Aggregator, Backbone, Sampler, Scorer

CONTRACT_VERSION = 1
"""Version of the contract that this host supports. It grows when roles or records change incompatibly."""


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
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Config:
    ...     step: int = 10
    >>> SamplerSpec(name="every", config=Config, create=print, summary="every n-th patch").role
    'sampler'
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
    """Description of a feature extractor; `create` returns a `Backbone`. See `ComponentSpec` for the parameters."""

    role: ClassVar[str] = "backbone"
    create: Callable[[Any], Backbone]


@dataclass(frozen=True, kw_only=True)
class AggregatorSpec(ComponentSpec):
    """Description of an aggregator; `create` returns an `Aggregator`. See `ComponentSpec` for the parameters."""

    role: ClassVar[str] = "aggregator"
    create: Callable[[Any], Aggregator]


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(ComponentSpec):
    """Description of a sampler; `create` returns a `Sampler`. See `ComponentSpec` for the other parameters.

    Parameters
    ----------
    keeps_all
        Whether the sampler returns every row, with any options. None: the host creates one to find out.
    reduces
        Whether the sampler can select from a bank and new patches (attribute ``reduction``). None: likewise.
    """

    role: ClassVar[str] = "sampler"
    CAPABILITIES: ClassVar[tuple[str, ...]] = ("keeps_all", "reduces")
    create: Callable[[Any], Sampler]
    keeps_all: bool | None = None
    reduces: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ScorerSpec(ComponentSpec):
    """Description of a scorer; `create` returns a `Scorer`. See `ComponentSpec` for the other parameters.

    Parameters
    ----------
    streaming
        Whether the scorer is a `StreamingScorer`, with any options. None: the host creates one to find out.
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
