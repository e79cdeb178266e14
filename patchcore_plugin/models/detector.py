"""The detector: a recipe's four components at work, fitted on good images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import ImageError, ModelFileError, TensorError, WeightsError
from patchcore_plugin.plugins.manager import Host
from patchcore_plugin.plugins.protocols import Backbone, MemoryBank

from .base import Fittable
from .calibrated import with_pixels
from .calibration import Calibration, require_rate
from .file import require_components, software
from .fitting.groups import Found, Group, ReadOptions
from .fitting.inputs import Input, stacked
from .fitting.learners import Judged, Learned, Learner, learner
from .fitting.merge_reduce import learner_of_more, learner_within
from .fitting.reading import Read, judge_each
from .fitting.updating import extended, new_images
from .pipeline import Composition, Precision
from .prediction import Nearest, Prediction, nearest_patch
from .preprocessing import Geometry, anomaly_map
from .recipes.recipe import Recipe
from .state import FittedState


class Detector(Fittable[Recipe]):
    """PatchCore, or whatever the recipe composes.

    Parameters
    ----------
    recipe
        The components and their options.
    seed
        Governs the random projection, the starting point and any sampling of components whose seed is not set.
    device
        "auto" (a GPU if there is one), "cpu", "cuda" and so on.
    precision
        "fp32", or "bf16" to run the backbone in bfloat16: faster where the processor has it, with features and
        so scores rounded; distances between them stay exact.
    host
        Where the components come from; all installed plugins by default.
    backbone
        The recipe's backbone, if it is there already; made anew by default.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self._parts = Composition(recipe, seed=seed, device=device, precision=precision, host=host, backbone=backbone)
        self._group = Group([self._parts])
        self._state = FittedState()
        self.calibration = Calibration.none("not fitted")
        self.skipped = []

    @property
    def recipe(self) -> Recipe:
        """The recipe with every option written out."""
        return self._parts.recipe

    @property
    def seed(self) -> int:
        """What governs all that is drawn at random."""
        return self._parts.seed

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._parts.device

    @property
    def precision(self) -> Precision:
        """What the backbone computes in."""
        return self._parts.precision

    @property
    def bank(self) -> MemoryBank:
        """The memory bank, on the detector's device."""
        if self._state.bank is None:
            raise TensorError("the detector is not fitted; call fit or load first")
        return self._state.bank

    @property
    def bank_rows(self) -> int:
        """How many rows the memory bank has: none, where the scorer learned from patches as they came."""
        return len(self.bank.vectors)

    @property
    def training_images(self) -> tuple[str, ...]:
        """Paths of the images that it was fitted on, of those that were files."""
        return tuple(image["path"] for image in self._state.images if image["path"] is not None)

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Small copies of training images as JPEG files, by the images' numbers; empty if none were kept."""
        return self._state.thumbnails

    @property
    def covering_radius(self) -> float | None:
        """The largest distance from any patch seen in the fit to the bank; None before a fit.

        After an update, or a fit within a memory budget, it is a bound of that, because most patches are gone.
        """
        return self._state.covering_radius

    @property
    def radius_is_exact(self) -> bool:
        """Whether `covering_radius` is that of all patches seen, not a bound of it."""
        return self._state.radius_is_exact

    @property
    def radius_curve(self) -> list[tuple[int, float]]:
        """The covering radius of smaller banks too, as (rows, radius), where the sampler knows; that of all last."""
        return self._state.radius_curve

    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Judge images one after the other, in order, a batch in memory at a time.

        Where `on_error` is "skip", the error of an unreadable image is yielded in its place.
        """
        _ = self.bank  # there must be one
        if keep_pixels:
            return with_pixels(images, lambda given: self.predict_each(given, on_error=on_error), on_error)
        return judge_each(images, self.recipe.preprocessing, self._score, self._judge, on_error)

    def describe(self) -> dict[str, Any]:
        """Return, as JSON-like data, what it was made of and with: what its file says, less images and calibration."""
        said = {key: value for key, value in self._manifest().items() if key not in ("photos", "calibration")}
        return {"bank_rows": self.bank_rows, **said}

    def _score(self, inputs: Sequence[Input]) -> list[Found]:
        (found,) = self._group.score(stacked(inputs))
        return found

    def _judge(self, inputs: Sequence[Input], scored: Sequence[Found]) -> Iterator[Prediction]:
        for item, found in zip(inputs, scored, strict=True):
            full = None if found.map is None else anomaly_map(found.map, item.shape, self.recipe.map)
            nearest = self._nearest(found, item.shape)
            yield Prediction.against(self.calibration, item.path, item.shape.image, found.score, full, nearest)

    def _fit(
        self,
        images: Sequence[ImageLike],
        options: ReadOptions,
        false_alarm_rate: float | None,
        memory_budget: int | None,
    ) -> None:
        learning = self._learner(len(images), options.progress)
        if memory_budget is not None:
            for first in self._group.first_patches(images, options.on_error):
                learning = learner_within(self._parts, len(images), memory_budget, first, options.progress)
        if false_alarm_rate is not None:
            require_rate(false_alarm_rate, learning.judges(len(images)))
        self._finish(learning, self._group.read(images, [learning], options), false_alarm_rate)

    def _update(self, images: Sequence[ImageLike], options: ReadOptions) -> None:
        new = new_images(images, self.training_images)
        learning = self._learner_of_more(len(new), options.progress)
        read = self._group.read(new, [learning], options)
        self._extend(learning.judged(), learning.learned(), read)

    # The steps of these; an ensemble takes them too, for each of its members.

    def _nearest(self, found: Found, shape: Geometry) -> Nearest | None:
        """Return what the most anomalous patch of an image was compared with; None where that is not known."""
        if found.map is None or found.nearest is None:
            return None
        state, options = self._state, self.recipe.preprocessing
        return nearest_patch(shape, found.map, found.nearest, state.origin, state.images, options)

    def _learner(self, capacity: int, progress: Progress | None) -> Learner:
        """Return what learns from at most so many images."""
        return learner(self._parts, capacity, progress)

    def _finish(self, learning: Learner, read: Read, rate: float | None) -> list[Judged]:
        """Become what was learned from the images that were read; return what the judged ones, the last, got."""
        if rate is not None:
            require_rate(rate, learning.judges(len(read.early + read.late)))
        self.skipped = read.skipped
        judged = learning.judged()
        self.good_scores = read.scored([found.score for found in judged])
        learned = learning.learned()
        if judged:
            source = read.source(len(judged), learning.judging)
            self.calibration = Calibration.of_good(read.good(judged, self.recipe), source, rate)
        else:
            # Of one image, all that is known of its maps is how far its own patches are from the bank.
            radius = learned.radius_curve[-1][1] if learned.radius_curve else 0.0
            self.calibration = Calibration.none("too few images to judge one by the others", 2 * radius or 1.0)
        self._become(learned, read, FittedState())
        return judged

    def _learner_of_more(self, capacity: int, progress: Progress | None) -> Learner:
        """Return what learns from at most so many more images; the detector does not change meanwhile."""
        images = len(self._state.images)
        return learner_of_more(self._parts, self.bank, images, self.covering_radius, capacity, progress)

    def _extend(self, judged: Sequence[Judged], learned: Learned, read: Read) -> None:
        """Become what was learned from more images."""
        self.skipped = read.skipped
        self.good_scores = read.scored([found.score for found in judged])
        self.calibration = extended(self.calibration, read.good(judged, self.recipe))
        self._become(learned, read, self._state)

    def _become(self, learned: Learned, read: Read, before: FittedState) -> None:
        self._parts.scorer = learned.scorer
        self._state = before.followed_by(learned, read.early + read.late)

    @classmethod
    def _load_recipe(cls, name: str) -> Recipe:
        return Recipe.load(name)

    @classmethod
    def _saved_recipe(cls, path: Path, manifest: Mapping[str, Any], host: Host) -> Recipe:
        if "members" in manifest:
            raise ModelFileError(f"{path}: holds an ensemble; load it with patchcore_plugin.load_model")
        recipe = Recipe.from_dict(manifest["recipe"])
        require_components(path, recipe, manifest, host)
        return recipe

    def _tensors(self) -> dict[str, Tensor]:
        scorer = {f"scorer.{name}": tensor for name, tensor in self._parts.scorer.state().items()}
        return {**self._state.tensors(), **scorer}

    def _manifest(self) -> dict[str, Any]:
        _ = self.bank  # there must be one
        return {
            **self._parts.describe(),
            **self._state.manifest(),
            "calibration": self.calibration.to_dict(),
            "software": software(),
        }

    def _restore(self, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        if self._parts.backbone.weight_hash() != manifest["backbone_sha256"]:
            raise WeightsError(
                f"{path}: backbone {self.recipe.backbone.name!r} has other weights here than the model was fitted "
                "with; install the versions that 'patchcore plugins show' and the model's manifest name, or fit again"
            )
        self._state = FittedState.saved(path, tensors, manifest, self.device)
        state = {
            name.removeprefix("scorer."): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith("scorer.")
        }
        self._parts.scorer.restore(self.bank, state)
        self.calibration = Calibration.from_dict(manifest["calibration"])
