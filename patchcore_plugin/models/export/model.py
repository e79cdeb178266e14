"""Fitted models as one program, for ONNX and torch.export, checked on real images before the file gets its name."""

from __future__ import annotations

import itertools
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from patchcore_plugin.data.images import as_image, read_image
from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import ImageError, ModelFileError, OptionError, PluginError, TensorError
from patchcore_plugin.models.detector import Detector
from patchcore_plugin.models.ensemble import Ensemble
from patchcore_plugin.models.export_description import ENTRY, FORMAT
from patchcore_plugin.models.exported import IMAGES, ExportedModel, Outputs, Run
from patchcore_plugin.models.loading import Model
from patchcore_plugin.models.prediction import Prediction

from .backbone import put_in_place, reason, require_export, save_onnx
from .program import Member, Program

Format = Literal["onnx", "torch"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4
"""Largest difference that passes: of a score relative to itself, of a map relative to its range."""
DIMENSIONS = {0: "batch", 1: "height", 2: "width"}
"""Dimensions of the input that are not fixed."""
BATCHES = (1, 3, 8)
"""Numbers of images that are judged at once in the check."""
SCALES = ((0.61, 0.73), (1.37, 1.93))
"""Height and width, in those of the network's input, that images are resized to for the check: up and down again."""
PIXELS = 2**25
"""Images as large as they come are checked in such batches only as have no more pixels."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written.

    Parameters
    ----------
    path
        The file.
    outputs
        Names of what the program returns.
    images
        How many images it was checked with.
    sizes
        Heights and widths in which it was checked.
    score_difference, map_difference
        The largest differences from the detector: of a score, relative to it; of a map, relative to its range, None if
        there are no maps.
    """

    path: Path
    outputs: tuple[str, ...]
    images: int
    sizes: tuple[tuple[int, int], ...]
    score_difference: float
    map_difference: float | None


def export_model(
    model: Model,
    path: str | Path,
    *,
    format: Format = "onnx",  # noqa: A002
    images: Sequence[ImageLike] = (),
) -> Export:
    """Write a fitted model as one program, from decoded images to scores and maps.

    It is compared with the model on real images first, resized up and down, in batches of `BATCHES`; an older file
    stays as it was until it has passed.

    Parameters
    ----------
    model
        A detector or ensemble on the CPU, in float32.
    path
        The file to write; ``.onnx`` or ``.pt2``.
    format
        "onnx", or "torch" for a program of torch.export.
    images
        What it is checked with; if there are none, some of those that the model was fitted on.

    Raises
    ------
    PluginError
        If the extra "export" is not installed, or a component cannot be exported.
    TensorError
        If the program's scores or maps are not the model's.
    ModelFileError
        If the model is an exported one.
    ImageError
        If there is no image to check it with, or one cannot be read.
    OptionError
        If the path does not end as its format asks for.
    """
    if isinstance(model, ExportedModel):
        raise ModelFileError("the model is an exported one; give the model file that it was made of")
    path = Path(path)
    if path.suffix != SUFFIXES[format]:
        raise OptionError(f"{path}: a file of format {format} is called *{SUFFIXES[format]}; choose another --out")
    if format == "onnx":
        require_export()
    pixels = [as_image(each) if isinstance(each, np.ndarray) else read_image(each) for each in _images(model, images)]
    program = _program(model)
    outputs, exported = _exported(program)
    described = json.dumps(_description(model, program))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder, path.name)
        if format == "onnx":
            _write_onnx(exported, draft, outputs, described)
            found = ExportedModel.load(draft, device="cpu")
        else:
            found = ExportedModel(draft, described, _write_torch(exported, draft, described))
        sizes, scores, maps = _compare(model, found, pixels)
        put_in_place(Path(folder), path.parent)
    return Export(
        path=path, outputs=outputs, images=len(pixels), sizes=sizes, score_difference=scores, map_difference=maps
    )


