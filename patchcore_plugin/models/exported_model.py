"""Models that were exported to ONNX, with the interface of a detector."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchcore_plugin.data.atomic import atomic_write
from patchcore_plugin.data.images import to_unit
from patchcore_plugin.data.types import ImageLike, OnError
from patchcore_plugin.errors import ImageError, ModelFileError, OptionError, PluginError, TensorError

from .base import BaseModel
from .export_description import ENTRY, damage_error, parse_description
from .file import require_file
from .images import DecodedImage, PixelReader
from .prediction import Nearest, Prediction, nearest_patch
from .preprocessing import geometry
from .recipes import Recipe

INPUT = "images"
"""Name of the input of the program: RGB, float32 [B, H, W, 3] in 0..1."""
OLD_INPUT = "photos"
"""The name in files that older versions exported."""
PIXELS = 2**24
"""Maximum number of pixels in a batch of several images."""
SILENT = 4
"""Severity of onnxruntime's log: fatal errors only, since errors are raised as well."""

Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[NDArray[np.float32]], Outputs]


class ExportedModel(BaseModel):
    """A fitted detector as an ONNX program, from decoded images to scores and maps; it cannot be fitted.

    Parameters
    ----------
    path
        The file, for messages.
    text
        JSON text that describes the model.
    run
        Called with images, RGB float32 [B, H, W, 3] in 0..1; returns the outputs of `export.program.Program`.

    Raises
    ------
    ModelFileError
        If the description is damaged or too new.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> model = pp.ExportedModel.load("model.onnx")  # doctest: +SKIP
    >>> model.predict(["part.png"])[0].is_anomalous  # doctest: +SKIP
    True
    """

    device = "onnxruntime"
    precision: Literal["fp32"] = "fp32"
    """Precision of the backbone."""

    def __init__(self, path: Path, text: str, run: Run) -> None:
        self._path, self._run = path, run
        self._description, about = parse_description(path, text)
        self._grids = about.grids
        self.bank_rows = about.bank_rows
        """Number of rows of all memory banks."""
        self.covering_radius = about.covering_radius
        """Covering radius of the only member; None for several."""
        self.images = [dataclasses.asdict(image) for image in about.images]
        """Path, height and width of each training image."""
        self.calibration = about.calibration
        try:
            self.recipe = Recipe.from_dict(about.recipe)
        except OptionError as error:
            raise damage_error(path, str(error)) from error

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
        inputs = [(node.name, node.type, len(node.shape)) for node in session.get_inputs()]
        names = [node.name for node in session.get_outputs()]
        if (
            not text
            or "score" not in names
            or inputs not in [[(name, "tensor(float)", 4)] for name in (INPUT, OLD_INPUT)]
        ):
            raise ModelFileError(
                f"{path}: an ONNX file that was not written by patchcore export; if it is a backbone, fit with "
                f"--backbone onnx --set backbone.file={path}"
            )

        def run(images: NDArray[np.float32]) -> Outputs:
            try:
                return dict(zip(names, session.run(names, {inputs[0][0]: images}), strict=True))
            except Exception as error:  # onnxruntime's exceptions have no base of their own
                raise TensorError(
                    f"{path}: cannot process images {list(images.shape)} ({_first_line(error)}); export it again"
                ) from error

        return cls(path, text, run)

    @property
    def training_images(self) -> tuple[str, ...]:
        """Paths of the training images, without those that were arrays."""
        return tuple(image["path"] for image in self.images if image["path"] is not None)

    @property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Empty: thumbnails stay in the model file."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return, as JSON-like data, what the file says about the model, without images and calibration."""
        return {key: value for key, value in self._description.items() if key not in ("photos", "calibration")}

    def predict_each(
        self, images: Iterable[ImageLike], /, *, on_error: OnError = "stop", keep_pixels: bool = False
    ) -> Iterator[Prediction | ImageError]:
        """Yield the predictions for images, in order.

        Consecutive images of one size form a batch.

        Parameters
        ----------
        images, on_error, keep_pixels
            Those of `BaseModel.predict_each`.
        """
        for batch in PixelReader(on_error).batches(images):
            together: list[DecodedImage] = []
            for item in batch:
                if isinstance(item, ImageError) or (together and not _fits(together, item.pixels)):
                    yield from self._predict(together, keep_pixels)
                    together = []
                if isinstance(item, ImageError):
                    yield item
                else:
                    together.append(item)
            yield from self._predict(together, keep_pixels)

    def save(self, path: str | Path) -> None:
        """Write the program with the present calibration; it replaces an older file when it is complete.

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
                f"{self._path}: changing it requires onnx; pip install 'patchcore-plugin[export]'"
            ) from error
        path = Path(path)
        program = onnx.load(self._path, load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in program.graph.initializer):
            raise ModelFileError(
                f"{self._path}: its weights are in a second file, so it cannot be changed; calibrate the model "
                "file and export that"
            )
        for entry in program.metadata_props:
            if entry.key == ENTRY:
                entry.value = json.dumps({**self._description, "calibration": self.calibration.to_dict()})
        with atomic_write(path) as unfinished:
            onnx.save(program, unfinished)

    def _predict(self, images: Sequence[DecodedImage], keep_pixels: bool) -> Iterator[Prediction]:
        if not images:
            return
        size = images[0].pixels.shape[0], images[0].pixels.shape[1]
        outputs = self._run(np.stack([to_unit(pixels) for _, pixels in images]))
        self._check(outputs, len(images), size)
        for i, (path, pixels) in enumerate(images):
            full = np.array(outputs["map"][i], dtype=np.float32) if "map" in outputs else None
            nearest = self._nearest(outputs, i, size) if "nearest" in outputs else None
            score = float(outputs["score"][i])
            yield Prediction.compare(
                self.calibration, path, size, score, full, nearest=nearest, pixels=pixels if keep_pixels else None
            )

    def _check(self, outputs: Outputs, count: int, size: tuple[int, int]) -> None:
        """Raise TensorError for outputs that no exported program returns."""
        shapes = {"score": (count,), "map": (count, *size)}
        if "nearest" in outputs:
            shapes |= {"distance": (count,), "peak": (count, 2), "nearest": (count, 3)}
            shapes |= {"member": (count,)} if len(self._grids) > 1 else {}
        for name, shape in shapes.items():
            if name == "map" and name not in outputs:
                continue
            values = outputs.get(name)
            if values is None or values.shape != shape or not np.isfinite(values).all():
                raise TensorError(
                    f"{self._path}: output {name!r} is not a finite array {list(shape)}; export the model again"
                )

    def _nearest(self, outputs: Outputs, i: int, size: tuple[int, int]) -> Nearest:
        try:
            member = int(outputs["member"][i]) if len(self._grids) > 1 else 0
            grid = self._grids[member]
            row, column = outputs["peak"][i].tolist()
            if grid is None or min(member, row, column, *outputs["nearest"][i].tolist()) < 0:
                raise IndexError
            scores = np.full(grid, -np.inf, dtype=np.float32)
            scores[row, column] = outputs["distance"][i]
            rows, options = np.zeros(grid, dtype=np.int64), self.recipe.preprocessing
            return nearest_patch(
                geometry(options, size), scores, rows, outputs["nearest"][i : i + 1], self.images, options
            )
        except IndexError as error:
            raise TensorError(
                f"{self._path}: refers to a patch or image that its description lacks; export the model again"
            ) from error


def _fits(together: Sequence[DecodedImage], pixels: NDArray[Any]) -> bool:
    shape = together[0].pixels.shape
    return pixels.shape == shape and (len(together) + 1) * shape[0] * shape[1] <= PIXELS


def _session(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise PluginError(f"{path}: running it requires onnxruntime; pip install 'patchcore-plugin[export]'") from error
    kind, _, number = device.partition(":")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    if kind not in ("auto", "cpu", "cuda"):
        raise TensorError(f"{path}: an exported model cannot use device {device!r}; use --device cpu or cuda")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda":
        providers = [("CUDAExecutionProvider", {"device_id": int(number or 0)})]
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise TensorError(f"{path}: --device {device} requires onnxruntime-gpu instead of onnxruntime")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise damage_error(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__
