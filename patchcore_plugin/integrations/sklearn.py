"""PatchCore as a scikit-learn outlier detector, with PyOD's attributes."""

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
from patchcore_plugin.models.recipes.recipe import Map, Preprocessing, Recipe
from patchcore_plugin.plugins.manager import Host
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
Part: TypeAlias = str | Mapping[str, Any] | None

TABLES: dict[str, type[Any]] = {"preprocessing": Preprocessing, "map": Map}
PARTS = (*ROLES, *TABLES)


class PatchCoreDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """PatchCore, or whatever the recipe composes, as a scikit-learn estimator.

    X is images: an array [N, H, W, 3] (RGB) or [N, H, W] (grey) of uint8, uint16 or floats in 0..1, or a sequence of
    such images, of any sizes, or of paths. Options of the parts are nested parameters: ``sampler__ratio``,
    ``scorer__neighbours``, ``preprocessing__size``; `get_params` lists them.

    Parameters
    ----------
    recipe
        A shipped recipe's name, the path of a TOML file, or a `patchcore_plugin.Recipe`.
    backbone, aggregator, sampler, scorer
        Another component's name, or options, those of another component with its "name"; None for the recipe's.
    preprocessing, map
        Options that replace the recipe's.
    contamination
        Where the threshold comes from. "auto": the detector's own, for a false-alarm rate of 1 % among good
        images, or the lowest that so few allow. A number in (0, 0.5]: as many of the training images as that are
        taken for outliers.
    random_state
        A seed (0 or more), or a RandomState to draw one from at each fit; None is 0. NumPy's global state is neither
        read nor changed. An option called ``seed`` that is set has precedence.
    device
        "auto" (a GPU if there is one), "cpu", "cuda" and so on.
    precision
        "fp32", or "bf16" to run the backbone in bfloat16.

    Attributes
    ----------
    detector_ : patchcore_plugin.Detector
        The fitted detector, to save or to ask for `predict` in full.
    decision_scores_ : ndarray of float64, shape [N]
        Anomaly scores of the training images, higher is more anomalous, by cross-validation: a fifth at a time (a
        third, from 100 images on) is judged by a bank of the others.
    threshold_ : float
        The anomaly score above which an image is an outlier.
    labels_ : ndarray of int64, shape [N]
        1 for training images above the threshold, 0 for the others.
    offset_ : float
        ``-threshold_``; what `decision_function` subtracts from `score_samples`.

    Notes
    -----
    `score_samples`, `decision_function` and `predict` have scikit-learn's signs (outliers are low, and -1),
    `decision_scores_`, `threshold_` and `labels_` PyOD's (outliers are high, and 1). A pickle holds the model file's
    bytes, no arbitrary object; reading it makes the components again, and checks the backbone's weights.
    """

    def __init__(
        self,
        recipe: str | Path | Recipe = "patchcore",
        *,
        backbone: Part = None,
        aggregator: Part = None,
        sampler: Part = None,
        scorer: Part = None,
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
        """Learn what is normal.

        Parameters
        ----------
        X
            Images of good parts, two or more. A defect among them is learned as normal; `labels_` says where to look.
        y
            Ignored.

        Raises
        ------
        ArgumentError
            For a parameter or image that cannot be used.
        """
        from ._training_scores import TrainingScores

        with as_value_error():
            images = _arguments.images(X)
            if len(images) == 1:
                raise ArgumentError("X has 1 sample; a threshold needs at least 2 images")
            fraction, seed = _arguments.fraction(self.contamination), _arguments.seed(self.random_state)
            recipe = self._recipe(*PARTS)
            detector = TrainingScores(recipe, seed=seed, device=self.device, precision=self.precision, host=Host())
            detector.fit(images)
            scores = detector.training_scores
        if fraction is not None:
            threshold = float(np.percentile(scores, 100 * (1 - fraction)))
            source = f"{fraction:g} of {len(scores)} training images, each judged by a bank without it, are above"
            detector.calibration = dataclasses.replace(detector.calibration.at_threshold(threshold), source=source)
        assert detector.threshold is not None
        self.detector_: Detector = detector
        self.decision_scores_ = scores
        self.threshold_: float = detector.threshold
        self.labels_ = (scores > self.threshold_).astype(np.int64)
        self.offset_ = -self.threshold_
        return self

    def fit_predict(self, X: Images, y: object = None) -> NDArray[np.int64]:
        """Fit, and return -1 for outliers among the training images and 1 for the others, [N]; see `labels_`.

        Unlike ``fit(X).predict(X)``, which asks the bank that knows every image of X.
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
            If the scorer makes no maps.
        """
        maps = []
        for prediction in self._predictions(X):
            if prediction.anomaly_map is None:
                raise PatchcoreError(f"scorer {self.detector_.recipe.scorer.name!r} makes no maps; choose another")
            maps.append(prediction.anomaly_map)
        return maps

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; if `deep`, also every option of every part, as ``part__option``.

        An option called ``seed`` is left out unless it is set, because `random_state` decides.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            host = Host()
            for part in PARTS:
                params |= {f"{part}__{name}": value for name, value in self._options(part, host).items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, and options of parts as ``part__option``; other options of the part stay as they are.

        Raises
        ------
        ValueError
            For a parameter or option that does not exist.
        """
        options = {key: value for key, value in params.items() if "__" in key and key.partition("__")[0] in PARTS}
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
                self.detector_ = Detector.load(path, device=self.device, host=Host())

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
        """Return the options of a part; just those that are set, where it is not known: parameters fail in `fit`."""
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
        """Refuse an option that the part does not have; whether a value will do is seen in `fit`."""
        config, owner = TABLES.get(part), part
        if config is None:
            name = self._recipe(part).choice(part).name
            config, owner = Host().component(part, name).spec.config, f"{part} {name!r}"
        if option not in {field.name for field in dataclasses.fields(config)}:
            validate(config, {option: None}, owner)  # says so, with the options that there are
