"""The models that can be chosen: the one given on the command line and those in the models folder."""

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

FileStamp: TypeAlias = "tuple[int, int] | None"
MAX_LOADED = 3
"""Number of models that stay in memory."""
EXPORT_SUFFIX = ".onnx"
"""Suffix of the models that `patchcore export` writes."""


class LoadedModel:
    """A model in memory that all sessions share, one call at a time.

    Parameters
    ----------
    path
        The model file.
    model
        A fitted or exported model.
    stamp
        `file_stamp` of the file, taken before it was read.
    """

    def __init__(self, path: Path, model: Any, stamp: FileStamp) -> None:
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
        """Whether another threshold can be saved to the file."""
        return callable(getattr(self.model, "save", None))

    def predict(self, images: Sequence[Path]) -> list[Prediction | ImageError]:
        """Return the prediction of each image, or its error if it cannot be read."""
        with self._lock:
            return list(self.model.predict_each(images, on_error="skip"))

    def save(self, calibration: Calibration) -> None:
        """Save another calibration to the file, for all sessions.

        Raises
        ------
        ModelFileError
            If another program has changed the file since it was loaded.
        """
        with self._lock:
            if file_stamp(self.path) != self.stamp:
                raise ModelFileError(
                    f"{self.path.name} has changed since it was loaded; choose it again, then set the threshold"
                )
            previous = self.model.calibration
            self.model.calibration = calibration
            try:
                self.model.save(self.path)
            except BaseException:
                self.model.calibration = previous
                raise
            self.stamp = file_stamp(self.path)


class ModelStore:
    """Models by label; a few of them stay in memory.

    Parameters
    ----------
    initial
        The model file given on the command line, if any.
    folder
        Folder of further models, where fitted models are saved; created when needed.
    load
        Function that loads a model file.
    """

    def __init__(self, initial: Path | None, folder: Path, load: Callable[[Path], Any]) -> None:
        self.initial = initial
        self.folder = folder
        self._load = load
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Path, LoadedModel] = OrderedDict()

    def paths(self) -> dict[str, Path]:
        """Return the model files by label, without links that lead out of the folder."""
        paths = {} if self.initial is None else {self.initial.name: self.initial}
        real_folder = self.folder.resolve()
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        for path in sorted(file for file in files if file.suffix in (SUFFIX, EXPORT_SUFFIX)):
            is_initial = self.initial is not None and path.resolve() == self.initial.resolve()
            if not is_initial and path.resolve().parent == real_folder:
                paths[path.name if path.name not in paths else str(path)] = path
        return paths

    def open(self, label: str) -> LoadedModel:
        """Return the model with a label; load it if it is not in memory or its file has changed.

        Raises
        ------
        ModelFileError
            If there is no such model or its file cannot be loaded.
        """
        path = self.paths().get(label)
        if path is None:
            raise ModelFileError(f"{label}: no such model; choose another one")
        with self._lock:
            loaded = self._loaded.get(path)
            stamp = file_stamp(path)
            if loaded is None or loaded.stamp != stamp:
                loaded = LoadedModel(path, self._load(path), stamp)
            self._remember(loaded)
            return loaded

    def add(self, name: str, model: Any) -> LoadedModel:
        """Save a fitted model under a new name and return it.

        Raises
        ------
        ModelFileError
            If the name is not valid or in use; see `model_path`.
        """
        with self._lock:
            path = model_path(self.folder, name)
            self.folder.mkdir(parents=True, exist_ok=True)
            model.save(path)
            loaded = LoadedModel(path, model, file_stamp(path))
            self._remember(loaded)
            return loaded

    def label_of(self, loaded: LoadedModel) -> str:
        """Return the label of a loaded model."""
        return next((label for label, path in self.paths().items() if path == loaded.path), loaded.path.name)

    def _remember(self, loaded: LoadedModel) -> None:
        self._loaded[loaded.path] = loaded
        self._loaded.move_to_end(loaded.path)
        while len(self._loaded) > MAX_LOADED:
            self._loaded.popitem(last=False)


def file_stamp(path: Path) -> FileStamp:
    """Return modification time and size of a file, or None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
