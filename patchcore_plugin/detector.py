"""The detector: a recipe's four components at work, fitted on good photos, saved and loaded."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import model_file
from .calibration import Calibration, held_out
from .errors import ImageError, ModelFileError, OptionError, PluginError, TensorError, WeightsError
from .features import Features, Input, OnError, Photo, read_batches
from .host import Host
from .kernels.nearest import NearestRows
from .prediction import Prediction, nearest_patch
from .preprocessing import anomaly_map
from .recipe import Recipe
from .roles import Aggregator, Backbone, MemoryBank, Patches, Sampler, Scorer, Scores
from .specs import ROLES

Progress = Callable[[str, int, int], None]
Precision = Literal["fp32", "bf16"]

CURVE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions of the patches at which the covering radius is kept."""


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
        self._host = host or Host()
        self.seed = seed
        self.recipe = recipe.resolved(self._host, seed)
        self.device = _device(device)
        if precision not in get_args(Precision):
            raise OptionError(f"precision must be {' or '.join(get_args(Precision))}, got {precision!r}")
        self.precision = precision
        self._backbone: Backbone = self._component("backbone").to(self.device)
        self._aggregator: Aggregator = self._component("aggregator")
        self._scorer: Scorer = self._component("scorer")
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
        held = held_out(len(photos), self.seed)
        others = np.setdiff1d(np.arange(len(photos)), held)
        # In this order, what the calibration does not know is the end of one buffer, and nothing is copied.
        features = Features(len(photos))
        self.skipped = []
        known = self._extract(features, [photos[i] for i in others], on_error, progress, announce)
        self._extract(features, [photos[i] for i in held], on_error, progress)
        self.calibration = self._calibrate(features, known, progress)
        sampler = self._sampler(progress, "selecting patches")
        self._bank = features.bank(self._select(sampler, features.vectors()))
        self._scorer.fit(self._bank)
        self._photos = features.photos
        self.radius_curve = _radius_curve(sampler, features.vectors(), self._bank)
        return self

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
        tensors |= {f"scorer.{name}": tensor for name, tensor in self._scorer.state().items()}
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
        if detector._backbone.weight_hash() != manifest["backbone_sha256"]:
            raise WeightsError(
                f"{path}: backbone {recipe.backbone.name!r} has other weights here than the model was fitted with; "
                "install the versions that 'patchcore plugins show' and the model's manifest name, or fit again"
            )
        bank = MemoryBank(tensors["bank.vectors"], tensors["bank.origin"], manifest["patches_seen"])
        detector._bank = bank.to(detector.device)
        state = {
            name.removeprefix("scorer."): tensor.to(detector.device)
            for name, tensor in tensors.items()
            if name.startswith("scorer.")
        }
        detector._scorer.restore(detector._bank, state)
        detector._photos = manifest["photos"]
        detector.calibration = Calibration.from_dict(manifest["calibration"])
        detector.radius_curve = [(rows, radius) for rows, radius in manifest["radius_curve"]]
        return detector

    def _component(self, role: str) -> Any:
        choice = self.recipe.choice(role)
        return self._host.build(role, choice.name, self._host.configure(role, choice.name, choice.options))

    def _sampler(self, progress: Progress | None, stage: str) -> Sampler:
        sampler: Sampler = self._component("sampler")
        if progress is not None and hasattr(sampler, "progress"):
            sampler.progress = lambda done, total: progress(stage, done, total)
        return sampler

    def _select(self, sampler: Sampler, vectors: Tensor) -> Tensor:
        index = sampler(vectors)
        name = self.recipe.sampler.name
        if index.ndim != 1 or index.dtype != torch.int64 or not len(index):
            raise TensorError(
                f"sampler {name!r}: expected int64 indices [M], M at least 1, got {index.dtype} {list(index.shape)}"
            )
        if int(index.min()) < 0 or int(index.max()) >= len(vectors):
            raise TensorError(f"sampler {name!r}: expected indices below {len(vectors)}, got {int(index.max())}")
        return index

    @torch.inference_mode()
    def _patches(self, inputs: Sequence[Input]) -> Patches:
        images = torch.stack([item.tensor for item in inputs]).to(self.device)
        mean, std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (self._backbone.mean, self._backbone.std)
        )
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            maps = self._backbone((images - mean) / std)
        patches = self._aggregator([features.float() for features in maps])
        # The extremes are NaN if anything is: as safe as looking at each value, in a tenth of the time.
        if not torch.isfinite(torch.stack(torch.aminmax(patches.grid))).all():
            raise TensorError(f"backbone {self.recipe.backbone.name!r}: its features are not finite; check its weights")
        return patches

    def _extract(
        self,
        features: Features,
        photos: Sequence[Photo],
        on_error: OnError,
        progress: Progress | None,
        announce: Callable[[str], object] | None = None,
    ) -> int:
        """Add photos to the features; return how many there are then."""
        total = features.capacity
        start = time.perf_counter()
        for batch in read_batches(photos, self.recipe.preprocessing, on_error):
            good = [item for item in batch if isinstance(item, Input)]
            self.skipped += [item for item in batch if isinstance(item, ImageError)]
            if good:
                features.add(good, self._patches(good))
                if announce is not None:
                    announce(features.describe(time.perf_counter() - start))
                    announce = None
            if progress is not None:
                progress("reading photos", len(features.photos) + len(self.skipped), total)
        return len(features.photos)

    def _calibrate(self, features: Features, known: int, progress: Progress | None) -> Calibration:
        """Judge the photos after the first `known` with a bank of those."""
        if not 0 < known < len(features.photos):
            return Calibration.none("too few photos to hold one out")
        index = self._select(self._sampler(progress, "selecting patches for the threshold"), features.vectors(known))
        self._scorer.fit(features.bank(index, known))
        scores, maps = [], []
        for number in range(known, len(features.photos)):
            found = self._score(features.patches(number))
            scores.append(float(found.image[0]))
            if found.map is not None:
                grid = found.map[0].cpu().numpy()
                maps.append(anomaly_map(grid, features.shapes[number], self.recipe.map))
        return Calibration.of_good(scores, maps, len(features.photos))

    @torch.inference_mode()
    def _score(self, patches: Patches) -> Scores:
        return self._scorer(patches)

    def _judge(self, inputs: Sequence[Input], origin: NDArray[np.int64]) -> Iterator[Prediction]:
        scores = self._score(self._patches(inputs))
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
        plugins, kernels = {}, {}
        for role in ROLES:
            component = self._host.component(role, self.recipe.choice(role).name)
            plugin = component.plugin
            plugins[role] = {"distribution": plugin.distribution, "version": plugin.version}
            if component.spec.kernels is not None:
                kernels[role] = component.spec.kernels(self.device.type)
        return {
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "precision": self.precision,
            "plugins": plugins,
            "kernels": kernels,
            "backbone_sha256": self._backbone.weight_hash(),
            "photos": self._photos,
            "patches_seen": self.bank.seen,
            "covering_radius": self.covering_radius,
            "radius_curve": [list(point) for point in self.radius_curve],
            "calibration": self.calibration.to_dict(),
            "software": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("patchcore-plugin", "torch", "numpy")},
            },
        }


def _radius_curve(sampler: Sampler, vectors: Tensor, bank: MemoryBank) -> list[tuple[int, float]]:
    """Return (rows, covering radius) of the bank and, where the sampler knows, of smaller ones."""
    radii = getattr(sampler, "radii_", None)
    if radii is None:
        distance, _ = NearestRows(bank.vectors)(vectors)
        return [(len(bank.vectors), float(distance.max()))]
    rows = [math.ceil(fraction * len(vectors)) for fraction in CURVE]
    rows = sorted({count for count in rows if count < len(radii)} | {len(radii)})
    return [(count, float(radii[count - 1])) for count in rows]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise TensorError(f"device {name!r} cannot be used ({reason}); use --device cpu or auto") from error
    return device
