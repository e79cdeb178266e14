"""The detector: one or more members, fitted on good images, with a calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import ImageError, OptionError
from patchcore_plugin.plugins.manager import Host, default_host
from patchcore_plugin.plugins.protocols import MemoryBank

from . import file, persistence
from .base import BaseModel
from .calibration import Calibration
from .fitting.fit import FitOptions
from .fitting.members import DetectorFit, fit_members, update_members
from .fitting.new_images import new_images
from .images import ImageReader
from .member import Member
from .pipeline import Pipeline, Precision
from .prediction import Prediction
from .recipes import Recipe
from .scoring import predictions, score_batches

if TYPE_CHECKING:
    from typing_extensions import Self


class Detector(BaseModel):
    """PatchCore, or any other method or ensemble of methods that a recipe describes.

    With several members, scores and maps of each are normalised (`ScoreScale`) and averaged.

    Parameters
    ----------
    recipe
        The components of each member, and how images are prepared.
    seed
        Random seed, for components whose own seed is not set, and for folds and held-out images.
    device
        "auto" (a GPU if there is one), "cpu", "cuda" and so on.
    precision
        "fp32", or "bf16" to run backbones in bfloat16: faster where the processor supports it, with rounded features.
    host
        Provides the components; all installed plugins by default.

    Raises
    ------
    PluginError, OptionError, WeightsError
        If a component does not exist, cannot take its options, or has no weights.
    TensorError
        If the device cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> detector = Detector.from_recipe("patchcore", **changes)
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    >>> detector.fit(list(images)).predict([images[0]])[0].is_anomalous
    False
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
    ) -> None:
        host = host or default_host()
        self.seed = seed
        self.recipe = recipe.resolve(host, seed)
        """The recipe with every option written out."""
        self.members: tuple[Member, ...] = tuple(
            Member(pipeline=Pipeline(member, host, device=device, precision=precision))
            for member in self.recipe.split()
        )
        """The methods whose scores are averaged; usually one."""
        self.calibration = Calibration.without_threshold("not fitted")
        self.skipped: list[ImageError] = []
        """Errors of the images that the last fit or update left out."""
        self.held_out_scores: list[tuple[str | None, float]] = []
        """Path (None for an array) and score of each training image that the last fit or update scored by a model that
        was not fitted on it, in the order given. A defective image among them has one of the highest scores."""
        self.images: list[dict[str, Any]] = []
        """Path (None for an array), height and width of each training image, by the numbers in ``bank.origin``."""
        self.thumbnails: Mapping[int, bytes] = {}
        """Small copies of training images as JPEG files, by number of the image; empty if they were not kept."""

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
        """Return a detector for a built-in recipe, by name, or a TOML file, by path.

        Parameters
        ----------
        name
            Name of a recipe, or path of a TOML file.
        seed, device, precision, host
            Those of the class.
        changes
            For a role, "preprocessing" or "map": the name of another component, or options; see `Recipe.change`. For
            one of several members: ``**{"0.sampler": {"ratio": 0.1}}``.

        Raises
        ------
        OptionError
            For an unknown recipe, section or option.
        """
        recipe = Recipe.load(name)
        for part, change in changes.items():
            if change is not None:
                recipe = recipe.change(part, change)
        return cls(recipe, seed=seed, device=device, precision=precision, host=host)

    @property
    def device(self) -> torch.device:
        """Device that the detector runs on."""
        return self.members[0].pipeline.device

    @property
    def precision(self) -> Precision:
        """Precision of the backbones."""
        return self.members[0].pipeline.precision

    @property
    def member(self) -> Member:
        """The only member.

        Raises
        ------
        OptionError
            If there are several.
        """
        if len(self.members) > 1:
            raise OptionError(f"the detector has {len(self.members)} members; see detector.members")
        return self.members[0]

    @property
    def bank(self) -> MemoryBank:
        """The memory bank of the only member."""
        return self.member.bank

    @property
    def bank_rows(self) -> int:
        """Number of rows of all memory banks."""
        return sum(member.bank_rows for member in self.members)

    @property
    def covering_radius(self) -> float | None:
        """Covering radius of the only member; None for several, whose distances cannot be compared."""
        return self.members[0].covering_radius if len(self.members) == 1 else None

    @property
    def training_images(self) -> tuple[str, ...]:
        """Paths of the training images, without those that were arrays."""
        return tuple(image["path"] for image in self.images if image["path"] is not None)

    def fit(
        self,
        images: Sequence[ImageLike],
        *,
        false_alarm_rate: float | None = None,
        keep_thumbnails: bool = False,
        memory_budget: int | None = None,
        features: str | Path | None = None,
        cross_validate: bool = False,
        on_error: OnError = "stop",
        progress: Progress | None = None,
        announce: Callable[[str], object] | None = None,
    ) -> Self:
        """Fit on good images, and calibrate the threshold on them. If the fit fails, the detector stays as it was.

        The memory bank is made of all images. For the threshold each is scored by a memory bank of other images, in
        folds chosen by the seed; where patches are not kept, a tenth of the images is held out and scored. A single
        image gives no threshold.

        Parameters
        ----------
        images
            Paths, or RGB arrays [H, W, 3] of uint8, uint16 or floats in 0..1.
        false_alarm_rate
            Target false-alarm rate on good images; None for 0.01, or the lowest that the number of images supports.
        keep_thumbnails
            Whether to keep small copies of the images, which explanations show when the files are gone.
        memory_budget
            Bytes for everything that grows with the number of images; for a single member. If the patches exceed it,
            the memory bank is made by merge-and-reduce, and a tenth of the images is held out and scored.
        features
            A folder to keep extracted patches in, and to take them from when an interrupted fit with the same settings
            and images is resumed. `fitting.store.discard` deletes it. The images must be files.
        cross_validate
            Whether every image is scored by cross-fitting, even if the scorer could be fitted batch by batch.
        on_error
            "stop" to raise the error of an unreadable image, "skip" to leave the image out and list it in `skipped`.
        progress
            Called with a stage, the units done, and their total.
        announce
            Called once for each member, after the first images, with a line about memory and time.

        Raises
        ------
        ImageError
            For an unreadable image, if errors are not skipped; if no image is left; if images change during the fit.
        CalibrationError
            If there are too few images for the false-alarm rate.
        OptionError
            For a memory budget and several members.
        PatchcoreError
            If there is not enough memory, or the budget is too small; says how much is enough.
        """
        options = FitOptions(
            seed=self.seed,
            on_error=on_error,
            keep_thumbnails=keep_thumbnails,
            features=features,
            memory_budget=memory_budget,
            cross_validate=cross_validate,
            progress=progress,
            announce=announce,
        )
        self._adopt(fit_members(self.members, images, options, false_alarm_rate), old_count=0)
        return self

    def update(
        self, images: Sequence[ImageLike], *, on_error: OnError = "stop", progress: Progress | None = None
    ) -> Self:
        """Add more good images to the fitted detector. If the update fails, the detector stays as it was.

        Images that it was fitted on are left out. Each new image is scored before it is added, and its score becomes
        part of the calibration, whose threshold is chosen in the same way as before. Then each memory bank and the new
        patches are reduced to a memory bank.

        Parameters
        ----------
        images, on_error, progress
            Those of `fit`.

        Raises
        ------
        DatasetError
            If no image is new.
        ImageError
            For an unreadable image, if errors are not skipped; if no image is left.
        OptionError
            If a sampler cannot choose from a memory bank and new patches.
        """
        for member in self.members:
            member.require_fit()
        new = new_images(images, self.training_images)
        options = FitOptions(
            seed=self.seed, on_error=on_error, keep_thumbnails=bool(self.thumbnails), progress=progress
        )
        old_count = len(self.images)
        self._adopt(update_members(self.members, new, options, old_count, self.calibration), old_count)
        return self

    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Yield the predictions for images, in order, with one batch in memory at a time.

        ``nearest`` is that of the member with the highest normalised patch score, among those that return one.

        Parameters
        ----------
        images, on_error, keep_pixels
            Those of `BaseModel.predict_each`.
        """
        for member in self.members:
            member.require_fit()
        reader = ImageReader(self.recipe.preprocessing, on_error, keep_pixels=keep_pixels)
        scored = score_batches(self.members, reader.batches(images))
        return predictions(scored, self.members, self.recipe, self.calibration, self.images)

    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one .safetensors file, which replaces an older one when it is complete.

        Raises
        ------
        ModelFileError
            If the file cannot be written.
        """
        persistence.save(self._content(), Path(path))

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
    ) -> Self:
        """Return the detector in a model file.

        Parameters
        ----------
        path
            The file.
        device, host
            Those of the class.
        precision
            None for that of the fit.

        Raises
        ------
        ModelFileError
            If the file is damaged, too new, or needs a plugin that is not installed.
        WeightsError
            If the weights of a backbone are not those of the fit.
        """
        path, host = Path(path), host or default_host()
        tensors, manifest = file.load(path)
        recipe = persistence.saved_recipe(path, manifest, host)
        precision = precision or manifest["precision"]
        detector = cls(recipe, seed=manifest["seed"], device=device, precision=precision, host=host)
        content = persistence.restore(detector.members, detector.recipe, path, tensors, manifest)
        detector.members, detector.calibration = content.members, content.calibration
        detector.images, detector.thumbnails = content.images, content.thumbnails
        return detector

    def describe(self) -> dict[str, Any]:
        """Return, as JSON-like data, what the model file says about the detector, without images and calibration."""
        return persistence.describe(self._content())

    def _content(self) -> persistence.DetectorContent:
        return persistence.DetectorContent(
            self.recipe, self.seed, self.members, self.images, self.thumbnails, self.calibration
        )

    def _adopt(self, fit: DetectorFit, old_count: int) -> None:
        """Take over the result of a fit; nothing can fail from here on."""
        records = [{"path": image.path, "height": image.size[0], "width": image.size[1]} for image in fit.images]
        numbers = range(old_count, old_count + len(fit.images))
        thumbnails = {number: image.thumbnail for number, image in zip(numbers, fit.images, strict=True)}
        self.members = fit.members
        self.calibration = fit.calibration
        self.skipped = fit.errors
        self.held_out_scores = fit.held_out_scores
        self.images = [*self.images[:old_count], *records]
        new = {number: jpeg for number, jpeg in thumbnails.items() if jpeg is not None}
        self.thumbnails = {**self.thumbnails, **new} if old_count else new
