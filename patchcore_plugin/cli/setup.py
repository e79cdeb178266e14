"""What commands share: the options of a recipe, the host, and making a detector of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from patchcore_plugin.errors import ImageError, ModelFileError, OptionError
from patchcore_plugin.plugins.manager import Host

from . import completion

if TYPE_CHECKING:
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.ensemble import Ensemble
    from patchcore_plugin.models.recipes.ensemble import AnyRecipe


RecipeOption = Annotated[
    str,
    typer.Option("--recipe", help="A shipped recipe, or the path of a .toml file.", autocompletion=completion.recipes),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="A backbone in place of the recipe's.", autocompletion=completion.names_of("backbone")
    ),
]
AggregatorOption = Annotated[
    str | None,
    typer.Option(
        "--aggregator", help="An aggregator in place of the recipe's.", autocompletion=completion.names_of("aggregator")
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler", help="A sampler in place of the recipe's.", autocompletion=completion.names_of("sampler")
    ),
]
ScorerOption = Annotated[
    str | None,
    typer.Option("--scorer", help="A scorer in place of the recipe's.", autocompletion=completion.names_of("scorer")),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PART.OPTION=VALUE",
        help="Set an option, such as sampler.ratio=0.01; of one member of an ensemble: 0.sampler.ratio=0.01.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option("--precision", help="fp32, or bf16 for a faster backbone; default: the model's, or fp32."),
]
OnErrorOption = Annotated[Literal["stop", "skip"], typer.Option("--on-error", help="What an unreadable image does.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Governs everything that is drawn at random.")
]
FalseAlarmRateOption = Annotated[
    float | None,
    typer.Option(
        "--false-alarm-rate",
        help="Share of good images that the threshold may alarm; default: 0.01, or as little as so few images allow.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


@dataclass(frozen=True)
class Blocked:
    """What the user does not want to be loaded."""

    names: tuple[str, ...] = ()
    entry_points: bool = True

    @classmethod
    def of(cls, context: typer.Context) -> Blocked:
        """Return what was blocked on the command line."""
        return context.find_object(cls) or cls()

    def host(self) -> Host:
        """Return the host with all this left out."""
        return Host(block=self.names, entry_points=self.entry_points)


def host_of(context: typer.Context) -> Host:
    """Return the host with what the user blocked left out."""
    return Blocked.of(context).host()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The recipe as the user wants it, and where it runs."""

    recipe: str
    backbone: str | None = None
    aggregator: str | None = None
    sampler: str | None = None
    scorer: str | None = None
    options: tuple[str, ...] = ()
    device: str = "auto"
    precision: Literal["fp32", "bf16"] | None = None
    seed: int = 0

    def load(self) -> AnyRecipe:
        """Return the recipe with the user's changes."""
        from patchcore_plugin.models.recipes.ensemble import load_recipe

        recipe = load_recipe(self.recipe)
        for role in ("backbone", "aggregator", "sampler", "scorer"):
            name = getattr(self, role)
            if name is not None:
                recipe = recipe.change(role, name)
        # Those of a part together, because rules between its options hold for what they are in the end.
        changes: dict[str, dict[str, Any]] = {}
        for text in self.options:
            part, option, value = parse_option(text)
            changes.setdefault(part, {})[option] = value
        for part, change in changes.items():
            recipe = recipe.change(part, change)
        return recipe

    def detector(self, host: Host) -> Detector | Ensemble:
        """Return a detector or ensemble that is not fitted yet; what is misspelt is told before torch is loaded."""
        recipe = self.load()
        recipe.resolved(host, self.seed)
        from patchcore_plugin.models.loading import model_of

        precision = self.precision or "fp32"
        return model_of(recipe, seed=self.seed, device=self.device, precision=precision, host=host)


def options_by_recipe(options: Sequence[str], recipes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the ``--set`` options of each recipe: ``RECIPE:PART.OPTION=VALUE`` is for that one, others are for all."""
    found: dict[str, tuple[str, ...]] = dict.fromkeys(recipes, ())
    for text in options:
        only, colon, _ = text.partition("=")[0].rpartition(":")
        if not colon:
            found = {recipe: (*each, text) for recipe, each in found.items()}
        elif only in found:
            found[only] = (*found[only], text.removeprefix(f"{only}:"))
        else:
            raise OptionError(
                f"--set {text}: {only!r} is none of the recipes that are evaluated, which are: {', '.join(recipes)}"
            )
    return found


def parse_option(text: str) -> tuple[str, str, Any]:
    """Return part, option and value of ``PART.OPTION=VALUE``."""
    key, equals, value = text.partition("=")
    part, dot, option = key.strip().rpartition(".")
    if not (equals and dot and part and option):
        raise OptionError(f"--set {text}: expected PART.OPTION=VALUE, such as sampler.ratio=0.01")
    return part, option, _value(value.strip())


def _value(text: str) -> Any:
    """Return a value as written in JSON; else none, a list with commas (``layer2,`` has one item), or the text."""
    try:
        return json.loads(text)
    except ValueError:  # no JSON, or a number of thousands of digits
        pass
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return [_value(part.strip()) for part in text.split(",") if part.strip()] if "," in text else text


SIZES = {"MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30, "TB": 10**12, "TIB": 2**40}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 2GB or 1.5 GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip(), re.IGNORECASE)
    unit = SIZES.get(found[2].upper()) if found else None
    if found is None or unit is None or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is no size; give a number and MB, MiB, GB or GiB, such as 2GB")
    return int(float(found[1]) * unit)


def require_writable(path: Path, example: str = "model.safetensors") -> None:
    """Make the folder that a file is to be written to; find out before the long work whether it can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; give --out a file in it, such as {path / example}")
    if not os.access(path.parent, os.W_OK):
        raise ModelFileError(f"{path}: its folder cannot be written to; choose another --out")


def skipped_because(reason: ImageError | str) -> str:
    """Return in one line why an image was left out, without the advice to leave it out."""
    return " ".join(str(reason).split()).removesuffix(", or pass --on-error skip")


def report_unreadable(errors: list[ImageError], total: int) -> None:
    """Say which images were left out and end with exit code 1, if there are any."""
    for error in errors:
        typer.echo(f"patchcore: {skipped_because(error)}", err=True)
    if errors:
        typer.echo(f"patchcore: {len(errors)} of {total} images were skipped; all others are done", err=True)
        raise typer.Exit(1)
