"""The detector: a recipe's four components at work, fitted on good photos, saved and loaded."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import model_file
from .calibration import Calibration, fit_order
from .composition import Composition, Precision
from .errors import ImageError, ModelFileError, PluginError, TensorError, WeightsError
from .features import Input, OnError, Photo, read_batches, stacked
from .host import Host
from .learning import Judged, Learner, Progress, learner
from .prediction import Prediction, nearest_patch
from .preprocessing import anomaly_map, geometry
from .recipe import Recipe
from .roles import MemoryBank
from .specs import ROLES


class Seen(NamedTuple):
    """A training photo: where it is, if it is a file, and its height and width."""

    path: str | None
    shape: tuple[int, int]


class Detector:
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
        self._parts = Composition(recipe, seed=seed, device=device, precision=precision, host=host)
        self._bank: MemoryBank | None = None
        self._photos: list[dict[str, Any]] = []
        self.calibration = Calibration.none("not fitted")
        self.radius_curve: list[tuple[int, float]] = []
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
    def threshold(self) -> float | None:
        """The image score above which a photo is called anomalous; None if there is none."""
        return self.calibration.threshold

    @property
    def covering_radius(self) -> float | None:
        """The largest distance from any patch seen in the fit to the bank; None before a fit.

        ``radius_curve`` has it for smaller banks too, as (rows, radius), where the sampler knows.
        """
        return self.radius_curve[-1][1] if self.radius_curve else None

    @property
    def map_scale(self) -> tuple[float, float]:
        """Map values of the lowest and highest colour, the same for all photos."""
        return self.calibration.map_scale

    def fit(
        self,
        photos: Sequence[Photo],
        *,
        on_error: OnError = "stop",
        progress: Progress | None = None,
        announce: Callable[[str], object] | None = None,
    ) -> Detector:
        """Learn what is normal from good photos, and set the threshold.

        The bank is made of all photos. The threshold is the highest score that a tenth of them, chosen by the
        seed, gets from a bank made of the others; a single photo leaves none to hold out, and no threshold.

        Parameters
        ----------
        photos
            Paths, or RGB arrays [H, W, 3] (uint8, uint16, or floats in 0..1).
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
        """
        learning = self._learner(len(photos), progress)
        early, late = fit_order(len(photos), self.seed)
        self.skipped = []

        def reading(done: int) -> None:
            if progress is not None:
                progress("reading photos", done, len(photos))

        seen = self._extract(learning, [photos[i] for i in early], on_error, reading, announce)
        learning.hold_out()
        held = self._extract(learning, [photos[i] for i in late], on_error, lambda done: reading(len(early) + done))
        self.calibration = self._calibration(learning.judged(), held, len(seen + held))
        self._parts.scorer, self._bank, self.radius_curve = learning.learned()
        self._photos = [{"path": item.path, "height": item.shape[0], "width": item.shape[1]} for item in seen + held]
        return self

    def _learner(self, capacity: int, progress: Progress | None) -> Learner:
        return learner(self._parts, capacity, progress)

    def predict(self, photos: Iterable[Photo], *, on_error: OnError = "stop") -> list[Prediction]:
        """Judge photos; unreadable ones stop it, or are left out."""
        found = self.predict_each(photos, on_error=on_error)
        return [prediction for prediction in found if isinstance(prediction, Prediction)]

    def predict_each(
        self, photos: Iterable[Photo], /, *, on_error: OnError = "stop"
    ) -> Iterator[Prediction | ImageError]:
        """Judge photos one after the other, in order, a batch in memory at a time.

        Where `on_error` is "skip", the error of an unreadable photo is yielded in its place.
        """
        bank = self.bank
        origin = bank.origin.cpu().numpy()
        for batch in read_batches(photos, self.recipe.preprocessing, on_error):
            good = [item for item in batch if isinstance(item, Input)]
            judged = self._judge(good, origin) if good else iter(())
            for item in batch:
                yield item if isinstance(item, ImageError) else next(judged)

    def save(self, path: str | Path) -> None:
        """Write the fitted detector to one .safetensors file, replacing an older one only when complete."""
        bank = self.bank
        tensors = {"bank.vectors": bank.vectors, "bank.origin": bank.origin}
        if bank.images is not None:
            tensors["bank.images"] = bank.images
        tensors |= {f"scorer.{name}": tensor for name, tensor in self._parts.scorer.state().items()}
        model_file.save(Path(path), tensors, self._manifest())

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
        host = host or Host()
        recipe = Recipe.from_dict(manifest["recipe"])
        for role in ROLES:
            try:
                host.component(role, recipe.choice(role).name)
            except PluginError as error:
                needed = manifest["plugins"][role]["distribution"]
                raise ModelFileError(
                    f"{path}: needs {role} {recipe.choice(role).name!r}, which is not available here; "
                    f"pip install --upgrade {needed} (details: patchcore plugins list)"
                ) from error
        precision = precision or manifest["precision"]
        detector = cls(recipe, seed=manifest["seed"], device=device, precision=precision, host=host)
        if detector._parts.backbone.weight_hash() != manifest["backbone_sha256"]:
            raise WeightsError(
                f"{path}: backbone {recipe.backbone.name!r} has other weights here than the model was fitted with; "
                "install the versions that 'patchcore plugins show' and the model's manifest name, or fit again"
            )
        levels = manifest.get("levels")
        bank = MemoryBank(
            tensors["bank.vectors"],
            tensors["bank.origin"],
            manifest["patches_seen"],
            tensors.get("bank.images"),
            levels if levels is None else tuple(levels),
        )
        detector._bank = bank.to(detector.device)
        state = {
            name.removeprefix("scorer."): tensor.to(detector.device)
            for name, tensor in tensors.items()
            if name.startswith("scorer.")
        }
        detector._parts.scorer.restore(detector._bank, state)
        detector._photos = manifest["photos"]
        detector.calibration = Calibration.from_dict(manifest["calibration"])
        detector.radius_curve = [(rows, radius) for rows, radius in manifest["radius_curve"]]
        return detector

    def _extract(
        self,
        learning: Learner,
        photos: Sequence[Photo],
        on_error: OnError,
        reading: Callable[[int], None],
        announce: Callable[[str], object] | None = None,
    ) -> list[Seen]:
        """Let the learner have the patches of photos; return the photos that could be read."""
        seen: list[Seen] = []
        done = 0
        start = time.perf_counter()
        for batch in read_batches(photos, self.recipe.preprocessing, on_error):
            good = [item for item in batch if isinstance(item, Input)]
            self.skipped += [item for item in batch if isinstance(item, ImageError)]
            if good:
                learning.add(self._parts.patches(stacked(good)))
                seen += [Seen(item.path, item.shape.photo) for item in good]
                if announce is not None:
                    announce(learning.describe(time.perf_counter() - start))
                    announce = None
            done += len(batch)
            reading(done)
        return seen

    def _calibration(self, judged: Sequence[Judged], held: Sequence[Seen], total: int) -> Calibration:
        if not judged:
            return Calibration.none("too few photos to hold one out")
        maps = [
            anomaly_map(found.map, geometry(self.recipe.preprocessing, photo.shape), self.recipe.map)
            for found, photo in zip(judged, held, strict=True)
            if found.map is not None
        ]
        return Calibration.of_good([found.score for found in judged], maps, total)

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
            yield Prediction(
                path=item.path,
                score=score,
                anomaly_map=full,
                threshold=self.threshold,
                is_anomalous=None if self.threshold is None else score > self.threshold,
                nearest=nearest,
            )

    def _manifest(self) -> dict[str, Any]:
        return {
            **self._parts.describe(),
            "photos": self._photos,
            "patches_seen": self.bank.seen,
            "levels": self.bank.levels,
            "covering_radius": self.covering_radius,
            "radius_curve": [list(point) for point in self.radius_curve],
            "calibration": self.calibration.to_dict(),
            "software": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("patchcore-plugin", "torch", "numpy")},
            },
        }
