"""Options that several commands share, and the detector that they describe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from patchcore_plugin.errors import ModelFileError
from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.specs import ROLES

from . import completion
from .parsing import parse_option

if TYPE_CHECKING:
    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.recipes import Recipe

ModelArgument = Annotated[Path, typer.Argument(help="Model file, such as part.safetensors.", readable=False)]
RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", help="Name of a built-in recipe, or path of a .toml file.", autocompletion=completion.recipes
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="Backbone that replaces the recipe's.",
        autocompletion=completion.component_names("backbone"),
    ),
]
AggregatorOption = Annotated[
    str | None,
    typer.Option(
        "--aggregator",
        help="Aggregator that replaces the recipe's.",
        autocompletion=completion.component_names("aggregator"),
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler", help="Sampler that replaces the recipe's.", autocompletion=completion.component_names("sampler")
    ),
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer", help="Scorer that replaces the recipe's.", autocompletion=completion.component_names("scorer")
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="ROLE.OPTION=VALUE",
        help="Set an option, such as sampler.ratio=0.01, or 0.sampler.ratio=0.01 for one member of an ensemble; "
        "repeatable.",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Device to run on: auto, cpu, cuda, or one GPU such as cuda:1.")
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option(
        "--precision",
        help="Precision of the backbone; bf16 is faster on hardware that supports it.",
        show_default="fp32 to fit, that of the model to predict",
    ),
]
OnErrorOption = Annotated[
    Literal["stop", "skip"], typer.Option("--on-error", help="How to handle an unreadable image.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Random seed.")]
FalseAlarmRateOption = Annotated[
    float | None,
    typer.Option(
        "--false-alarm-rate",
        help="Target false-alarm rate on good images.",
        show_default="0.01, or the lowest that the number of images supports",
    ),
]
NewModelOption = Annotated[
    Path | None,
    typer.Option("--out", help="Model file to write.", show_default="overwrite MODEL"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True)
class PluginFilter:
    """Plugins that the user excluded on the command line.

    Parameters
    ----------
    names
        Plugins and distributions to block.
    entry_points
        Whether to load plugins of other distributions.
    """

    names: tuple[str, ...] = ()
    entry_points: bool = True

    @classmethod
    def from_context(cls, context: typer.Context) -> PluginFilter:
        """Return the filter that the options before the command set."""
        return context.find_object(cls) or cls()

    def create_host(self) -> Host:
        """Return a host without the excluded plugins."""
        return Host(block=self.names, entry_points=self.entry_points)


def create_host(context: typer.Context) -> Host:
    """Return a host without the plugins that the user excluded.

    Raises
    ------
    PluginError
        If a name to block is unknown.
    """
    return PluginFilter.from_context(context).create_host()


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Command-line options that describe a detector.

    Parameters
    ----------
    recipe
        Name of a built-in recipe, or path of a TOML file.
    backbone, aggregator, sampler, scorer
        Components that replace those of the recipe.
    options
        Values of ``--set``: ``ROLE.OPTION=VALUE``.
    device, precision, seed
        Passed to the detector.
    """

    recipe: str
    backbone: str | None = None
    aggregator: str | None = None
    sampler: str | None = None
    scorer: str | None = None
    options: tuple[str, ...] = ()
    device: str = "auto"
    precision: Literal["fp32", "bf16"] | None = None
    seed: int = 0

    def load_recipe(self) -> Recipe:
        """Return the recipe with all replacements and options applied.

        Raises
        ------
        OptionError
            If the recipe or an option is unknown or invalid.
        """
        from patchcore_plugin.models.recipes import Recipe

        recipe = Recipe.load(self.recipe)
        for role in ROLES:
            name = getattr(self, role)
            if name is not None:
                recipe = recipe.change(role, name)
        # Options of one role are applied together, because some are valid only in combination.
        changes: dict[str, dict[str, Any]] = {}
        for text in self.options:
            part, option, value = parse_option(text)
            changes.setdefault(part, {})[option] = value
        for part, change in changes.items():
            recipe = recipe.change(part, change)
        return recipe

    def create_detector(self, host: Host) -> Detector:
        """Return a detector that is not fitted yet. Invalid options fail before torch is imported.

        Raises
        ------
        OptionError
            If the recipe or an option is unknown or invalid.
        PluginError
            If a component is not available.
        """
        recipe = self.load_recipe()
        recipe.resolve(host, self.seed)
        from patchcore_plugin.models.detector import Detector

        precision = self.precision or "fp32"
        return Detector(recipe, seed=self.seed, device=self.device, precision=precision, host=host)


def require_writable(path: Path, example: str = "model.safetensors") -> None:
    """Create the folder of an output file, and check it before the long work starts.

    Parameters
    ----------
    path
        File to write later.
    example
        File name that the message suggests.

    Raises
    ------
    ModelFileError
        If the path is a folder, or its folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; pass a file name to --out, such as {path / example}")
    if not os.access(path.parent, os.W_OK):
        raise ModelFileError(f"{path}: the folder is not writable; choose another --out")
