"""Records and options that are wrong, of a sampler that is sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from .sound import Sampler, breaks


def record_breaks(title: str, message: str, **fields: Any) -> None:
    breaks("sampler", title, message, **fields)(Sampler)


record_breaks(
    "name-is-free",
    "expected a name of its own, found that of a built-in component; "
    "choose another, or users must block one of the two",
    name="all",
)
for summary in ("two\nlines", "", " padded"):
    record_breaks(
        "summary-is-one-line",
        f"expected a summary of one line, found {summary!r}; say in a few words what it is",
        summary=summary,
    )
record_breaks(
    "kernels-are-one-line",
    "expected kernels('cuda') to return one line, found None; return a few words",
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


for config, found in ((Thawed, "a frozen config, found Thawed, which can be changed"), (Positional, "")):
    record_breaks(
        "options-are-a-frozen-record",
        f"expected {found or 'a keyword-only config, found positional step'}; "
        "decorate it with @dataclass(frozen=True, kw_only=True)",
        config=config,
    )

ANNOTATE = "annotate the field with a type that its module imports at run time, such as Annotated[int, Ge(1)]"


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
    "expected a type of option 'step', found none, so that it is no option; "
    "write step: TYPE = VALUE, or annotate it as ClassVar if it is no option",
    config=Unannotated,
)
record_breaks("options-are-typed", f"expected a type of option 'step', found Any; {ANNOTATE}", config=Untyped)
record_breaks(
    "options-are-typed",
    f"expected types that can be resolved, found NameError: name 'Nowhere' is not defined; {ANNOTATE}",
    config=Unresolved,
)


@dataclass(frozen=True, kw_only=True)
class Undocumented:
    step: int = 2


record_breaks(
    "options-are-documented",
    "expected a docstring of option 'step', found none; write its meaning as a string below the field",
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
    "expected defaults that its own options allow, found this refusal: sampler 'broken': option 'step' must be "
    "greater than 2, got 2; choose a default that users could write themselves",
    config=Refused,
)
record_breaks(
    "defaults-are-valid",
    "expected a default of option 'step' that validation leaves as it is, found '2', which becomes 2; "
    "choose a default that users could write themselves",
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


WRITABLE = "use numbers, text, None, and tuples, lists or dicts of them"
record_breaks(
    "options-survive-a-model-file",
    "expected options that JSON can hold, found TypeError: Object of type frozenset is not JSON serializable; "
    + WRITABLE,
    config=Unwritable,
)
record_breaks(
    "options-survive-a-model-file",
    "expected equal options after writing and reading, found Forgetful(step=2, table={'1': 2}) in place of "
    f"Forgetful(step=2, table={{1: 2}}); {WRITABLE}",
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
    "expected option 'step' to refuse 0, as its type declares ge 1, found that it is taken; "
    "declare limits with annotated_types (Ge, Gt, Le, Lt) or pydantic's Field",
    config=Unlimited,
)
