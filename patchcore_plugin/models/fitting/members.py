"""Fit or update all members of a detector, and calibrate them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import ImageError, OptionError
from patchcore_plugin.models.calibration import Calibration
from patchcore_plugin.models.held_out_score import HeldOutScore
from patchcore_plugin.models.member import Member
from patchcore_plugin.models.normalisation import ScoreScale
from patchcore_plugin.models.preprocessing import geometry
from patchcore_plugin.models.rates import require_rate
from patchcore_plugin.models.scoring import combine, normalise

from .batches import TrainingImage
from .fit import FitOptions, MemberFit, choose_strategy, member_label, require_memory, run_fit, update_strategy


class DetectorFit(NamedTuple):
    """Result of a fit or update of all members.

    Parameters
    ----------
    members
        The fitted members.
    calibration
        Calibration of the combined scores.
    images
        The readable images, in the order given.
    errors
        Errors of the unreadable images.
    held_out_scores
        Path and score of each image that was scored by a model that was not fitted on it.
    """

    members: tuple[Member, ...]
    calibration: Calibration
    images: list[TrainingImage]
    errors: list[ImageError]
    held_out_scores: list[tuple[str | None, float]]


def fit_members(
    members: Sequence[Member], images: Sequence[ImageLike], options: FitOptions, false_alarm_rate: float | None
) -> DetectorFit:
    """Fit members one after the other, so that the patches of one at a time are in memory.

    Parameters
    ----------
    members
        Their states are not changed.
    images
        Paths or arrays.
    options
        How images are read and what is reported.
    false_alarm_rate
        Target rate of the threshold.

    Returns
    -------
    DetectorFit
        The fitted members, their calibration, and the images that were read.

    Raises
    ------
    ImageError
        For an unreadable image, if errors are not skipped; if no image is left; if images change during the fit.
    CalibrationError
        If there are too few images for the false-alarm rate.
    OptionError
        For a memory budget and several members.
    PatchcoreError
        If there is not enough memory, or the budget is too small.
    """
    if len(members) > 1:
        if options.memory_budget is not None:
            raise OptionError(
                f"a memory budget is for one member, and the recipe has {len(members)}; fit without a budget, or lower "
                "sampler.ratio"
            )
        require_memory([member.pipeline for member in members], images, options)
    fits: list[MemberFit] = []
    for number, member in enumerate(members):
        member_options = _options_of_member(members, number, options)
        strategy = choose_strategy(member.pipeline, images, member_options)
        if false_alarm_rate is not None:
            require_rate(false_alarm_rate, strategy.scored_images())
        fits.append(run_fit(member.pipeline, images, strategy, member_options))
    fitted = []
    for number, (member, fit) in enumerate(zip(members, fits, strict=True)):
        scale = ScoreScale()
        if len(members) > 1:
            label = member_label(number, member.recipe.name)
            scale = ScoreScale.from_held_out(list(fit.scores.values()), label)
        fitted.append(Member(pipeline=member.pipeline, state=fit.state, scale=scale))
    scores = held_out_scores(fitted, fits)
    return _detector_fit(fitted, _calibrate(fits, scores, false_alarm_rate), fits, scores)


def update_members(
    members: Sequence[Member],
    images: Sequence[ImageLike],
    options: FitOptions,
    old_count: int,
    calibration: Calibration,
) -> DetectorFit:
    """Add images to fitted members, each of which scores them first.

    Parameters
    ----------
    members
        Their states are not changed.
    images
        New images.
    options
        How images are read and what is reported.
    old_count
        Number of images that the members were fitted on.
    calibration
        Extended by the scores of the new images.

    Returns
    -------
    DetectorFit
        The updated members, their calibration, and the images that were read.

    Raises
    ------
    ImageError
        For an unreadable image, if errors are not skipped; if no image is left; if images change during the update.
    OptionError
        If a sampler cannot choose from a memory bank and new patches.
    PatchcoreError
        If there is not enough memory.
    """
    fits: list[MemberFit] = []
    for number, member in enumerate(members):
        member_options = _options_of_member(members, number, options)
        strategy = update_strategy(member.pipeline, member.fitted, old_count, len(images), member_options.progress)
        fits.append(run_fit(member.pipeline, images, strategy, member_options))
    scores = held_out_scores(members, fits)
    updated = [
        Member(pipeline=member.pipeline, state=fit.state, scale=member.scale)
        for member, fit in zip(members, fits, strict=True)
    ]
    return _detector_fit(updated, calibration.extend(list(scores.values())), fits, scores)


def held_out_scores(members: Sequence[Member], fits: Sequence[MemberFit]) -> dict[int, HeldOutScore]:
    """Return the combined scores of the images that every member has scored, by number of the image.

    Parameters
    ----------
    members
        The fitted members.
    fits
        The fit of each member.

    Raises
    ------
    ImageError
        If the members did not read the same images.
    """
    first = fits[0].images
    if any([image[:3] for image in fit.images] != [image[:3] for image in first] for fit in fits):
        raise ImageError("the images changed while they were read; fit again")
    recipe = members[0].recipe
    scores = {}
    for image in first:
        if all(image.number in fit.scores for fit in fits):
            normalised = normalise(members, [fit.scores[image.number] for fit in fits])
            combined = combine(normalised, geometry(recipe.preprocessing, image.size), recipe.map)
            scores[image.number] = HeldOutScore.summarise(*combined)
    return scores


def _calibrate(
    fits: Sequence[MemberFit], scores: dict[int, HeldOutScore], false_alarm_rate: float | None
) -> Calibration:
    if not scores:
        # With a single image, the distance of its own patches to the memory bank is the only available scale of a map.
        radius = 2 * (fits[0].state.covering_radius or 0.0) if len(fits) == 1 else 0.0
        return Calibration.without_threshold("too few images for held-out scores", radius or 1.0)
    count, images = len(scores), len(fits[0].images)
    scoring = fits[0].scoring if len(fits) == 1 else "each scored by members that were not fitted on it"
    source = f"scores of {count if count == images else f'{count} of {images}'} good images, {scoring}"
    return Calibration.from_held_out(list(scores.values()), source, false_alarm_rate)


def _detector_fit(
    members: Sequence[Member], calibration: Calibration, fits: Sequence[MemberFit], scores: dict[int, HeldOutScore]
) -> DetectorFit:
    images = fits[0].images
    paths = [(image.path, scores[image.number].score) for image in images if image.number in scores]
    return DetectorFit(tuple(members), calibration, images, fits[0].errors, paths)


def _options_of_member(members: Sequence[Member], number: int, options: FitOptions) -> FitOptions:
    if len(members) == 1:
        return options
    return options.with_label(member_label(number, members[number].recipe.name))
