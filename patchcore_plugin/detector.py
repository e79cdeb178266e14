"""The detector: a recipe's four components at work, fitted on good photos, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import model_file
from .calibrated import Calibrated
from .calibration import Calibration, require_rate
from .composition import Composition, Precision
from .errors import ImageError, ModelFileError, TensorError, WeightsError
from .feature_store import FeatureStore, Seen
from .features import Input, OnError, Photo, stacked
from .host import Host
from .learning import Judged, Learned, Learner, Progress, learner
from .merging import learner_of_more, learner_within
from .model_file import require_components, software
from .prediction import Prediction, nearest_patch
from .preprocessing import anomaly_map
from .reading import Read, first_patches, judge_each, read_good
from .recipe import Recipe
from .roles import Backbone, MemoryBank, Patches
from .thumbnails import packed, unpacked
from .updating import extended, new_photos


class Detector(Calibrated):
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
        self._bank: MemoryBank | None = None
        self._photos: list[dict[str, Any]] = []
        self._thumbnails: dict[int, bytes] = {}
        self.calibration = Calibration.none("not fitted")
        self.radius_curve: list[tuple[int, float]] = []
        self.radius_is_exact = True
        """Whether `covering_radius` is that of all patches seen, not a bound of it."""
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
    ) -> Detector:
        """Return a detector of a recipe, shipped (by name) or of one's own (by path).

        Parameters
        ----------
        name
            Recipe name, or the path of a TOML file.
        seed, device, precision, host
            As in the class.
        changes
            For a role, "preprocessing" or "map": another component's name, or options; see `Recipe.change`.
        """
        recipe = Recipe.load(name)
        for part, change in changes.items():
            if change is not None:
                recipe = recipe.change(part, change)
        return cls(recipe, seed=seed, device=device, precision=precision, host=host)

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
        if self._bank is None:
            raise TensorError("the detector is not fitted; call fit or load first")
        return self._bank

    @property
    def bank_rows(self) -> int:
        """How many rows the memory bank has: none, where the scorer learned from patches as they came."""
        return len(self.bank.vectors)

    @property
    def training_photos(self) -> tuple[str, ...]:
        """Paths of the photos that it was fitted on, of those that were files."""
        return tuple(photo["path"] for photo in self._photos if photo["path"] is not None)

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Small copies of training photos as JPEG files, by the photos' numbers; empty if none were kept."""
        return self._thumbnails

    @property
    def covering_radius(self) -> float | None:
        """The largest distance from any patch seen in the fit to the bank; None before a fit.

        After an update, or a fit within a memory budget, it is a bound of that, because most patches are gone.

        ``radius_curve`` has it for smaller banks too, as (rows, radius), where the sampler knows.
        """
        return self.radius_curve[-1][1] if self.radius_curve else None

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
    ) -> Detector:
        """Learn what is normal from good photos, and calibrate on them.

        The bank is made of all photos. For the threshold each is judged by a bank of the others (in folds chosen by
        the seed; where no patches are kept, a tenth is held out and judged). A single photo leaves no threshold.

        Parameters
        ----------
        photos
            Paths, or RGB arrays [H, W, 3] (uint8, uint16, or floats in 0..1).
        false_alarm_rate
            The share of good photos that the threshold may alarm; None for 0.01, or as little as so few photos allow.
        keep_thumbnails
            Whether small copies of the photos are kept, to show what a defect was compared with when they are gone.
        memory_budget
            How many bytes all that grows with the number of photos may take. If not all patches fit into them, the bank
            is made by merge-and-reduce, and a tenth of the photos is held out and judged.
        features
            A folder where extracted patches are kept, and taken from if a fit with these settings and photos was broken
            off before; it stays until `feature_store.discard`. Photos must be files then.
        on_error
            Whether an unreadable photo stops the fit, or is left out and listed in `skipped`.
        progress
            Called with a stage, and how many of how many of its units are done.
        announce
            Called once, after the first few photos, with a line that says how much memory and time all will take.

        Raises
        ------
        ImageError
            For an unreadable photo, if `on_error` is "stop"; if no photo is left.
        CalibrationError
            If the photos are too few for the rate.
        PatchcoreError
            If there is not the memory, or the budget is too small; with how much would do.
        """
        learning = self._learner(len(photos), progress)
        if memory_budget is not None:
            for first in first_patches(photos, self.recipe.preprocessing, self.seed, on_error, self._extract):
                learning = learner_within(self._parts, len(photos), memory_budget, first, progress)
        if false_alarm_rate is not None:
            require_rate(false_alarm_rate, learning.judges(len(photos)))
        store = None
        if features is not None:
            settings = {"thumbnails": keep_thumbnails, "members": [self._parts.extraction()]}
            store = FeatureStore(Path(features), settings, self.device)
        read = self._read(photos, learning, keep_thumbnails, on_error, progress, announce, store)
        self._finish(learning, read, false_alarm_rate)
        return self

    def update(
        self, photos: Sequence[Photo], *, on_error: OnError = "stop", progress: Progress | None = None
    ) -> Detector:
        """Learn from more good photos; those that it was fitted on already are left out.

        Each is judged before it is learned from, and its score added to the calibration, whose threshold is chosen
        again as it was. Then the bank's rows and the new patches are reduced to a bank. If anything fails, the detector
        stays as it was.

        Parameters
        ----------
        photos, on_error, progress
            As in `fit`.

        Raises
        ------
        DatasetError
            If no photo is new.
        ImageError
            For an unreadable photo, if `on_error` is "stop"; if no photo is left.
        OptionError
            If the sampler cannot choose from a bank and new patches.
        """
        new = new_photos(photos, self.training_photos)
        learning = self._learner_of_more(len(new), progress)
        read = self._read(new, learning, bool(self._thumbnails), on_error, progress)
        self._extend(learning.judged(), learning.learned(), read)
        return self

    def _learner_of_more(self, capacity: int, progress: Progress | None) -> Learner:
        photos = len(self._photos)
        return learner_of_more(self._parts, self.bank, photos, self.covering_radius, capacity, progress)

    def _extend(self, judged: Sequence[Judged], learned: Learned, read: Read) -> None:
        """Become what was learned from more photos."""
        self.skipped = read.skipped
        self.calibration = extended(self.calibration, read.good(judged, self.recipe))
        self._become(learned, read.early + read.late, first=len(self._photos))

    def _read(
        self,
        photos: Sequence[Photo],
        learning: Learner,
        thumbnails: bool,
        on_error: OnError,
        progress: Progress | None,
        announce: Callable[[str], object] | None = None,
        store: FeatureStore | None = None,
    ) -> Read:
        return read_good(
            photos,
            self.recipe.preprocessing,
            self.seed,
            extract=self._extract,
            learn=lambda patches: learning.add(*patches),
            hold_out=learning.hold_out,
            on_error=on_error,
            thumbnails=thumbnails,
            store=store,
            progress=progress,
            announce=None if announce is None else lambda seconds: announce(learning.describe(seconds)),
        )

    def _extract(self, images: Tensor) -> list[Patches]:
        return [self._parts.patches(images)]

    def _become(self, learned: Learned, seen: Sequence[Seen], first: int = 0) -> None:
        """Become what was learned from photos whose numbers begin at `first`."""
        self._parts.scorer, self._bank, self.radius_curve, self.radius_is_exact = learned
        described = [{"path": item.path, "height": item.shape[0], "width": item.shape[1]} for item in seen]
        kept = {number: item.thumbnail for number, item in enumerate(seen, start=first) if item.thumbnail is not None}
        self._photos = self._photos[:first] + described
        self._thumbnails = {number: jpeg for number, jpeg in self._thumbnails.items() if number < first} | kept

    def _finish(self, learning: Learner, read: Read, rate: float | None) -> list[Judged]:
        """Become what was learned from the photos that were read; return what the judged ones, the last, got."""
        if rate is not None:
            require_rate(rate, learning.judges(len(read.early + read.late)))
        self.skipped = read.skipped
        judged = learning.judged()
        self.calibration = self._calibration(judged, read, learning.judging, rate)
        self._become(learning.learned(), read.early + read.late)
        return judged

    def _learner(self, capacity: int, progress: Progress | None) -> Learner:
        return learner(self._parts, capacity, progress)

    def predict_each(
        self, photos: Iterable[Photo], /, *, on_error: OnError = "stop"
    ) -> Iterator[Prediction | ImageError]:
        """Judge photos one after the other, in order, a batch in memory at a time.

        Where `on_error` is "skip", the error of an unreadable photo is yielded in its place.
        """
        origin = self.bank.origin.cpu().numpy()
        return judge_each(photos, self.recipe.preprocessing, lambda inputs: self._judge(inputs, origin), on_error)

    def describe(self) -> dict[str, Any]:
        """Return, as JSON-like data, what it was made of and with: what its file says, less photos and calibration."""
        said = {key: value for key, value in self._manifest().items() if key not in ("photos", "calibration")}
        return {"bank_rows": self.bank_rows, **said}

    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one .safetensors file, replacing an older one only when complete."""
        model_file.save(Path(path), self._tensors(), self._manifest())

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", precision: Precision | None = None, host: Host | None = None
    ) -> Detector:
        """Return the detector that was saved; with another `precision` than it was fitted with, if one is given.

        Raises
        ------
        ModelFileError
            If the file is damaged, too new, or needs a plugin that is not installed.
        WeightsError
            If the backbone's weights are not those that it was fitted with.
        """
        path = Path(path)
        tensors, manifest = model_file.load(path)
        if "members" in manifest:
            raise ModelFileError(f"{path}: holds an ensemble; load it with patchcore_plugin.load_model")
        host = host or Host()
        recipe = Recipe.from_dict(manifest["recipe"])
        require_components(path, recipe, manifest, host)
        precision = precision or manifest["precision"]
        detector = cls(recipe, seed=manifest["seed"], device=device, precision=precision, host=host)
        detector._restore(path, tensors, manifest)
        return detector

    def _restore(self, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
        """Become what was saved."""
        if self._parts.backbone.weight_hash() != manifest["backbone_sha256"]:
            raise WeightsError(
                f"{path}: backbone {self.recipe.backbone.name!r} has other weights here than the model was fitted "
                "with; install the versions that 'patchcore plugins show' and the model's manifest name, or fit again"
            )
        levels = manifest.get("levels")
        bank = MemoryBank(
            tensors["bank.vectors"],
            tensors["bank.origin"],
            manifest["patches_seen"],
            tensors.get("bank.images"),
            levels if levels is None else tuple(levels),
        )
        self._bank = bank.to(self.device)
        state = {
            name.removeprefix("scorer."): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith("scorer.")
        }
        self._parts.scorer.restore(self._bank, state)
        self._photos = manifest["photos"]
        self._thumbnails = unpacked(path, tensors, len(self._photos))
        self.calibration = Calibration.from_dict(manifest["calibration"])
        self.radius_curve = [(rows, radius) for rows, radius in manifest["radius_curve"]]
        self.radius_is_exact = manifest.get("radius_is_exact", True)

    def _calibration(self, judged: Sequence[Judged], read: Read, judging: str, rate: float | None) -> Calibration:
        if not judged:
            return Calibration.none("too few photos to judge one by the others")
        return Calibration.of_good(read.good(judged, self.recipe), read.source(len(judged), judging), rate)

    def _judge(self, inputs: Sequence[Input], origin: NDArray[np.int64]) -> Iterator[Prediction]:
        scores = self._parts.score(self._parts.patches(stacked(inputs)))
        maps = None if scores.map is None else scores.map.cpu().numpy()
        rows = None if scores.nearest is None else scores.nearest.cpu().numpy()
        options = self.recipe.preprocessing
        for i, item in enumerate(inputs):
            score, full, nearest = float(scores.image[i]), None, None
            if maps is not None:
                full = anomaly_map(maps[i], item.shape, self.recipe.map)
                if rows is not None:
                    nearest = nearest_patch(item.shape, maps[i], rows[i], origin, self._photos, options)
            yield Prediction.against(self.calibration, item.path, item.shape.photo, score, full, nearest)

    def _tensors(self) -> dict[str, Tensor]:
        bank = self.bank
        tensors = {"bank.vectors": bank.vectors, "bank.origin": bank.origin}
        if bank.images is not None:
            tensors["bank.images"] = bank.images
        tensors |= packed(self._thumbnails, len(self._photos))
        return tensors | {f"scorer.{name}": tensor for name, tensor in self._parts.scorer.state().items()}

    def _manifest(self) -> dict[str, Any]:
        return {
            **self._parts.describe(),
            "photos": self._photos,
            "patches_seen": self.bank.seen,
            "levels": self.bank.levels,
            "covering_radius": self.covering_radius,
            "radius_curve": [list(point) for point in self.radius_curve],
            "radius_is_exact": self.radius_is_exact,
            "calibration": self.calibration.to_dict(),
            "software": software(),
        }
