"""Several detectors that judge the same images together: their scores and maps, made comparable, are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import ImageError, ModelFileError, OptionError, TensorError
from patchcore_plugin.plugins.manager import Host, default_host

from .averaging import Unit, averaged_map
from .base import Fittable
from .calibration import Calibration, GoodImage, require_rate
from .detector import Detector
from .file import require_components, software
from .fitting.groups import Found, Group, ReadOptions, labelled
from .fitting.inputs import Input, stacked
from .fitting.learners import Judged, Learner
from .fitting.reading import Read, judge_each
from .fitting.updating import extended, new_images
from .pipeline import Precision
from .prediction import Prediction
from .preprocessing import Geometry, geometry
from .recipes.ensemble import EnsembleRecipe, load_recipe
from .shared_backbone import SharedBackbone, shared_backbones

T = TypeVar("T")


class Ensemble(Fittable[EnsembleRecipe]):
    """Several methods as one, with the interface of `Detector`.

    A score is the mean of the members' scores, each divided by its `Unit`; so is a map, of those members that have
    one. Members whose backbones are equal, or differ in their layers alone, share one and are fitted together, others
    one after the other, so that the patches of no more are held at once; the images are read for each anew. A member
    learns from more images for itself, and units stay.

    Parameters
    ----------
    recipe
        The members.
    seed, device, precision, host
        As in `Detector`, for all members.
    """

    _format = 2  # programs that read format 1 only know single models

    def __init__(
        self,
        recipe: EnsembleRecipe,
        *,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
    ) -> None:
        host = host or default_host()
        self.recipe = recipe.resolved(host, seed)
        """The recipe with every option of every member written out."""
        backbones = shared_backbones([member.backbone for member in self.recipe.members], host)
        self.members = tuple(
            Detector(member, seed=seed, device=device, precision=precision, host=host, backbone=backbone)
            for member, backbone in zip(self.recipe.members, backbones, strict=True)
        )
        """The members, each a detector; its own scores and threshold are not divided by anything."""
        self._labels = [f"member {number} ({member.name})" for number, member in enumerate(self.recipe.members)]
        sharing: dict[SharedBackbone, list[int]] = {}
        for number, backbone in enumerate(backbones):
            sharing.setdefault(backbone.shared, []).append(number)
        self._groups = [
            (numbers, Group([self.members[n]._parts for n in numbers], [self._labels[n] for n in numbers], shared))
            for shared, numbers in sharing.items()
        ]
        """Members, by their numbers, that share a backbone."""
        self._units: list[Unit] = []
        self.calibration = Calibration.none("not fitted")
        self.skipped = []

    @property
    def seed(self) -> int:
        """What governs all that is drawn at random."""
        return self.members[0].seed

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.members[0].device

    @property
    def precision(self) -> Precision:
        """What the backbones compute in."""
        return self.members[0].precision

    @property
    def bank_rows(self) -> int:
        """How many rows the members' memory banks have together."""
        return sum(member.bank_rows for member in self.members)

    @property
    def covering_radius(self) -> None:
        """None: the members' radii are distances in different spaces; each member has its own."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """What the scores and maps of each member are divided by."""
        if not self._units:
            raise TensorError("the ensemble is not fitted; call fit or load first")
        return tuple(self._units)

    @property
    def training_images(self) -> tuple[str, ...]:
        """Paths of the images that it was fitted on, of those that were files."""
        return self.members[0].training_images

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Small copies of training images; as `Detector.thumbnails`. The first member keeps them for all."""
        return self.members[0].thumbnails

    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop"
    ) -> Iterator[Prediction | ImageError]:
        """Judge images one after the other; as `Detector.predict_each`.

        ``nearest`` is that of the member whose divided patch scores go highest, of those that know one; its
        ``distance`` is divided too.
        """
        _ = self.units  # there must be some
        return judge_each(images, self.recipe.preprocessing, self._score, self._judge, on_error)

    def describe(self) -> dict[str, Any]:
        """Return, as JSON-like data, what it was made of and with; as `Detector.describe`, of each member too."""
        return {
            "bank_rows": self.bank_rows,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "precision": self.precision,
            "members": [member.describe() for member in self.members],
            "software": software(),
        }

    def _score(self, inputs: Sequence[Input]) -> list[list[Found]]:
        """Return what each member finds in images."""
        images = stacked(inputs)
        found: dict[int, list[Found]] = {}
        for numbers, group in self._groups:
            found |= zip(numbers, group.score(images), strict=True)
        return _in_order(found)

    def _judge(self, inputs: Sequence[Input], scored: Sequence[Sequence[Found]]) -> Iterator[Prediction]:
        for item, *each in zip(inputs, *scored, strict=True):
            divided = _divided(each, self._units)
            score, full = self._averaged(divided, item.shape)
            peaks = {
                number: float(one.map.max())
                for number, one in enumerate(divided)
                if one.map is not None and one.nearest is not None
            }
            nearest = None
            if peaks:
                most = max(peaks, key=peaks.__getitem__)
                nearest = self.members[most]._nearest(divided[most], item.shape)
            yield Prediction.against(self.calibration, item.path, item.shape.image, score, full, nearest)

    def _averaged(self, divided: Sequence[Found], shape: Geometry) -> tuple[float, NDArray[np.float32] | None]:
        """Return score and map of an image, by what the members found in it, in their units."""
        maps = [found.map for found in divided if found.map is not None]
        return sum(found.score for found in divided) / len(divided), averaged_map(maps, shape, self.recipe.map)

    def _fit(
        self,
        images: Sequence[ImageLike],
        options: ReadOptions,
        false_alarm_rate: float | None,
        memory_budget: int | None,
    ) -> None:
        if memory_budget is not None:
            raise OptionError(
                "an ensemble cannot be fitted within a memory budget; fit its members as models of their own, or take "
                "fewer images"
            )
        self._units, self.calibration = [], Calibration.none("not fitted")
        if false_alarm_rate is not None:
            judged_by_each = [member._learner(len(images), None).judges(len(images)) for member in self.members]
            require_rate(false_alarm_rate, min(judged_by_each))
        for _, group in self._groups:
            group.require_memory(images, options.on_error)
        judged: dict[int, list[Judged]] = {}
        reads = self._read(images, options, lambda member, progress: member._learner(len(images), progress))
        for learners, read in reads:
            # The patches of each are let go before the next is learned from.
            for number in list(learners):
                judged[number] = self.members[number]._finish(learners.pop(number), _kept_by(number, read), None)
        self.skipped = read.skipped
        by_member = _in_order(judged)
        self._units = [Unit.of_good(each, label) for each, label in zip(by_member, self._labels, strict=True)]
        good = self._good(by_member, read)
        self.good_scores = read.scored([each.score for each in good])
        self.calibration = (
            Calibration.of_good(
                good, read.source(len(good), "each judged by members that do not know it"), false_alarm_rate
            )
            if good
            else Calibration.none(
                "too few images to judge one by the others; the members' scores are averaged as they are"
            )
        )

    def _update(self, images: Sequence[ImageLike], options: ReadOptions) -> None:
        _ = self.units  # there must be some
        new = new_images(images, self.training_images)
        reads = list(self._read(new, options, lambda member, progress: member._learner_of_more(len(new), progress)))
        learners = _in_order({number: learning for each, _ in reads for number, learning in each.items()})
        judged, learned = [each.judged() for each in learners], [each.learned() for each in learners]
        _, read = reads[-1]
        self.skipped = read.skipped
        good = self._good(judged, read)
        self.good_scores = read.scored([each.score for each in good])
        self.calibration = extended(self.calibration, good)
        for number, member in enumerate(self.members):
            member._extend(judged[number], learned[number], _kept_by(number, read))

    def _read(
        self,
        images: Sequence[ImageLike],
        options: ReadOptions,
        learner_of: Callable[[Detector, Progress | None], Learner],
    ) -> Iterator[tuple[dict[int, Learner], Read]]:
        """Let members learn from images, each group in a pass of its own; yield its learners, by members' numbers."""
        before: Read | None = None
        for numbers, group in self._groups:
            learners = {n: learner_of(self.members[n], labelled(self._labels[n], options.progress)) for n in numbers}
            read = group.read(images, list(learners.values()), options)
            if before is not None and (before.early, before.late) != (read.early, read.late):
                raise ImageError("the images changed while they were read; fit again")
            before = read
            yield learners, read

    def _good(self, judged: Sequence[Sequence[Judged]], read: Read) -> list[GoodImage]:
        """Return what the images got, the last ones, which every member has judged without knowing them."""
        count = min(map(len, judged))
        images = read.early + read.late
        good = []
        for image, *found in zip(*(each[len(each) - count :] for each in (images, *judged)), strict=True):
            divided = _divided([Found(*each) for each in found], self._units)
            good.append(GoodImage.of(*self._averaged(divided, geometry(self.recipe.preprocessing, image.shape))))
        return good

    @classmethod
    def _load_recipe(cls, name: str) -> EnsembleRecipe:
        recipe = load_recipe(name)
        if not isinstance(recipe, EnsembleRecipe):
            raise OptionError(f"recipe {name!r} is a single method, not an ensemble; use Detector.from_recipe")
        return recipe

    @classmethod
    def _saved_recipe(cls, path: Path, manifest: Mapping[str, Any], host: Host) -> EnsembleRecipe:
        if "members" not in manifest:
            raise ModelFileError(f"{path}: holds a single model; load it with patchcore_plugin.load_model")
        recipe = EnsembleRecipe.from_dict(manifest["recipe"])
        for member, described in zip(recipe.members, manifest["members"], strict=True):
            require_components(path, member, described, host)
        return recipe

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{_prefix(number)}{name}": tensor
            for number, member in enumerate(self.members)
            for name, tensor in member._tensors().items()
        }

    def _manifest(self) -> dict[str, Any]:
        return {
            "units": [{"score": unit.score, "map": unit.map} for unit in self.units],
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "precision": self.precision,
            "members": [member._manifest() for member in self.members],
            "calibration": self.calibration.to_dict(),
            "software": software(),
        }

    def _restore(self, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        for number, (member, described) in enumerate(zip(self.members, manifest["members"], strict=True)):
            prefix = _prefix(number)
            own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
            member._restore(path, own, described)
        self._units = [Unit(**unit) for unit in manifest["units"]]
        self.calibration = Calibration.from_dict(manifest["calibration"])


def _divided(found: Sequence[Found], units: Sequence[Unit]) -> list[Found]:
    """Return what members found in an image, each in its unit."""
    return [
        Found(each.score / unit.score, None if each.map is None else each.map / np.float32(unit.map), each.nearest)
        for each, unit in zip(found, units, strict=True)
    ]


def _kept_by(number: int, read: Read) -> Read:
    """Return what a member keeps of the images: the first one keeps thumbnails for all."""
    if number == 0:
        return read
    early, late = ([image._replace(thumbnail=None) for image in each] for each in (read.early, read.late))
    return Read(early, late, read.skipped)


def _in_order(found: Mapping[int, T]) -> list[T]:
    """Return what is known of members by their numbers, in their order."""
    return [each for _, each in sorted(found.items())]


def _prefix(number: int) -> str:
    return f"member{number}."
