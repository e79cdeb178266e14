"""Options: validation, messages and descriptions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MultipleOf
from pydantic import Field

from patchcore_plugin.errors import OptionError
from patchcore_plugin.plugins.options import Option, describe, validate

if TYPE_CHECKING:
    from decimal import Decimal

Side = Annotated[int, Ge(8)]


@dataclass(frozen=True, kw_only=True)
class Config:
    ratio: Annotated[float, Gt(0), Le(1)] = 0.1
    """Fraction to keep."""
    count: Annotated[int, Ge(1)] | None = None
    """Number to keep,
    instead of `ratio`."""
    size: tuple[Side, Side] = (8, 8)
    "Height and width."
    layers: tuple[str, ...] = ()
    kind: Literal["fast", "exact"] = "exact"
    flag: bool = False
    anything: int | str | tuple[int, int] = 0

    """A string after an empty line belongs to the field before it."""

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("count, of all numbers, is 13")


@dataclass(frozen=True, kw_only=True)
class Needs(Config):
    """Has inherited fields too."""

    path: str
    """Target."""
    ratio: Annotated[float, Gt(0), Le(1)] = 0.5
    """Another fraction."""
    names: list[str] = dataclasses.field(default_factory=lambda: ["a"])


def message_of(config: type[Any], **options: Any) -> str:
    with pytest.raises(OptionError) as caught:
        validate(config, options, "sampler 'mine'")
    owner, _, message = str(caught.value).partition(": ")
    assert owner == "sampler 'mine'"
    return message


def test_valid_values_are_converted() -> None:
    assert validate(Config, {}, "") == Config()
    config = validate(Config, {"ratio": 1, "count": "3", "size": [8, 9], "layers": ["a"], "flag": True}, "")
    assert config == Config(ratio=1.0, count=3, size=(8, 9), layers=("a",), flag=True)
    assert isinstance(config.ratio, float)


def test_unknown_option_is_refused_with_the_choices() -> None:
    assert "did you mean 'ratio'?" in message_of(Config, raito=1)
    assert "did you mean" not in message_of(Config, zzz=1)
    assert "ratio, count, size, layers, kind, flag, anything" in message_of(Config, zzz=1)
    assert message_of(make_dataclass("Empty", []), ratio=1).endswith(": none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": "much"}, "option 'ratio' must be a valid number, got 'much'"),
        ({"ratio": 0}, "greater than 0, got 0"),
        ({"ratio": 1.5}, "less than or equal to 1, got 1.5"),
        ({"ratio": float("nan")}, "got nan"),
        ({"count": 1.5}, "option 'count' must be a valid integer, got 1.5"),
        ({"count": 13}, "count, of all numbers, is 13"),
        ({"size": 8}, "option 'size' must be a list, got 8"),
        ({"size": [8]}, "have more values, got [8]"),
        ({"size": [8, 8, 8]}, "at most 2 values"),
        ({"size": [8, 4]}, "greater than or equal to 8, got 4"),
        ({"layers": ["layer2", 3]}, "a valid string, got 3"),
        ({"kind": "slow"}, "option 'kind' must be 'fast' or 'exact', got 'slow'"),
        ({"flag": "maybe"}, "a valid boolean"),
        ({"anything": 1.5}, "a valid integer or a valid string or a list, got 1.5"),
        ({"ratio": 2, "count": 0}, "option 'ratio'"),  # the first of several
    ],
)
def test_invalid_value_is_refused(options: dict[str, Any], message: str) -> None:
    assert message in message_of(Config, **options)


def test_missing_required_option_is_refused() -> None:
    assert message_of(Needs) == "option 'path' is required"


def test_meaning_is_the_string_below_the_field() -> None:
    assert describe(Config) == [
        Option(name="ratio", type="float, > 0, <= 1", default="0.1", meaning="Fraction to keep."),
        Option(
            name="count",
            type="int, >= 1, or None",
            default="None",
            meaning="Number to keep,\ninstead of `ratio`.",
        ),
        Option(name="size", type="tuple[int >= 8, int >= 8]", default="(8, 8)", meaning="Height and width."),
        Option(name="layers", type="tuple[str, ...]", default="()", meaning=""),
        Option(name="kind", type="'fast' or 'exact'", default="'exact'", meaning=""),
        Option(name="flag", type="bool", default="False", meaning=""),
        Option(
            name="anything",
            type="int or str or tuple[int, int]",
            default="0",
            meaning="A string after an empty line belongs to the field before it.",
        ),
    ]


def test_inherited_fields_keep_their_meaning() -> None:
    described = {option.name: option for option in describe(Needs)}
    assert list(described) == [field.name for field in dataclasses.fields(Needs)]
    assert described["ratio"].meaning == "Another fraction."
    assert described["ratio"].default == "0.5"
    assert described["size"].meaning == "Height and width."
    assert described["path"] == Option(name="path", type="str", default="required", meaning="Target.")
    assert described["names"].default == "['a']"


def test_dataclass_created_at_run_time_has_no_meanings() -> None:
    config = make_dataclass("Made", [("path", str), ("ratio", Annotated[float, Ge(0)], 0.5)])
    assert describe(config) == [
        Option(name="path", type="str", default="required", meaning=""),
        Option(name="ratio", type="float, >= 0", default="0.5", meaning=""),
    ]
    assert validate(config, {"path": "x"}, "").ratio == 0.5


def test_dataclass_in_a_function_is_described() -> None:
    @dataclass(frozen=True)
    class Local:
        ratio: float = 0.5
        """Fraction."""

    assert describe(Local) == [Option(name="ratio", type="float", default="0.5", meaning="Fraction.")]


@dataclass(frozen=True)
class OnlyForTypeCheckers:
    price: Decimal | None = None
    """What it costs."""


def test_unresolved_annotation_is_shown_as_written() -> None:
    assert describe(OnlyForTypeCheckers) == [
        Option(name="price", type="Decimal | None", default="None", meaning="What it costs.")
    ]


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (int, "int"),
        (float | None, "float or None"),
        (Annotated[int, Interval(ge=1, lt=5)], "int, >= 1, < 5"),
        (Annotated[int, Lt(5), MultipleOf(2)], "int, < 5, a multiple of 2"),
        (Annotated[int, Field(gt=0, le=9)], "int, > 0, <= 9"),
        (Annotated[str, Len(1, 3)], "str, at least 1 long, at most 3 long"),
        (Annotated[int, "a note"], "int"),
        (Literal["auto"] | Annotated[int, Ge(0)], "'auto', or int, >= 0"),
        (dict[str, int], "dict[str, int]"),
        (tuple[Annotated[int, Ge(0), Lt(5)], ...], "tuple[int >= 0 < 5, ...]"),
        (Any, "Any"),
    ],
)
def test_types_are_readable(annotation: Any, shown: str) -> None:
    config = make_dataclass("Config", [("x", annotation)])
    assert [option.type for option in describe(config)] == [shown]
