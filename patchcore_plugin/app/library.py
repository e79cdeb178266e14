"""The models that can be chosen: the one given at the start, and those in the models folder; loaded once for all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from patchcore_plugin.errors import ImageError, ModelFileError

from .limits import SUFFIX, model_path

if TYPE_CHECKING:
    from patchcore_plugin.models.calibration import Calibration
    from patchcore_plugin.models.prediction import Prediction

Stamp: TypeAlias = "tuple[int, int] | None"
KEPT = 3
"""How many models stay loaded."""
EXPORTED = ".onnx"
"""Suffix of models that `patchcore export` has written."""


class Loaded:
    """A model in memory that several visitors use, one call at a time.

    Parameters
    ----------
    path
        Its file.
    model
        A fitted detector, ensemble, or whatever `load_model` returned.
    stamp
        What `stamp_of` said of the file before the model was read from it.
    """

    def __init__(self, path: Path, model: Any, stamp: Stamp) -> None:
        self.path = path
        self.model = model
        self.stamp = stamp
        self._lock = threading.Lock()

    @property
    def calibration(self) -> Calibration:
        """The calibration in the file."""
        calibration: Calibration = self.model.calibration
        return calibration

    @property
    def can_be_saved(self) -> bool:
        """Whether another threshold can be written into it."""
        return callable(getattr(self.model, "save", None))

    def judge(self, images: Sequence[Path]) -> list[Prediction | ImageError]:
        """Judge images; the error of one that cannot be read is in its place."""
        with self._lock:
            return list(self.model.predict_each(images, on_error="skip"))

    def save(self, calibration: Calibration) -> None:
        """Write another calibration into the file, for all visitors.

        Raises
        ------
        ModelFileError
            If the file was changed by somebody else, so that it would lose what is new in it.
        """
        with self._lock:
            if stamp_of(self.path) != self.stamp:
                raise ModelFileError(
                    f"{self.path.name} has changed since it was loaded; choose it again, then set the threshold"
                )
            before = self.model.calibration
            self.model.calibration = calibration
            try:
                self.model.save(self.path)
            except BaseException:
                self.model.calibration = before
                raise
            self.stamp = stamp_of(self.path)


class Library:
    """Models by their labels.

    Parameters
    ----------
    given
        The model file given at the start, if any.
    folder
        Where further models are, and fitted ones are saved; it need not exist yet.
    load
        Loads a model file.
    """

    def __init__(self, given: Path | None, folder: Path, load: Callable[[Path], Any]) -> None:
        self.given = given
        self.folder = folder
        self._load = load
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Path, Loaded] = OrderedDict()

    def paths(self) -> dict[str, Path]:
        """Return the files of all models by label; links that lead out of the folder are left out."""
        found = {} if self.given is None else {self.given.name: self.given}
        inside = self.folder.resolve()
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        for path in sorted(file for file in files if file.suffix in (SUFFIX, EXPORTED)):
            same = self.given is not None and path.resolve() == self.given.resolve()
            if not same and path.resolve().parent == inside:
                found[path.name if path.name not in found else str(path)] = path
        return found

    def open(self, label: str) -> Loaded:
        """Return the model with that label, loaded anew if its file has changed.

        Raises
        ------
        ModelFileError
            If there is none, or the file cannot be loaded.
        """
        path = self.paths().get(label)
        if path is None:
            raise ModelFileError(f"{label}: no such model here any more; choose another")
        with self._lock:
            kept = self._loaded.get(path)
            stamp = stamp_of(path)
            if kept is None or kept.stamp != stamp:
                kept = Loaded(path, self._load(path), stamp)
            self._keep(kept)
            return kept

    def add(self, name: str, model: Any) -> Loaded:
        """Save a fitted model under a new name, and return it.

        Raises
        ------
        ModelFileError
            For a name that is a path, or in use.
        """
        with self._lock:
            path = model_path(self.folder, name)
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save(path)
            added = Loaded(path, model, stamp_of(path))
            self._keep(added)
            return added

    def label_of(self, loaded: Loaded) -> str:
        """Return the label of a loaded model."""
        return next((label for label, path in self.paths().items() if path == loaded.path), loaded.path.name)

    def _keep(self, loaded: Loaded) -> None:
        self._loaded[loaded.path] = loaded
        self._loaded.move_to_end(loaded.path)
        while len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)


def stamp_of(path: Path) -> Stamp:
    """Return what changes when somebody else writes the file; None for none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_mtime_ns, state.st_size
