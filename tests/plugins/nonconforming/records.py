"""Wrong records and options of a sound sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from .sound import Sampler, breaks


def record_breaks(title: str, message: str, **fields: Any) -> None:
    breaks("sampler", title, message, **fields)(Sampler)


record_breaks(
    "name-is-free",
    "that of a built-in component",
    name="all",
)
for summary in ("two\nlines", "", " padded"):
    record_breaks(
        "summary-is-one-line",
        repr(summary),
        summary=summary,
    )
record_breaks(
    "kernels-are-one-line",
    "None",
    kernels={"cpu": "compiled"}.get,
)


@dataclass(kw_only=True)
class Thawed:
    step: int = 2
    """Something to choose."""


@dataclass(frozen=True)
class Positional:
    step: int = 2
    """Something to choose."""


record_breaks("config-is-frozen", "Thawed", config=Thawed)
record_breaks("config-is-frozen", "positional step", config=Positional)


@dataclass(frozen=True, kw_only=True)
class Untyped:
    step: Any = 2
    """Something to choose."""


@dataclass(frozen=True, kw_only=True)
class Unresolved:
    step: Nowhere = 2  # type: ignore[name-defined]  # noqa: F821
    """Something to choose."""


@dataclass(frozen=True, kw_only=True)
class Unannotated:
    SIDES: ClassVar[int] = 4
    step = 10

    @property
    def twice(self) -> int:
        return 2 * self.step


record_breaks(
    "options-are-typed",
    "no annotation",
    config=Unannotated,
)
record_breaks("options-are-typed", "found Any", config=Untyped)
record_breaks(
    "options-are-typed",
    "'Nowhere'",
    config=Unresolved,
)


@dataclass(frozen=True, kw_only=True)
class Undocumented:
    step: int = 2


record_breaks(
    "options-are-documented",
    "none",
    config=Undocumented,
)


@dataclass(frozen=True, kw_only=True)
class Refused:
    step: Annotated[int, Gt(2)] = 2
    """Something to choose."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    step: int = "2"  # type: ignore[assignment]
    """Something to choose."""


record_breaks(
    "defaults-are-valid",
    "greater than 2, got 2",
    config=Refused,
)
record_breaks(
    "defaults-are-valid",
    "'2', which becomes 2",
    config=Converted,
)


@dataclass(frozen=True, kw_only=True)
class Unwritable:
    step: int = 2
    """Something to choose."""
    skipped: frozenset[int] = frozenset()
    """Which not to choose."""


@dataclass(frozen=True, kw_only=True)
class Forgetful:
    step: int = 2
    """Something to choose."""
    table: dict[int, Any] | dict[str, Any] = None  # type: ignore[assignment]
    """Which not to choose."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", self.table or {1: 2})


record_breaks(
    "options-fit-in-a-model-file",
    "frozenset",
    config=Unwritable,
)
record_breaks(
    "options-fit-in-a-model-file",
    "{'1': 2}",
    config=Forgetful,
)


@dataclass(frozen=True)
class AtLeast:
    """A limit as libraries other than annotated_types declare it; pydantic passes it over."""

    ge: int


@dataclass(frozen=True, kw_only=True)
class Unlimited:
    step: Annotated[int, AtLeast(1)] | None = 2
    """Something to choose."""


record_breaks(
    "limits-are-enforced",
    "accepted",
    config=Unlimited,
)
