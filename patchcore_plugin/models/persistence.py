"""Detectors in model files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from patchcore_plugin.errors import WeightsError
from patchcore_plugin.plugins.manager import Host

from . import file
from .calibration import Calibration
from .member import Member
from .normalisation import ScoreScale
from .recipes import Recipe
from .state import FittedState
from .thumbnail_tensors import pack_thumbnails, unpack_thumbnails

if TYPE_CHECKING:
    from .detector import Detector


def save(detector: Detector, path: Path) -> None:
    """Write a detector to a model file.

    The file of a single member has format 1, that of several format 2, which programs that know only format 1 refuse.
    """
    images = detector.images
    members = [member.manifest(detector.seed, images) for member in detector.members]
    calibration = {"calibration": detector.calibration.to_dict(), "software": file.software()}
    thumbnails = pack_thumbnails(detector.thumbnails, len(images))
    if _is_single(detector):
        tensors = {**detector.members[0].fitted.tensors(), **thumbnails}
        file.save(path, tensors, {**members[0], **calibration}, version=1)
        return
    tensors = {
        f"{_prefix(number)}{name}": tensor
        for number, member in enumerate(detector.members)
        for name, tensor in {**member.fitted.tensors(), **(thumbnails if number == 0 else {})}.items()
    }
    manifest = {
        "units": [{"score": member.scale.score, "map": member.scale.map} for member in detector.members],
        "recipe": detector.recipe.to_dict(),
        "seed": detector.seed,
        "precision": detector.precision,
        "members": [{**member, "software": calibration["software"]} for member in members],
        **calibration,
    }
    file.save(path, tensors, manifest, version=2)


def describe(detector: Detector) -> dict[str, Any]:
    """Return, as JSON-like data, what a model file says about a detector, without images and calibration."""
    members = []
    for member in detector.members:
        manifest = {"bank_rows": member.bank_rows, **member.manifest(detector.seed, ())}
        members.append({key: value for key, value in manifest.items() if key != "photos"})
    if _is_single(detector):
        return {**members[0], "software": file.software()}
    return {
        "bank_rows": detector.bank_rows,
        "recipe": detector.recipe.to_dict(),
        "seed": detector.seed,
        "precision": detector.precision,
        "members": members,
        "software": file.software(),
    }


def saved_recipe(path: Path, manifest: Mapping[str, Any], host: Host) -> Recipe:
    """Return the recipe in a manifest.

    Raises
    ------
    ModelFileError
        If a component is not installed.
    """
    recipe = Recipe.from_dict(manifest["recipe"])
    for member, description in zip(recipe.split(), manifest.get("members", [manifest]), strict=True):
        file.require_components(path, member, description, host)
    return recipe


def restore(detector: Detector, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Give a new detector the content of a model file.

    Raises
    ------
    ModelFileError
        If the thumbnails are damaged.
    WeightsError
        If the weights of a backbone are not those of the fit.
    """
    descriptions = manifest.get("members", [manifest])
    scales = [ScoreScale(**scale) for scale in manifest.get("units", [{}])]
    members = []
    for number, (member, description, scale) in enumerate(zip(detector.members, descriptions, scales, strict=True)):
        prefix = _prefix(number) if "members" in manifest else ""
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if member.pipeline.backbone.weight_hash() != description["backbone_sha256"]:
            raise WeightsError(
                f"{path}: backbone {member.recipe.backbone.name!r} has other weights than those the model was fitted "
                "with; install the versions that 'patchcore plugins show' and the model's manifest name, or fit again"
            )
        state = FittedState.restore(member.pipeline.new_scorer(), own, description, detector.device)
        members.append(Member(pipeline=member.pipeline, state=state, scale=scale))
        if number == 0:
            detector.images = list(description["photos"])
            detector.thumbnails = unpack_thumbnails(path, own, len(detector.images))
    detector.members = tuple(members)
    detector.calibration = Calibration.from_dict(manifest["calibration"])


def _is_single(detector: Detector) -> bool:
    return len(detector.members) == 1 and detector.members[0].scale == ScoreScale()


def _prefix(number: int) -> str:
    return f"member{number}."
