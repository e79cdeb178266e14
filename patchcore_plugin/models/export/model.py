"""Fitted models as ONNX programs, compared with the model on real images before the file appears."""

from __future__ import annotations

import itertools
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from patchcore_plugin.data.images import as_image, read_image
from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import ImageError, ModelFileError, OptionError, PluginError, TensorError
from patchcore_plugin.models.detector import Detector
from patchcore_plugin.models.export_description import FORMAT
from patchcore_plugin.models.exported_model import INPUT, ExportedModel
from patchcore_plugin.models.loading import Model
from patchcore_plugin.models.prediction import Prediction

from .onnx_file import put_in_place, reason, require_export, save_onnx
from .program import MemberProgram, Program

SUFFIX = ".onnx"
TOLERANCE = 1e-4
"""Largest accepted difference: of a score relative to itself, of a map relative to its range."""
DIMENSIONS = {0: "batch", 1: "height", 2: "width"}
"""Dynamic dimensions of the input."""
BATCHES = (1, 3, 8)
"""Batch sizes in the comparison."""
SCALES = ((0.61, 0.73), (1.37, 1.93))
"""Factors of the height and width of the network's input to which images are resized for the comparison."""
PIXELS = 2**25
"""Maximum number of pixels of a batch of several images in the comparison."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported file and how it was checked.

    Parameters
    ----------
    path
        The file.
    outputs
        Names of the outputs of the program.
    images
        Number of images it was compared on.
    sizes
        Heights and widths of the images in the comparison.
    score_difference, map_difference
        Largest differences from the detector: of a score, relative to it; of a map, relative to its range, None
        without maps.
    """

    path: Path
    outputs: tuple[str, ...]
    images: int
    sizes: tuple[tuple[int, int], ...]
    score_difference: float
    map_difference: float | None


def export_model(model: Model, path: str | Path, *, images: Sequence[ImageLike] = ()) -> Export:
    """Write a fitted model as one ONNX program, from decoded images to scores and maps.

    The program is compared with the model on real images first, resized up and down, in batches of `BATCHES`; an older
    file is replaced when it has passed.

    Parameters
    ----------
    model
        A detector on the CPU, in float32.
    path
        The file to write, ``*.onnx``.
    images
        Images for the comparison; if there are none, the training images that still exist.

    Returns
    -------
    Export
        The file, and how it was checked.

    Raises
    ------
    PluginError
        If the extra "export" is not installed, or a component cannot be exported.
    TensorError
        If scores or maps of the program differ from those of the model.
    ModelFileError
        If the model is an exported one.
    ImageError
        If there is no image for the comparison, or one cannot be read.
    OptionError
        If the path does not end with ``.onnx``.

    Examples
    --------
    >>> import tempfile
    >>> changes = {"backbone": {"name": "resnet18", "weights": "random"}, "preprocessing": {"size": (32, 32)}}
    >>> images = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    >>> detector = Detector.from_recipe("patchcore", device="cpu", **changes).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     export = export_model(detector, Path(folder, "model.onnx"), images=images)
    >>> export.outputs  # doctest: +SKIP
    ('score', 'map', 'distance', 'peak', 'nearest')
    """
    if isinstance(model, ExportedModel):
        raise ModelFileError("the model is already exported; pass the model file that it was exported from")
    path = Path(path)
    if path.suffix != SUFFIX:
        raise OptionError(f"{path}: an exported model is a file *{SUFFIX}; choose another --out")
    require_export()
    pixels = [
        as_image(image) if isinstance(image, np.ndarray) else read_image(image) for image in _images(model, images)
    ]
    program = Program(model.members).eval()
    outputs, exported = _trace(program)
    description = json.dumps(_description(model, program))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder, path.name)
        _write_onnx(exported, draft, outputs, description)
        sizes, scores, maps = _compare(model, ExportedModel.load(draft, device="cpu"), pixels)
        put_in_place(Path(folder), path.parent)
    return Export(
        path=path, outputs=outputs, images=len(pixels), sizes=sizes, score_difference=scores, map_difference=maps
    )