def _images(model: Detector | Ensemble, images: Sequence[ImageLike]) -> list[ImageLike]:
    """Return up to as many images as the largest batch has, spread over those given, or over the training images."""
    found: Sequence[ImageLike] = images or [each for each in model.training_images if Path(each).is_file()]
    if not found:
        raise ImageError(
            "an export is checked on real images, and none of those that the model was fitted on is still there; give "
            "some with --images"
        )
    step = max(1, len(found) // max(BATCHES))
    return list(found[::step][: max(BATCHES)])


def _program(model: Detector | Ensemble) -> Program:
    if isinstance(model, Ensemble):
        members = [Member(each._parts, each.bank) for each in model.members]
        return Program(members, model.units).eval()
    return Program([Member(model._parts, model.bank)]).eval()


def _description(model: Detector | Ensemble, program: Program) -> dict[str, Any]:
    """Return all that the file says of the model beside its program."""
    single = model.members if isinstance(model, Ensemble) else (model,)
    return {
        **model.describe(),
        "format": FORMAT,
        "photos": single[0]._state.images,
        "calibration": model.calibration.to_dict(),
        "grids": [_grid(member) for member in program.members],
        "normalisation": [{"mean": each._parts.backbone.mean, "std": each._parts.backbone.std} for each in single],
    }


@torch.inference_mode()
def _grid(member: Any) -> list[int] | None:
    """Return height and width of a method's grid of patches; None where it knows no nearest patch."""
    options = member.preprocessing
    nearest = member(torch.zeros(1, 3, *(options.crop or options.size))).nearest
    return None if nearest is None else list(nearest.shape[1:])


def _exported(program: Program) -> tuple[tuple[str, ...], torch.export.ExportedProgram]:
    """Return the names of a program's outputs, and it as torch.export makes it: any number of images of any size."""
    # Torch takes dimensions of 1, and those that are equal, for constants.
    example = torch.rand(2, 96, 160, 3, generator=torch.Generator().manual_seed(0))
    dimensions = {number: torch.export.Dim(name) for number, name in DIMENSIONS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they speak of torch's own code
        with torch.no_grad():
            outputs = tuple(program(example))
        try:
            return outputs, torch.export.export(program, (example,), dynamic_shapes=(dimensions,), strict=False)
        except PluginError:
            raise
        except Exception as error:  # whatever torch.export raises
            raise PluginError(
                f"the model cannot be exported: torch.export cannot follow it ({reason(error)}); use the model file "
                "itself"
            ) from error


def _write_onnx(exported: torch.export.ExportedProgram, path: Path, outputs: Sequence[str], described: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they speak of torch's own code
        try:
            made = torch.onnx.export(
                exported,
                dynamo=True,
                dynamic_shapes=(DIMENSIONS,),  # their names
                input_names=[IMAGES],
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # whatever torch.onnx raises
            raise PluginError(
                f"the model cannot be exported to ONNX ({reason(error)}); use the model file itself"
            ) from error
    save_onnx(made, path, described)


def _write_torch(exported: torch.export.ExportedProgram, path: Path, described: str) -> Run:
    """Write a program of torch.export without any pickle; return what runs the file."""
    exported.example_inputs = None  # would be pickled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they speak of torch's own code
        torch.export.save(exported, path, extra_files={ENTRY: described})
        with zipfile.ZipFile(path) as archive:
            pickles = [each.filename for each in archive.infolist() if each.filename.endswith(".pt") and each.file_size]
            payloads = [json.loads(archive.read(each)) for each in archive.namelist() if each.endswith("_config.json")]
        if pickles or any(item["use_pickle"] for each in payloads for item in each["config"].values()):
            raise PluginError("the model cannot be exported: torch would pickle some of it; export it to ONNX")
        program: Any = torch.export.load(path).module()

    def run(images: NDArray[np.float32]) -> Outputs:
        with torch.no_grad():
            return {name: each.numpy() for name, each in program(torch.from_numpy(images)).items()}

    return run


def _compare(
    model: Detector | Ensemble, found: ExportedModel, images: Sequence[NDArray[Any]]
) -> tuple[tuple[tuple[int, int], ...], float, float | None]:
    """Return the sizes in which images were judged by both, and the largest differences of scores and maps.

    Raises
    ------
    TensorError
        If a difference is beyond `TOLERANCE`.
    """
    options = model.recipe.preprocessing
    own = images[0].shape[0], images[0].shape[1]
    sizes = [own, *((round(options.size[0] * each[0]), round(options.size[1] * each[1])) for each in SCALES)]
    good = model.calibration
    largest: dict[str, float] = {}
    for size in sizes:
        resized = list(itertools.islice(itertools.cycle(_resized(each, size) for each in images), max(BATCHES)))
        expected = model.predict(resized)
        # An image that the bank knows has a score near 0, of which nothing but rounding is left.
        usual = median(good.scores or [each.score for each in expected]), median(good.peaks or [0.0])
        for batch in BATCHES:
            if batch > 1 and batch * size[0] * size[1] > PIXELS:
                continue
            for wanted, got in zip(expected, found.predict(resized[:batch]), strict=False):
                for what, difference in _differences(wanted, got, *usual):
                    if not difference <= TOLERANCE:
                        raise TensorError(
                            f"the exported program differs from the model: a {what} by {difference:.1e}, for {batch} "
                            f"images of {size[0]} x {size[1]}; at most {TOLERANCE:.0e} is allowed; nothing was written"
                        )
                    largest[what] = max(largest.get(what, 0.0), difference)
    return tuple(sizes), largest["score"], largest.get("map")


def _differences(wanted: Prediction, got: Prediction, usual: float, peak: float) -> Iterator[tuple[str, float]]:
    """Yield the relative differences of two predictions; of values below what good images have, relative to that."""
    yield "score", abs(got.score - wanted.score) / max(abs(wanted.score), abs(usual), 1e-30)
    if wanted.anomaly_map is not None:
        if got.anomaly_map is None:
            yield "map", float("inf")
            return
        scale = max(float(np.ptp(wanted.anomaly_map)), abs(peak), 1e-30)
        yield "map", float(np.abs(got.anomaly_map - wanted.anomaly_map).max()) / scale
    if (wanted.nearest is None) != (got.nearest is None):
        yield "nearest patch", float("inf")
    elif wanted.nearest is not None and got.nearest is not None:
        scale = max(wanted.nearest.distance, abs(peak), 1e-30)
        yield "patch score", abs(got.nearest.distance - wanted.nearest.distance) / scale


def _resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return image if image.shape[:2] == size else np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
