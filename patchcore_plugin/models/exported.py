"""A model that was exported to ONNX, with the interface of a detector; onnxruntime computes."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.images import as_image, read_image, to_unit
from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError, ModelFileError, OptionError, PluginError, TensorError

from .calibrated import Calibrated, with_pixels
from .export_description import ENTRY, damaged, described
from .file import require_file
from .fitting.inputs import BATCH, READERS
from .prediction import Nearest, Prediction, nearest_patch
from .preprocessing import geometry
from .recipes.ensemble import AnyRecipe, EnsembleRecipe
from .recipes.recipe import Recipe

IMAGES = "photos"
"""Name of the program's input: RGB, float32 [B, H, W, 3] in 0..1."""
PIXELS = 2**24
"""How many pixels are judged at once, if that are several images."""
SILENT = 4
"""Severity of onnxruntime's log: fatal errors only. Whatever goes wrong is raised as well."""

Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[NDArray[np.float32]], Outputs]


class ExportedModel(Calibrated):
    """A detector or ensemble as a program that does all from decoded images on; it cannot learn.

    Parameters
    ----------
    path
        The file, for messages.
    text
        The JSON text that describes it.
    run
        Called with images, RGB float32 [B, H, W, 3] in 0..1; returns the outputs of `export_module.Program`.

    Raises
    ------
    ModelFileError
        If the description is damaged or too new.
    """

    device = "onnxruntime"
    precision: Literal["fp32"] = "fp32"
    """What the backbone computes in."""

    def __init__(self, path: Path, text: str, run: Run) -> None:
        self._path, self._run = path, run
        self._said, about = described(path, text)
        self._grids = about.grids
        self.bank_rows = about.bank_rows
        """How many rows the memory banks have together."""
        self.covering_radius = about.covering_radius
        """That of a detector; None of an ensemble."""
        self._images = [dataclasses.asdict(image) for image in about.images]
        self.calibration = about.calibration
        try:
            kind = EnsembleRecipe if "members" in about.recipe else Recipe
            self.recipe: AnyRecipe = kind.from_dict(about.recipe)
        except OptionError as error:
            raise damaged(path, str(error)) from error

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> ExportedModel:
        """Return the model in an ONNX file.

        Parameters
        ----------
        path
            The file.
        device
            "auto" or "cpu", or "cuda" where onnxruntime-gpu is installed.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, too new, or no such file.
        PluginError
            If onnxruntime is not installed.
        TensorError
            If it cannot compute on the device.
        """
        path = Path(path)
        require_file(path, "export MODEL")
        session = _session(path, device)
        text = session.get_modelmeta().custom_metadata_map.get(ENTRY, "")
        inputs = [(each.name, each.type, len(each.shape)) for each in session.get_inputs()]
        if not text or inputs != [(IMAGES, "tensor(float)", 4)]:
            raise ModelFileError(
                f"{path}: an ONNX file, but no model that patchcore export has written; if it is a backbone, fit with "
                f"--backbone onnx --set backbone.file={path}"
            )
        names = [each.name for each in session.get_outputs()]

        def run(images: NDArray[np.float32]) -> Outputs:
            try:
                return dict(zip(names, session.run(names, {IMAGES: images}), strict=True))
            except Exception as error:  # onnxruntime's exceptions have no base of their own
                raise TensorError(
                    f"{path}: does not compute images {list(images.shape)} ({_first_line(error)}); export it again"
                ) from error

        return cls(path, text, run)

    @property
    def training_images(self) -> tuple[str, ...]:
        """Paths of the images that the model was fitted on, of those that were files."""
        return tuple(image["path"] for image in self._images if image["path"] is not None)

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Nothing: thumbnails stay in the model file."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return, as JSON-like data, all that the file says of the model, less images and calibration."""
        return {key: value for key, value in self._said.items() if key not in ("photos", "calibration")}

    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Judge images one after the other, in order; as `Detector.predict_each`.

        Images of one size that follow each other are judged together.
        """
        if keep_pixels:
            yield from with_pixels(images, lambda given: self.predict_each(given, on_error=on_error), on_error)
            return
        remaining = iter(images)
        with ThreadPoolExecutor(READERS, thread_name_prefix="patchcore-read") as pool:
            while batch := list(islice(remaining, BATCH)):
                together: list[tuple[str | None, NDArray[Any]]] = []
                for item in pool.map(_read, batch):
                    if isinstance(item, ImageError) or (together and not _fits(together, item[1])):
                        yield from self._judge(together)
                        together = []
                    if not isinstance(item, ImageError):
                        together.append(item)
                    elif on_error == "stop":
                        raise item
                    else:
                        yield item
                yield from self._judge(together)

    def save(self, path: str | Path) -> None:
        """Write the program with the calibration as it is now; an older file is replaced when that is complete.

        Raises
        ------
        PluginError
            If onnx is not installed.
        ModelFileError
            If it is not an ONNX file with all its weights inside, or cannot be written.
        """
        try:
            import onnx
        except ImportError as error:
            raise PluginError(
                f"{self._path}: to change it needs onnx; pip install 'patchcore-plugin[export]'"
            ) from error
        path = Path(path)
        program = onnx.load(self._path, load_external_data=False)
        if any(each.data_location == onnx.TensorProto.EXTERNAL for each in program.graph.initializer):
            raise ModelFileError(
                f"{self._path}: has weights beside it and cannot be changed; calibrate the model file and export that"
            )
        for entry in program.metadata_props:
            if entry.key == ENTRY:
                entry.value = json.dumps({**self._said, "calibration": self.calibration.to_dict()})
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder, path.name)
            onnx.save(program, draft)
            os.replace(draft, path)  # noqa: PTH105 - says that an older file is replaced

    def _judge(self, images: Sequence[tuple[str | None, NDArray[Any]]]) -> Iterator[Prediction]:
        if not images:
            return
        size = images[0][1].shape[0], images[0][1].shape[1]
        found = self._run(np.stack([to_unit(pixels) for _, pixels in images]))
        self._check(found, len(images), size)
        for i, (path, _) in enumerate(images):
            full = np.array(found["map"][i], dtype=np.float32) if "map" in found else None
            nearest = self._nearest(found, i, size) if "nearest" in found else None
            yield Prediction.against(self.calibration, path, size, float(found["score"][i]), full, nearest)

    def _check(self, found: Outputs, count: int, size: tuple[int, int]) -> None:
        """Refuse what no program of `export_module` returns."""
        shapes = {"score": (count,), "map": (count, *size)}
        if "nearest" in found:
            shapes |= {"distance": (count,), "peak": (count, 2), "nearest": (count, 3)}
            shapes |= {"member": (count,)} if len(self._grids) > 1 else {}
        for name, shape in shapes.items():
            if name == "map" and name not in found:
                continue
            got = found.get(name)
            if got is None or got.shape != shape or not np.isfinite(got).all():
                raise TensorError(
                    f"{self._path}: its output {name!r} is not finite numbers {list(shape)}; export it again"
                )

    def _nearest(self, found: Outputs, i: int, size: tuple[int, int]) -> Nearest:
        try:
            member = int(found["member"][i]) if len(self._grids) > 1 else 0
            grid = self._grids[member]
            row, column = found["peak"][i].tolist()
            if grid is None or min(member, row, column, *found["nearest"][i].tolist()) < 0:
                raise IndexError
            scores = np.full(grid, -np.inf, dtype=np.float32)
            scores[row, column] = found["distance"][i]
            rows, options = np.zeros(grid, dtype=np.int64), self.recipe.preprocessing
            return nearest_patch(
                geometry(options, size), scores, rows, found["nearest"][i : i + 1], self._images, options
            )
        except IndexError as error:
            raise TensorError(
                f"{self._path}: names a patch or image that its description does not have; export it again"
            ) from error


def _read(image: ImageLike) -> tuple[str | None, NDArray[Any]] | ImageError:
    try:
        return (None, as_image(image)) if isinstance(image, np.ndarray) else (str(image), read_image(image))
    except ImageError as error:
        error.path = None if isinstance(image, np.ndarray) else str(image)
        return error


def _fits(together: Sequence[tuple[str | None, NDArray[Any]]], pixels: NDArray[Any]) -> bool:
    shape = together[0][1].shape
    return pixels.shape == shape and (len(together) + 1) * shape[0] * shape[1] <= PIXELS


def _session(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise PluginError(f"{path}: running it needs onnxruntime; pip install 'patchcore-plugin[export]'") from error
    kind, _, number = device.partition(":")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    if kind not in ("auto", "cpu", "cuda"):
        raise TensorError(f"{path}: an exported model does not know device {device!r}; use --device cpu or cuda")
    wanted: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        wanted = [("CUDAExecutionProvider", {"device_id": int(number or 0)})]
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise TensorError(f"{path}: --device {device} needs onnxruntime-gpu in place of onnxruntime")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise damaged(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__
