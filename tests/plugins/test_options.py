"""Options: what is checked, what is said about a wrong one, and how they are described."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, make_dataclass
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
    """Fraction that stays."""
    count: Annotated[int, Ge(1)] | None = None
    """Number that stays,
    in place of `ratio`."""
    size: tuple[Side, Side] = (8, 8)
    "Height and width."
    layers: tuple[str, ...] = ()
    kind: Literal["fast", "exact"] = "exact"
    flag: bool = False
    anything: int | str | tuple[int, int] = 0

    """A string that follows nothing is the meaning of the field before it."""

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("count, of all numbers, is 13")


@dataclass(frozen=True, kw_only=True)
class Needs(Config):
    """Its own and inherited fields."""

    path: str
    """Where to."""
    ratio: Annotated[float, Gt(0), Le(1)] = 0.5
    """Another fraction."""
    names: list[str] = field(default_factory=lambda: ["a"])


def refused(config: type[Any], **options: Any) -> str:
    with pytest.raises(OptionError) as caught:
        validate(config, options, "sampler 'mine'")
    owner, _, message = str(caught.value).partition(": ")
    assert owner == "sampler 'mine'"
    return message


def test_what_fits_is_taken() -> None:
    assert validate(Config, {}, "it") == Config()
    taken = validate(Config, {"ratio": 1, "count": 3, "size": [8, 9], "layers": ["a"], "flag": True}, "it")
    assert taken == Config(ratio=1.0, count=3, size=(8, 9), layers=("a",), flag=True)
    assert isinstance(taken.ratio, float)


def test_text_from_the_command_line_becomes_a_number() -> None:
    assert validate(Config, {"ratio": "0.25", "count": "3"}, "it") == Config(ratio=0.25, count=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raito": 1}, "unknown option 'raito'; did you mean 'ratio'? its options are: "),
        ({"zzz": 1}, "unknown option 'zzz'; its options are: "),
    ],
)
def test_an_unknown_option(options: dict[str, Any], message: str) -> None:
    assert refused(Config, **options) == message + "ratio, count, size, layers, kind, flag, anything"


def test_an_unknown_option_where_there_are_none() -> None:
    assert refused(make_dataclass("None_", []), ratio=1) == "unknown option 'ratio'; its options are: none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": "much"}, "option 'ratio' must be a valid number, got 'much'"),
        ({"ratio": 0}, "option 'ratio' must be greater than 0, got 0"),
        ({"ratio": 1.5}, "option 'ratio' must be less than or equal to 1, got 1.5"),
        ({"ratio": None}, "option 'ratio' must be a valid number, got None"),
        ({"count": 0}, "option 'count' must be greater than or equal to 1, got 0"),
        ({"count": 1.5}, "option 'count' must be a valid integer, got 1.5"),
        ({"count": 13}, "count, of all numbers, is 13"),
        ({"size": 8}, "option 'size' must be a list, got 8"),
        ({"size": [8]}, "option 'size' must have more values, got [8]"),
        ({"size": [8, 8, 8]}, "option 'size' must have at most 2 values, got [8, 8, 8]"),
        ({"size": [8, 4]}, "option 'size' must be greater than or equal to 8, got 4"),
        ({"layers": "layer2"}, "option 'layers' must be a list, got 'layer2'"),
        ({"layers": ["layer2", 3]}, "option 'layers' must be a valid string, got 3"),
        ({"kind": "slow"}, "option 'kind' must be 'fast' or 'exact', got 'slow'"),
        ({"flag": "maybe"}, "option 'flag' must be a valid boolean, got 'maybe'"),
        (
            {"anything": 1.5},
            "option 'anything' must be a valid integer or a valid string or a list, got 1.5",
        ),
    ],
)
def test_a_value_that_an_option_cannot_take(options: dict[str, Any], message: str) -> None:
    assert refused(Config, **options) == message


def test_nan_is_in_no_range() -> None:
    assert refused(Config, ratio=float("nan")).endswith(", got nan")


def test_the_first_of_several_wrong_options_is_told() -> None:
    assert refused(Config, ratio=2, count=0) == "option 'ratio' must be less than or equal to 1, got 2"


def test_a_required_option() -> None:
    assert refused(Needs) == "option 'path' is required"


def test_the_meaning_is_the_string_below_the_field() -> None:
    assert describe(Config) == [
        Option(name="ratio", type="float, > 0, <= 1", default="0.1", meaning="Fraction that stays."),
        Option(
            name="count",
            type="int, >= 1, or None",
            default="None",
            meaning="Number that stays,\nin place of `ratio`.",
        ),
        Option(name="size", type="tuple[int >= 8, int >= 8]", default="(8, 8)", meaning="Height and width."),
        Option(name="layers", type="tuple[str, ...]", default="()", meaning=""),
        Option(name="kind", type="'fast' or 'exact'", default="'exact'", meaning=""),
        Option(name="flag", type="bool", default="False", meaning=""),
        Option(
            name="anything",
            type="int or str or tuple[int, int]",
            default="0",
            meaning="A string that follows nothing is the meaning of the field before it.",
        ),
    ]


def test_inherited_fields_keep_their_meaning() -> None:
    described = {option.name: option for option in describe(Needs)}
    assert list(described) == [each.name for each in dataclasses.fields(Needs)]
    assert described["ratio"].meaning == "Another fraction."
    assert described["ratio"].default == "0.5"
    assert described["size"].meaning == "Height and width."
    assert described["path"] == Option(name="path", type="str", default="required", meaning="Where to.")
    assert described["names"].default == "['a']"


def test_a_dataclass_made_at_run_time_has_options_without_meanings() -> None:
    made = make_dataclass("Made", [("path", str), ("ratio", Annotated[float, Ge(0)], 0.5)])
    assert describe(made) == [
        Option(name="path", type="str", default="required", meaning=""),
        Option(name="ratio", type="float, >= 0", default="0.5", meaning=""),
    ]
    assert validate(made, {"path": "x"}, "it").ratio == 0.5


def test_a_dataclass_of_a_function_is_described() -> None:
    @dataclass(frozen=True)
    class Local:
        ratio: float = 0.5
        """Fraction."""

    assert describe(Local) == [Option(name="ratio", type="float", default="0.5", meaning="Fraction.")]


@dataclass(frozen=True)
class OnlyForTypeCheckers:
    price: Decimal | None = None
    """What it costs."""


def test_an_annotation_that_cannot_be_resolved_is_shown_as_written() -> None:
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
def test_how_a_type_is_shown(annotation: Any, shown: str) -> None:
    made = make_dataclass("Config", [("x", annotation)])
    assert [option.type for option in describe(made)] == [shown]
