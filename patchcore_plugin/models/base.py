"""What a detector and an ensemble promise alike: made of a recipe, fitted, given more images, saved and loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from torch import Tensor

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import ImageError
from patchcore_plugin.plugins.manager import Host, default_host

from . import file as model_file
from .calibrated import Calibrated
from .fitting.groups import ReadOptions
from .pipeline import Precision
from .recipes.ensemble import EnsembleRecipe
from .recipes.recipe import Recipe

if TYPE_CHECKING:
    from typing_extensions import Self

R = TypeVar("R", Recipe, EnsembleRecipe)


class Fittable(Calibrated, Generic[R]):
    """A model that learns from good images.

    Parameters
    ----------
    recipe
        What it is made of.
    seed, device, precision, host
        As in `Composition`.
    """

    skipped: list[ImageError]
    """What was wrong with images that the last fit or update left out."""
    good_scores: Sequence[tuple[str | None, float]] = ()
    """Path (None for an array) and score of each good image that the last fit or update judged by what did not know it:
    a defect among them is among the highest, and the fitted model would pass it, because it knows it."""
    _format: ClassVar[int] = 1
    """Of its model files: that of the oldest program that can read them."""

    @abstractmethod
    def __init__(
        self,
        recipe: R,
        *,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
    ) -> None: ...

    @classmethod
    def from_recipe(
        cls,
        name: str,
        *,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
        **changes: str | Mapping[str, Any] | None,
    ) -> Self:
        """Return a model of a recipe, shipped (by name) or of one's own (by path).

        Parameters
        ----------
        name
            Recipe name, or the path of a TOML file.
        seed, device, precision, host
            As in the class.
        changes
            For a role, "preprocessing" or "map": another component's name, or options; see `Recipe.change`. A single
            member's part is given as ``**{"0.sampler": {"ratio": 0.1}}``; see `EnsembleRecipe.change`.
        """
        recipe = cls._load_recipe(name)
        for part, change in changes.items():
            if change is not None:
                recipe = recipe.change(part, change)
        return cls(recipe, seed=seed, device=device, precision=precision, host=host)

    @property
    @abstractmethod
    def thumbnails(self) -> Mapping[int, bytes]:
        """Small copies of training images as JPEG files, by the images' numbers; empty if none were kept."""

    def fit(
        self,
        images: Sequence[ImageLike],
        *,
        false_alarm_rate: float | None = None,
        keep_thumbnails: bool = False,
        memory_budget: int | None = None,
        features: str | Path | None = None,
        on_error: OnError = "stop",
        progress: Progress | None = None,
        announce: Callable[[str], object] | None = None,
    ) -> Self:
        """Learn what is normal from good images, and calibrate on them.

        The bank is made of all images. For the threshold each is judged by a bank of the others (in folds chosen by
        the seed; where no patches are kept, a tenth is held out and judged). A single image leaves no threshold.

        Parameters
        ----------
        images
            Paths, or RGB arrays [H, W, 3] (uint8, uint16, or floats in 0..1).
        false_alarm_rate
            The share of good images that the threshold may alarm; None for 0.01, or as little as so few images allow.
        keep_thumbnails
            Whether small copies of the images are kept, to show what a defect was compared with when they are gone.
        memory_budget
            How many bytes all that grows with the number of images may take; not for an ensemble. If not all patches
            fit into them, the bank is made by merge-and-reduce, and a tenth of the images is held out and judged.
        features
            A folder where extracted patches are kept, and taken from if a fit with these settings and images was broken
            off before; it stays until `feature_store.discard`. Images must be files then.
        on_error
            Whether an unreadable image stops the fit, or is left out and listed in `skipped`.
        progress
            Called with a stage, and how many of how many of its units are done.
        announce
            Called after the first few images with a line that says how much memory and time all will take; once, or
            once for each member of an ensemble.

        Raises
        ------
        ImageError
            For an unreadable image, if `on_error` is "stop"; if no image is left; if the images change while an
            ensemble reads them again.
        CalibrationError
            If the images are too few for the rate.
        OptionError
            For a memory budget of an ensemble: members have spaces of their own, and no share of it suits all.
        PatchcoreError
            If there is not the memory, or the budget is too small; with how much would do.
        """
        options = ReadOptions(
            keep_thumbnails=keep_thumbnails, features=features, on_error=on_error, progress=progress, announce=announce
        )
        self._fit(images, options, false_alarm_rate, memory_budget)
        return self

    def update(
        self, images: Sequence[ImageLike], *, on_error: OnError = "stop", progress: Progress | None = None
    ) -> Self:
        """Learn from more good images; those that it was fitted on already are left out.

        Each is judged before it is learned from, and its score added to the calibration, whose threshold is chosen
        again as it was. Then the bank's rows and the new patches are reduced to a bank. If anything fails, the model
        stays as it was.

        Parameters
        ----------
        images, on_error, progress
            As in `fit`.

        Raises
        ------
        DatasetError
            If no image is new.
        ImageError
            For an unreadable image, if `on_error` is "stop"; if no image is left.
        OptionError
            If a sampler cannot choose from a bank and new patches.
        """
        self._update(images, ReadOptions(keep_thumbnails=bool(self.thumbnails), on_error=on_error, progress=progress))
        return self

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one .safetensors file, replacing an older one only when complete."""
        manifest = self._manifest()
        model_file.save(Path(path), self._tensors(), manifest, version=self._format)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
    ) -> Self:
        """Return the model that was saved; with another `precision` than it was fitted with, if one is given.

        Raises
        ------
        ModelFileError
            If the file is damaged, too new, holds a model of another kind, or needs a plugin that is not installed.
        WeightsError
            If a backbone's weights are not those that it was fitted with.
        """
        path = Path(path)
        tensors, manifest = model_file.load(path)
        host = host or default_host()
        recipe = cls._saved_recipe(path, manifest, host)
        precision = precision or manifest["precision"]
        model = cls(recipe, seed=manifest["seed"], device=device, precision=precision, host=host)
        model._restore(path, tensors, manifest)
        return model

    @classmethod
    @abstractmethod
    def _load_recipe(cls, name: str) -> R:
        """Return the recipe of that name or path; refuse one of another kind."""

    @classmethod
    @abstractmethod
    def _saved_recipe(cls, path: Path, manifest: Mapping[str, Any], host: Host) -> R:
        """Return the recipe in a manifest; refuse a model of another kind, and one whose components are not here."""

    @abstractmethod
    def _fit(
        self,
        images: Sequence[ImageLike],
        options: ReadOptions,
        false_alarm_rate: float | None,
        memory_budget: int | None,
    ) -> None:
        """Do as `fit` says."""

    @abstractmethod
    def _update(self, images: Sequence[ImageLike], options: ReadOptions) -> None:
        """Do as `update` says."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return what its file stores."""

    @abstractmethod
    def _manifest(self) -> dict[str, Any]:
        """Return what its file says, as JSON-like data."""

    @abstractmethod
    def _restore(self, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        """Become what was saved, with these tensors and this manifest."""
