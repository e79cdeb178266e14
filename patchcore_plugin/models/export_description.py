"""The description of the model in an exported file, checked before use: files are untrusted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, MinLen

from patchcore_plugin.errors import ModelFileError

from .calibration import Calibration

ENTRY = "patchcore"
"""The entry of the metadata that describes the model, in JSON."""
FORMAT = 1
"""The newest format of the description that is read."""

Side = Annotated[int, Ge(1), Le(10**6)]


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """Path of a training image, if it was a file, and its height and width."""

    path: str | None
    height: Side
    width: Side


@dataclass(frozen=True, kw_only=True)
class Description:
    """The part of a file's description that is used; files may contain more.

    Parameters
    ----------
    format
        Version of the format.
    recipe
        The recipe, JSON-like.
    images
        Path, height and width of each training image.
    calibration
        Thresholds and held-out scores.
    grids
        Height and width of the grid of patches of each member; None without nearest patches.
    bank_rows
        Number of rows of all memory banks.
    covering_radius
        Covering radius of the only member; None for several.
    """

    format: Annotated[int, Ge(1)]
    recipe: dict[str, Any]
    images: list[TrainingRecord]
    calibration: Calibration
    grids: Annotated[list[tuple[Side, Side] | None], MinLen(1)]
    bank_rows: Annotated[int, Ge(0)]
    covering_radius: Annotated[float, Ge(0)] | None = None


def parse_description(path: Path, text: str) -> tuple[dict[str, Any], Description]:
    """Return the JSON text of a file, as it is and checked: types, finite numbers, and sizes.

    Parameters
    ----------
    path
        The file, for messages.
    text
        JSON text.

    Raises
    ------
    ModelFileError
        If it is damaged or too new.
    """
    from pydantic import TypeAdapter, ValidationError

    def refuse(number: str) -> float:
        raise ValueError(f"{number} is not a finite number")

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    try:
        content = json.loads(text, parse_constant=refuse, parse_float=finite)
        version = content["format"]
        if isinstance(version, int) and version > FORMAT:
            raise ModelFileError(
                f"{path}: exported in format {version}, newer than this version reads ({FORMAT}); "
                "pip install --upgrade patchcore-plugin"
            )
        about = TypeAdapter(Description).validate_python({**content, "images": content["photos"]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise damage_error(path, f"its description, {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damage_error(path, f"its description: {error}") from error
    known = about.calibration
    if any(list(values) != sorted(values) for values in (known.scores, known.peaks, known.defective)):
        raise damage_error(path, "its description, calibration: scores are not in order")
    return content, about


def damage_error(path: Path, reason: str) -> ModelFileError:
    """Return the error for an exported file that cannot be used.

    Parameters
    ----------
    path
        The file.
    reason
        What is wrong; line breaks are removed.
    """
    text = " ".join(reason.split())
    return ModelFileError(f"{path}: damaged ({text}); copy it again from its source, or export it again")