def _images(model: Detector, images: Sequence[ImageLike]) -> list[ImageLike]:
    """Return as many images as the largest batch, spread over those given, or over the training images."""
    candidates: Sequence[ImageLike] = images or [path for path in model.training_images if Path(path).is_file()]
    if not candidates:
        raise ImageError(
            "an export is checked on real images, but no training image exists any more; add --images FOLDER"
        )
    step = max(1, len(candidates) // max(BATCHES))
    return list(candidates[::step][: max(BATCHES)])


def _description(model: Detector, program: Program) -> dict[str, Any]:
    """Return what the file says about the model, in addition to its program."""
    backbones = [member.pipeline.backbone for member in model.members]
    return {
        **model.describe(),
        "format": FORMAT,
        "photos": model.images,
        "calibration": model.calibration.to_dict(),
        "grids": [_grid(member) for member in program.members],
        "normalisation": [{"mean": backbone.mean, "std": backbone.std} for backbone in backbones],
    }


@torch.inference_mode()
def _grid(member: MemberProgram) -> list[int] | None:
    """Return height and width of a member's grid of patches; None without nearest patches."""
    options = member.preprocessing
    nearest = member(torch.zeros(1, 3, *(options.crop or options.size))).nearest
    return None if nearest is None else list(nearest.shape[1:])


def _trace(program: Program) -> tuple[tuple[str, ...], torch.export.ExportedProgram]:
    """Return the names of the outputs, and the program traced for any number of images of any size."""
    # torch.export takes dimensions of 1, and equal dimensions, for constants.
    example = torch.rand(2, 96, 160, 3, generator=torch.Generator().manual_seed(0))
    dimensions = {number: torch.export.Dim(name) for number, name in DIMENSIONS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own code
        with torch.no_grad():
            outputs = tuple(program(example))
        try:
            return outputs, torch.export.export(program, (example,), dynamic_shapes=(dimensions,), strict=False)
        except PluginError:
            raise
        except Exception as error:  # torch.export has no base class of errors
            raise PluginError(
                f"the model cannot be exported: torch.export cannot trace it ({reason(error)}); use the model file"
            ) from error


def _write_onnx(exported: torch.export.ExportedProgram, path: Path, outputs: Sequence[str], description: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own code
        try:
            program = torch.onnx.export(
                exported,
                dynamo=True,
                dynamic_shapes=(DIMENSIONS,),  # their names
                input_names=[INPUT],
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # torch.onnx has no base class of errors
            raise PluginError(f"the model cannot be exported to ONNX ({reason(error)}); use the model file") from error
    save_onnx(program, path, description)


def _compare(
    model: Detector, exported: ExportedModel, images: Sequence[NDArray[Any]]
) -> tuple[tuple[tuple[int, int], ...], float, float | None]:
    """Return the sizes of the images compared, and the largest differences of scores and maps.

    Raises
    ------
    TensorError
        If a difference is beyond `TOLERANCE`.
    """
    options = model.recipe.preprocessing
    own = images[0].shape[0], images[0].shape[1]
    sizes = [own, *((round(options.size[0] * factor[0]), round(options.size[1] * factor[1])) for factor in SCALES)]
    good = model.calibration
    largest: dict[str, float] = {}
    for size in sizes:
        resized = list(itertools.islice(itertools.cycle(_resize(image, size) for image in images), max(BATCHES)))
        expected = model.predict(resized)
        # The score of a training image is close to 0, so its relative difference would be only rounding.
        usual = median(good.scores or [prediction.score for prediction in expected]), median(good.peaks or [0.0])
        for batch in BATCHES:
            if batch > 1 and batch * size[0] * size[1] > PIXELS:
                continue
            for prediction, output in zip(expected, exported.predict(resized[:batch]), strict=False):
                for quantity, difference in _differences(prediction, output, *usual):
                    if not difference <= TOLERANCE:
                        raise TensorError(
                            f"the program differs from the model: a {quantity} by {difference:.1e}, for {batch} "
                            f"images of {size[0]} x {size[1]}; at most {TOLERANCE:.0e} is allowed; nothing was written"
                        )
                    largest[quantity] = max(largest.get(quantity, 0.0), difference)
    return tuple(sizes), largest["score"], largest.get("map")


def _differences(expected: Prediction, actual: Prediction, usual: float, peak: float) -> Iterator[tuple[str, float]]:
    """Yield the differences of two predictions, relative to the larger of a value and that of good images."""
    yield "score", abs(actual.score - expected.score) / max(abs(expected.score), abs(usual), 1e-30)
    if expected.anomaly_map is not None:
        if actual.anomaly_map is None:
            yield "map", float("inf")
            return
        scale = max(float(np.ptp(expected.anomaly_map)), abs(peak), 1e-30)
        yield "map", float(np.abs(actual.anomaly_map - expected.anomaly_map).max()) / scale
    if (expected.nearest is None) != (actual.nearest is None):
        yield "nearest patch", float("inf")
    elif expected.nearest is not None and actual.nearest is not None:
        scale = max(expected.nearest.distance, abs(peak), 1e-30)
        yield "patch score", abs(actual.nearest.distance - expected.nearest.distance) / scale


def _resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return image if image.shape[:2] == size else np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
