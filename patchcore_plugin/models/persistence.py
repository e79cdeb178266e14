"""Detectors in model files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class DetectorContent(NamedTuple):
    """Everything that a model file holds.

    Parameters
    ----------
    recipe
        Resolved.
    seed
        Random seed of the fit.
    members
        The fitted members.
    images
        Path, height and width of each training image.
    thumbnails
        JPEG files, by number of the image.
    calibration
        Threshold and colour scale.
    """

    recipe: Recipe
    seed: int
    members: tuple[Member, ...]
    images: list[dict[str, Any]]
    thumbnails: Mapping[int, bytes]
    calibration: Calibration

    @property
    def is_single(self) -> bool:
        """Whether there is one member, on its own scale."""
        return len(self.members) == 1 and self.members[0].scale == ScoreScale()


def save(detector: DetectorContent, path: Path) -> None:
    """Write a detector to a model file.

    The file of a single member has format 1, that of several format 2, which programs that know only format 1 refuse.

    Parameters
    ----------
    detector
        A fitted detector.
    path
        The file to write.
    """
    images = detector.images
    members = [member.manifest(detector.seed, images) for member in detector.members]
    calibration = {"calibration": detector.calibration.to_dict(), "software": file.software()}
    thumbnails = pack_thumbnails(detector.thumbnails, len(images))
    if detector.is_single:
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
        "precision": detector.members[0].pipeline.precision,
        "members": [{**member, "software": calibration["software"]} for member in members],
        **calibration,
    }
    file.save(path, tensors, manifest, version=2)


def describe(detector: DetectorContent) -> dict[str, Any]:
    """Return, as JSON-like data, what a model file says about a detector, without images and calibration."""
    members = []
    for member in detector.members:
        manifest = {"bank_rows": member.bank_rows, **member.manifest(detector.seed, ())}
        members.append({key: value for key, value in manifest.items() if key != "photos"})
    if detector.is_single:
        return {**members[0], "software": file.software()}
    return {
        "bank_rows": sum(member.bank_rows for member in detector.members),
        "recipe": detector.recipe.to_dict(),
        "seed": detector.seed,
        "precision": detector.members[0].pipeline.precision,
        "members": members,
        "software": file.software(),
    }


def saved_recipe(path: Path, manifest: Mapping[str, Any], host: Host) -> Recipe:
    """Return the recipe in a manifest.

    Parameters
    ----------
    path
        The model file, for messages.
    manifest
        Its manifest.
    host
        Provides the components.

    Raises
    ------
    ModelFileError
        If a component is not installed.
    """
    recipe = Recipe.from_dict(manifest["recipe"])
    for member, description in zip(recipe.split(), manifest.get("members", [manifest]), strict=True):
        file.require_components(path, member, description, host)
    return recipe


def restore(
    members: Sequence[Member], recipe: Recipe, path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> DetectorContent:
    """Return the content of a model file.

    Parameters
    ----------
    members
        Not fitted.
    recipe
        Resolved.
    path
        The file, for messages.
    tensors, manifest
        Content of the file.

    Raises
    ------
    ModelFileError
        If the thumbnails are damaged.
    WeightsError
        If the weights of a backbone are not those of the fit.
    """
    descriptions = manifest.get("members", [manifest])
    scales = [ScoreScale(**scale) for scale in manifest.get("units", [{}])]
    restored = []
    for number, (member, description, scale) in enumerate(zip(members, descriptions, scales, strict=True)):
        prefix = _prefix(number) if "members" in manifest else ""
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if member.pipeline.backbone.weight_hash() != description["backbone_sha256"]:
            raise WeightsError(
                f"{path}: backbone {member.recipe.backbone.name!r} has other weights than those the model was fitted "
                "with; install the versions that 'patchcore plugins show' and the model's manifest name, or fit again"
            )
        state = FittedState.restore(member.pipeline.new_scorer(), own, description, member.pipeline.device)
        restored.append(Member(pipeline=member.pipeline, state=state, scale=scale))
    images = list(descriptions[0]["photos"])
    prefix = _prefix(0) if "members" in manifest else ""
    first = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return DetectorContent(
        recipe,
        manifest["seed"],
        tuple(restored),
        images,
        unpack_thumbnails(path, first, len(images)),
        Calibration.from_dict(manifest["calibration"]),
    )


def _prefix(number: int) -> str:
    return f"member{number}."
