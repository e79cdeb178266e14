"""Several detectors that judge the same photos together: their scores and maps, made comparable, are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import memory, model_file
from .averaging import Unit, averaged_map
from .calibrated import Calibrated
from .calibration import Calibration, GoodPhoto, require_rate
from .composition import Precision
from .detector import Detector
from .ensemble_recipe import EnsembleRecipe, load_recipe
from .errors import ImageError, ModelFileError, OptionError, PatchcoreError, TensorError
from .feature_store import FeatureStore
from .features import Input, OnError, Photo, stacked
from .host import Host
from .learning import Judged, Learner, Progress
from .model_file import require_components, software
from .prediction import Nearest, Prediction, nearest_patch
from .preprocessing import geometry
from .reading import Read, first_patches, judge_each, read_good
from .roles import Patches
from .sharing import SharedBackbone, shared_backbones
from .updating import extended, new_photos

FORMAT = 2
"""Format of the model files of ensembles: programs that read format 1 only know single models."""


class Ensemble(Calibrated):
    """Several methods as one, with the interface of `Detector`.

    A score is the mean of the members' scores, each divided by its `Unit`; so is a map, of those members that have
    one. Members whose backbones are equal, or differ in their layers alone, share one and are fitted together.

    Parameters
    ----------
    recipe
        The members.
    seed, device, precision, host
        As in `Detector`, for all members.
    """

    def __init__(
        self,
        recipe: EnsembleRecipe,
        *,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "fp32",
        host: Host | None = None,
    ) -> None:
        host = host or Host()
        self.recipe = recipe.resolved(host, seed)
        """The recipe with every option of every member written out."""
        backbones = shared_backbones([member.backbone for member in self.recipe.members], host)
        self.members = tuple(
            Detector(member, seed=seed, device=device, precision=precision, host=host, backbone=backbone)
            for member, backbone in zip(self.recipe.members, backbones, strict=True)
        )
        """The members, each a detector; its own scores and threshold are not divided by anything."""
        sharing: dict[SharedBackbone, list[int]] = {}
        for number, backbone in enumerate(backbones):
            sharing.setdefault(backbone.shared, []).append(number)
        self._groups = list(sharing.items())
        self._units: list[Unit] = []
        self.calibration = Calibration.none("not fitted")
        self.skipped: list[ImageError] = []

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
    ) -> Ensemble:
        """Return an ensemble of a recipe, shipped (by name) or of one's own (by path).

        Parameters
        ----------
        name
            Recipe name, or the path of a TOML file.
        seed, device, precision, host
            As in the class.
        changes
            See `EnsembleRecipe.change`; a single member's part is given as ``**{"0.sampler": {"ratio": 0.1}}``.
        """
        recipe = load_recipe(name)
        if not isinstance(recipe, EnsembleRecipe):
            raise OptionError(f"recipe {name!r} is a single method, not an ensemble; use Detector.from_recipe")
        for part, change in changes.items():
            if change is not None:
                recipe = recipe.change(part, change)
        return cls(recipe, seed=seed, device=device, precision=precision, host=host)

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
    def training_photos(self) -> tuple[str, ...]:
        """Paths of the photos that it was fitted on, of those that were files."""
        return self.members[0].training_photos

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Small copies of training photos; as `Detector.thumbnails`. The first member keeps them for all."""
        return self.members[0].thumbnails

    def fit(
        self,
        photos: Sequence[Photo],
        *,
        false_alarm_rate: float | None = None,
        keep_thumbnails: bool = False,
        memory_budget: int | None = None,
        features: str | Path | None = None,
        on_error: OnError = "stop",
        progress: Progress | None = None,
        announce: Callable[[str], object] | None = None,
    ) -> Ensemble:
        """Learn what is normal from good photos, and set units and threshold; as `Detector.fit`.

        Members that share a backbone are fitted together, others one after the other, so that the patches of no more
        are held at once; the photos are read for each anew.

        Raises
        ------
        OptionError
            For a memory budget: members have spaces of their own, and no share of it suits all.
        ImageError
            As `Detector.fit`; or if the photos change meanwhile.
        PatchcoreError
            Before the long work, if there is not the memory for one of the members, or for those fitted together.
        """
        if memory_budget is not None:
            raise OptionError(
                "an ensemble cannot be fitted within a memory budget; fit its members as models of their own, or take "
                "fewer photos"
            )
        self._units, self.calibration = [], Calibration.none("not fitted")
        if false_alarm_rate is not None:
            judged_by_each = [member._learner(len(photos), None).judges(len(photos)) for member in self.members]
            require_rate(false_alarm_rate, min(judged_by_each))
        self._require_memory(photos, on_error)
        judged: dict[int, list[Judged]] = {}
        read: Read | None = None
        for shared, numbers in self._groups:
            before = read
            learners = {
                number: self.members[number]._learner(len(photos), _named(self._label([number]), progress))
                for number in numbers
            }
            store = None
            if features is not None:
                members = [self.members[number]._parts.extraction() for number in numbers]
                settings = {"thumbnails": keep_thumbnails, "members": members}
                store = FeatureStore(Path(features), settings, self.device)
            read = self._read_together(shared, learners, photos, keep_thumbnails, on_error, progress, announce, store)
            _require_same(before, read)
            # The patches of each are let go before the next is learned from.
            for number in numbers:
                judged[number] = self.members[number]._finish(learners.pop(number), read, None)
        assert read is not None
        self.skipped = read.skipped
        for member in self.members[1:]:
            member._thumbnails = {}
        held = [judged[number] for number in range(len(self.members))]
        self._units = [Unit.of_good(each, self._label([number])) for number, each in enumerate(held)]
        good = self._good(held, read)
        self.calibration = (
            Calibration.of_good(
                good, read.source(len(good), "each judged by members that do not know it"), false_alarm_rate
            )
            if good
            else Calibration.none(
                "too few photos to judge one by the others; the members' scores are averaged as they are"
            )
        )
        return self

    def update(
        self, photos: Sequence[Photo], *, on_error: OnError = "stop", progress: Progress | None = None
    ) -> Ensemble:
        """Learn from more good photos, each member for itself; units stay. As `Detector.update`."""
        _ = self.units
        new = new_photos(photos, self.training_photos)
        thumbnails = bool(self.thumbnails)
        learners: dict[int, Learner] = {}
        read: Read | None = None
        for shared, numbers in self._groups:
            before = read
            own = {
                number: self.members[number]._learner_of_more(len(new), _named(self._label([number]), progress))
                for number in numbers
            }
            read = self._read_together(shared, own, new, thumbnails, on_error, progress)
            _require_same(before, read)
            learners |= own
        assert read is not None
        held = [learners[number].judged() for number in range(len(self.members))]
        learned = [learners[number].learned() for number in range(len(self.members))]
        self.skipped = read.skipped
        self.calibration = extended(self.calibration, self._good(held, read))
        for number, member in enumerate(self.members):
            member._extend(held[number], learned[number], read)
            if number:
                member._thumbnails = {}
        return self

    def predict_each(
        self, photos: Iterable[Photo], /, *, on_error: OnError = "stop"
    ) -> Iterator[Prediction | ImageError]:
        """Judge photos one after the other; as `Detector.predict_each`.

        ``nearest`` is that of the member whose divided patch scores go highest, of those that know one; its
        ``distance`` is divided too.
        """
        units = self.units
        origins = [member.bank.origin.cpu().numpy() for member in self.members]
        return judge_each(
            photos, self.recipe.preprocessing, lambda inputs: self._judge(inputs, units, origins), on_error
        )

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

    def save(self, path: str | Path) -> None:
        """Write the fitted ensemble to one .safetensors file, replacing an older one only when complete."""
        units = self.units
        tensors = {
            f"member{number}.{name}": tensor
            for number, member in enumerate(self.members)
            for name, tensor in member._tensors().items()
        }
        manifest = {
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "precision": self.precision,
            "members": [member._manifest() for member in self.members],
            "units": [{"score": unit.score, "map": unit.map} for unit in units],
            "calibration": self.calibration.to_dict(),
            "software": software(),
        }
        model_file.save(Path(path), tensors, manifest, version=FORMAT)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
    ) -> Ensemble:
        """Return the ensemble that was saved; as `Detector.load`."""
        path = Path(path)
        tensors, manifest = model_file.load(path)
        if "members" not in manifest:
            raise ModelFileError(f"{path}: holds a single model; load it with patchcore_plugin.load_model")
        host = host or Host()
        recipe = EnsembleRecipe.from_dict(manifest["recipe"])
        saved = manifest["members"]
        for single, described in zip(recipe.members, saved, strict=True):
            require_components(path, single, described, host)
        precision = precision or manifest["precision"]
        ensemble = cls(recipe, seed=manifest["seed"], device=device, precision=precision, host=host)
        for number, (member, described) in enumerate(zip(ensemble.members, saved, strict=True)):
            prefix = f"member{number}."
            own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
            member._restore(path, own, described)
        ensemble._units = [Unit(**unit) for unit in manifest["units"]]
        ensemble.calibration = Calibration.from_dict(manifest["calibration"])
        return ensemble

    def _label(self, numbers: Sequence[int]) -> str:
        return " and ".join(f"member {number} ({self.recipe.members[number].name})" for number in numbers)

    def _require_memory(self, photos: Sequence[Photo], on_error: OnError) -> None:
        """Try each group on one photo: a fit for which there is no room ends here, not hours later."""
        for shared, numbers in self._groups:
            needed, free = 0.0, memory.available(self.device)
            extract = partial(self._extract, shared, numbers)
            first = first_patches(photos, self.recipe.preprocessing, self.seed, on_error, extract)
            for number, patches in zip(numbers, first, strict=False):
                learning = self.members[number]._learner(len(photos), None)
                learning.add(patches)
                needed += learning.needed
                del learning
            if free is not None and needed > free:
                raise PatchcoreError(
                    f"{self._label(numbers)} share a backbone and are fitted together: about {needed / 1e9:.1f} GB are "
                    f"needed and {free / 1e9:.1f} GB are free; take fewer photos, raise aggregator.stride, or lower "
                    "preprocessing.size"
                )

    def _extract(self, shared: SharedBackbone, numbers: Sequence[int], images: Tensor) -> list[Patches]:
        with _once(shared, numbers):
            return [self.members[number]._parts.patches(images) for number in numbers]

    def _read_together(
        self,
        shared: SharedBackbone,
        learners: Mapping[int, Learner],
        photos: Sequence[Photo],
        thumbnails: bool,
        on_error: OnError,
        progress: Progress | None,
        announce: Callable[[str], object] | None = None,
        store: FeatureStore | None = None,
    ) -> Read:
        """Let members, by their numbers, see the photos in one pass."""
        numbers = list(learners)

        def learn(patches: Sequence[Patches]) -> None:
            for learning, each in zip(learners.values(), patches, strict=True):
                learning.add(each)

        def hold_out() -> None:
            for learning in learners.values():
                learning.hold_out()

        def tell(seconds: float) -> None:
            for number, learning in learners.items():
                if announce is not None:
                    announce(f"{self._label([number])}: {learning.describe(seconds)}")

        return read_good(
            photos,
            self.recipe.preprocessing,
            self.seed,
            extract=partial(self._extract, shared, numbers),
            learn=learn,
            hold_out=hold_out,
            on_error=on_error,
            thumbnails=thumbnails,
            store=store,
            progress=_named(self._label(numbers), progress),
            announce=tell,
        )

    def _good(self, judged: Sequence[Sequence[Judged]], read: Read) -> list[GoodPhoto]:
        """Return what the photos got, the last ones, which every member has judged without knowing them."""
        count = min(map(len, judged))
        good: list[GoodPhoto] = []
        if not count:
            return good
        photos = (read.early + read.late)[-count:]
        for photo, *found in zip(photos, *(each[-count:] for each in judged), strict=True):
            score = _mean([each.score / unit.score for each, unit in zip(found, self._units, strict=True)])
            divided = [
                each.map / np.float32(unit.map)
                for each, unit in zip(found, self._units, strict=True)
                if each.map is not None
            ]
            full = averaged_map(divided, geometry(self.recipe.preprocessing, photo.shape), self.recipe.map)
            good.append(GoodPhoto.of(score, full))
        return good

    def _judge(
        self, inputs: Sequence[Input], units: Sequence[Unit], origins: Sequence[NDArray[np.int64]]
    ) -> Iterator[Prediction]:
        images = stacked(inputs)
        scores, maps, rows = {}, {}, {}
        for shared, numbers in self._groups:
            with _once(shared, numbers):
                for number in numbers:
                    parts, unit = self.members[number]._parts, units[number]
                    found = parts.score(parts.patches(images))
                    scores[number] = [score / unit.score for score in found.image.tolist()]
                    if found.map is not None:
                        maps[number] = found.map.cpu().numpy() / np.float32(unit.map)
                        if found.nearest is not None:
                            rows[number] = found.nearest.cpu().numpy()
        for i, item in enumerate(inputs):
            score = _mean([each[i] for _, each in sorted(scores.items())])
            full = averaged_map([each[i] for _, each in sorted(maps.items())], item.shape, self.recipe.map)
            nearest: Nearest | None = None
            if rows:
                number = max(sorted(rows), key=lambda number: float(maps[number][i].max()))
                member = self.members[number]
                nearest = nearest_patch(
                    item.shape,
                    maps[number][i],
                    rows[number][i],
                    origins[number],
                    member._photos,
                    self.recipe.preprocessing,
                )
            yield Prediction.against(self.calibration, item.path, item.shape.photo, score, full, nearest)


def _once(shared: SharedBackbone, numbers: Sequence[int]) -> AbstractContextManager[None]:
    return shared.remembering() if len(numbers) > 1 else nullcontext()


def _require_same(before: Read | None, now: Read) -> None:
    if before is not None and (before.early, before.late) != (now.early, now.late):
        raise ImageError("the photos changed while they were read; fit again")


def _named(label: str, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda stage, done, total: progress(f"{label}: {stage}", done, total)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
