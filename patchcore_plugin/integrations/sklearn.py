"""PatchCore as a scikit-learn outlier detector, with the attributes of PyOD."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from patchcore_plugin.errors import ImageError, OptionError, PatchcoreError
from patchcore_plugin.models.recipes import Map, Preprocessing, Recipe
from patchcore_plugin.plugins.manager import Host, default_host
from patchcore_plugin.plugins.options import validate
from patchcore_plugin.plugins.specs import ROLES

from . import _arguments
from ._arguments import ArgumentError, as_value_error

if TYPE_CHECKING:
    from typing_extensions import Self

    from patchcore_plugin.models.detector import Detector
    from patchcore_plugin.models.prediction import Prediction

__all__ = ["ArgumentError", "PatchCoreDetector"]

Images: TypeAlias = ArrayLike | Iterable[Any]
Component: TypeAlias = str | Mapping[str, Any] | None

TABLES: dict[str, type[Any]] = {"preprocessing": Preprocessing, "map": Map}
SECTIONS = (*ROLES, *TABLES)


class PatchCoreDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """PatchCore, or any other recipe with one member, as a scikit-learn estimator.

    X is images: an array [N, H, W, 3] (RGB) or [N, H, W] (grey) of uint8, uint16 or floats in 0..1, or a sequence of
    such images, of any sizes, or of paths. Options of the components are nested parameters: ``sampler__ratio``,
    ``scorer__neighbours``, ``preprocessing__size``; `get_params` lists them.

    Parameters
    ----------
    recipe
        A built-in recipe's name, the path of a TOML file, or a `patchcore_plugin.Recipe`.
    backbone, aggregator, sampler, scorer
        The name of another component, or options, with "name" to choose another component; None for the recipe's.
    preprocessing, map
        Options that replace the recipe's.
    contamination
        How the threshold is chosen. "auto": by a false-alarm rate of 1 % on good images, or the lowest that the
        number of images supports. A number in (0, 0.5]: this fraction of the training images are outliers.
    random_state
        A seed (0 or more), or a RandomState to draw one from at each fit; None is 0. NumPy's global state is neither
        read nor changed. An option ``seed`` that is set has precedence.
    device
        "auto" (a GPU if there is one), "cpu", "cuda" and so on.
    precision
        "fp32", or "bf16" to run the backbone in bfloat16.

    Attributes
    ----------
    detector_ : patchcore_plugin.Detector
        The fitted detector, with `save` and detailed predictions.
    decision_scores_ : ndarray of float64, shape [N]
        Anomaly scores of the training images, higher is more anomalous, by cross-fitting: each fifth (from 100 images
        on, each third) is scored by a memory bank of the other images.
    threshold_ : float
        The anomaly score above which an image is an outlier.
    labels_ : ndarray of int64, shape [N]
        1 for training images above the threshold, 0 for all others.
    offset_ : float
        ``-threshold_``; what `decision_function` subtracts from `score_samples`.

    Notes
    -----
    `score_samples`, `decision_function` and `predict` have scikit-learn's signs (outliers are low, and -1),
    `decision_scores_`, `threshold_` and `labels_` those of PyOD (outliers are high, and 1). A pickled estimator
    contains the bytes of a model file; unpickling creates the components, and checks the weights of the backbone.
    """

    def __init__(
        self,
        recipe: str | Path | Recipe = "patchcore",
        *,
        backbone: Component = None,
        aggregator: Component = None,
        sampler: Component = None,
        scorer: Component = None,
        preprocessing: Mapping[str, Any] | None = None,
        map: Mapping[str, Any] | None = None,  # noqa: A002
        contamination: float | Literal["auto"] = "auto",
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.aggregator = aggregator
        self.sampler = sampler
        self.scorer = scorer
        self.preprocessing = preprocessing
        self.map = map
        self.contamination = contamination
        self.random_state = random_state
        self.device = device
        self.precision = precision

    def fit(self, X: Images, y: object = None) -> Self:
        """Fit on images of good parts.

        Parameters
        ----------
        X
            Two or more images. A defective image among them becomes normal; `labels_` marks candidates.
        y
            Ignored.

        Raises
        ------
        ArgumentError
            For a parameter or image that cannot be used.
        """
        from patchcore_plugin.models.detector import Detector

        with as_value_error():
            images = _arguments.images(X)
            if len(images) == 1:
                raise ArgumentError("X has 1 sample; a threshold needs at least 2 images")
            fraction, seed = _arguments.fraction(self.contamination), _arguments.seed(self.random_state)
            recipe = self._recipe(*SECTIONS)
            detector = Detector(recipe, seed=seed, device=self.device, precision=self.precision, host=default_host())
            detector.fit(images, cross_validate=True)
            scores = np.array([score for _, score in detector.held_out_scores], dtype=np.float64)
        if fraction is not None:
            threshold = float(np.percentile(scores, 100 * (1 - fraction)))
            source = f"{fraction:g} of {len(scores)} training images, each scored by a bank without it, are above"
            detector.calibration = dataclasses.replace(detector.calibration.at_threshold(threshold), source=source)
        assert detector.threshold is not None
        self.detector_: Detector = detector
        self.decision_scores_ = scores
        self.threshold_: float = detector.threshold
        self.labels_ = (scores > self.threshold_).astype(np.int64)
        self.offset_ = -self.threshold_
        return self

    def fit_predict(self, X: Images, y: object = None) -> NDArray[np.int64]:
        """Fit on images, and return which of them are outliers; see `labels_`.

        ``fit(X).predict(X)`` would score each image by a memory bank that contains it.

        Parameters
        ----------
        X
            Two or more images.
        y
            Ignored.

        Returns
        -------
        ndarray of int64
            -1 for outliers and 1 for the other images, [N].
        """
        return np.where(self.fit(X, y).labels_ == 1, -1, 1)

    def score_samples(self, X: Images) -> NDArray[np.float64]:
        """Return the negative anomaly score of each image, [N]; lower is more anomalous."""
        return np.array([-prediction.score for prediction in self._predictions(X)], dtype=np.float64)

    def decision_function(self, X: Images) -> NDArray[np.float64]:
        """Return ``score_samples(X) - offset_``, [N]: negative for outliers."""
        difference: NDArray[np.float64] = self.score_samples(X) - self.offset_
        return difference

    def predict(self, X: Images) -> NDArray[np.int64]:
        """Return -1 for outliers and 1 for inliers, [N]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def anomaly_maps(self, X: Images) -> list[NDArray[np.float32]]:
        """Return the anomaly map of each image, float32 [H, W] of its own size; higher is more anomalous.

        Raises
        ------
        PatchcoreError
            If the scorer has no maps.
        """
        maps = []
        for prediction in self._predictions(X):
            if prediction.anomaly_map is None:
                raise PatchcoreError(f"scorer {self.detector_.recipe.scorer.name!r} has no maps; choose another scorer")
            maps.append(prediction.anomaly_map)
        return maps

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; if `deep`, also every option of every part, as ``part__option``.

        An option called ``seed`` is left out unless it is set, because `random_state` decides.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            host = default_host()
            for part in SECTIONS:
                params |= {f"{part}__{name}": value for name, value in self._options(part, host).items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, and options as ``component__option``; other options stay as they are.

        Raises
        ------
        ValueError
            For a parameter or option that does not exist.
        """
        options = {key: value for key, value in params.items() if "__" in key and key.partition("__")[0] in SECTIONS}
        super().set_params(**{key: value for key, value in params.items() if key not in options})
        for key, value in options.items():
            part, _, option = key.partition("__")
            with as_value_error():
                self._check_name(part, option)
                setattr(self, part, {**_arguments.change(part, getattr(self, part)), option: value})
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "detector_" in state:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                self.detector_.save(path)
                state["detector_"] = path.read_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "detector_" in state:
            from patchcore_plugin.models.detector import Detector

            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                path.write_bytes(state["detector_"])
                self.detector_ = Detector.load(path, device=self.device, host=default_host())

    def _predictions(self, X: Images) -> Iterator[Prediction]:
        check_is_fitted(self)
        with as_value_error():
            for prediction in self.detector_.predict_each(_arguments.images(X)):
                if isinstance(prediction, ImageError):
                    raise prediction
                yield prediction

    def _recipe(self, *parts: str) -> Recipe:
        """Return the recipe with the changes to these parts."""
        recipe = self.recipe
        if isinstance(recipe, str | Path):
            recipe = Recipe.load(str(recipe))
        elif not isinstance(recipe, Recipe):
            raise OptionError(f"recipe must be a name, the path of a .toml file or a Recipe, got {recipe!r}")
        for part in parts:
            recipe = recipe.change(part, _arguments.change(part, getattr(self, part)))
        return recipe

    def _options(self, part: str, host: Host) -> dict[str, Any]:
        """Return the options of a part; only those that are set, if it is unknown, because parameters fail in `fit`."""
        try:
            recipe = self._recipe(part)
            if part not in ROLES:
                return dataclasses.asdict(getattr(recipe, part))
            choice = recipe.choice(part)
            options = dataclasses.asdict(host.configure(part, choice.name, choice.options))
        except PatchcoreError:
            change = getattr(self, part)
            return {key: value for key, value in change.items() if key != "name"} if isinstance(change, dict) else {}
        return {key: value for key, value in options.items() if key != "seed" or key in choice.options}

    def _check_name(self, part: str, option: str) -> None:
        """Refuse an option that the part does not have; values are checked in `fit`."""
        config, owner = TABLES.get(part), part
        if config is None:
            name = self._recipe(part).choice(part).name
            config, owner = default_host().component(part, name).spec.config, f"{part} {name!r}"
        if option not in {field.name for field in dataclasses.fields(config)}:
            validate(config, {option: None}, owner)  # raises, with the names of the options
