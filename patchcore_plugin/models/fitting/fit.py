"""Fit the members of a detector, or update them with more images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import ImageError, OptionError
from patchcore_plugin.models.images import BATCH, ImageReader
from patchcore_plugin.models.pipeline import Pipeline
from patchcore_plugin.models.scores import ImageScores
from patchcore_plugin.models.state import FittedState
from patchcore_plugin.plugins.protocols import StreamingScorer

from . import memory
from .batches import TrainingImage, feature_batches, sample_patches
from .merge_reduce import MergeReduceFit, require_reducible
from .result import FitStrategy
from .store import FeatureStore
from .strategies import InMemoryFit, StreamingFit


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How training images are read and what is reported; see `Detector.fit`.

    Parameters
    ----------
    seed
        Chooses folds and held-out images.
    on_error
        "stop" to raise the error of an unreadable image, "skip" to leave the image out.
    keep_thumbnails
        Whether to keep a small copy of each image.
    features
        Folder of the feature store; None for no store.
    memory_budget
        Bytes for everything that grows with the number of images; None for no limit.
    cross_validate
        Whether every image is scored by cross-fitting, even if the scorer could be fitted batch by batch.
    progress
        Called with a stage, the units done, and their total.
    announce
        Called once with a line about memory and time.
    """

    seed: int
    on_error: OnError = "stop"
    keep_thumbnails: bool = False
    features: str | Path | None = None
    memory_budget: int | None = None
    cross_validate: bool = False
    progress: Progress | None = None
    announce: Callable[[str], object] | None = None

    def with_label(self, label: str) -> FitOptions:
        """Return options that put the label of a member in front of what they report."""
        progress, announce = self.progress, self.announce
        return replace(
            self,
            progress=None if progress is None else lambda stage, *counts: progress(f"{label}: {stage}", *counts),
            announce=None if announce is None else lambda line: announce(f"{label}: {line}"),
        )


class MemberFit(NamedTuple):
    """A fitted member, and the training images.

    Parameters
    ----------
    state
        The fitted member; rows of its memory bank number images in the order given, without unreadable ones.
    images
        The readable images, in the order given.
    errors
        Errors of the unreadable images.
    scores
        Held-out scores, by number of the image.
    scoring
        How the scores were computed, for messages.
    """

    state: FittedState
    images: list[TrainingImage]
    errors: list[ImageError]
    scores: dict[int, ImageScores]
    scoring: str


def choose_strategy(pipeline: Pipeline, images: Sequence[ImageLike], options: FitOptions) -> FitStrategy:
    """Return the strategy for a fit from scratch.

    Parameters
    ----------
    pipeline
        The components of a member.
    images
        Paths or arrays.
    options
        The memory budget, and how images are read.

    Raises
    ------
    PatchcoreError
        If the memory budget is too small, or exceeds the free memory.
    OptionError
        If the sampler cannot work within a memory budget.
    ImageError
        For an unreadable image, if errors are not skipped.
    """
    count = len(images)
    if pipeline.can_stream and not options.cross_validate:
        scorer = pipeline.new_scorer()
        assert isinstance(scorer, StreamingScorer)
        return StreamingFit(scorer, count)
    if options.memory_budget is not None:
        sample = sample_patches(images, pipeline, _reader(pipeline, options))
        plan = None if sample is None else memory.plan_budget(options.memory_budget, count, sample, BATCH)
        if plan is not None:
            require_reducible(pipeline, "a fit within a memory budget is impossible")
            if pipeline.keeps_all:
                raise OptionError(
                    f"sampler {pipeline.recipe.sampler.name!r} keeps every patch, which exceeds the memory budget; "
                    f"pass {memory.size_text(plan.full)}, or use --sampler greedy-coreset"
                )
            return MergeReduceFit(pipeline, count, plan=plan, progress=options.progress)
    return InMemoryFit(pipeline, count, options.seed, options.progress)


def update_strategy(
    pipeline: Pipeline, state: FittedState, old_count: int, new_count: int, progress: Progress | None
) -> FitStrategy:
    """Return the strategy to update a fitted member, which does not change itself.

    Parameters
    ----------
    pipeline, state
        The member.
    old_count, new_count
        Number of images it was fitted on, and maximum number of new ones.
    progress
        Called with a stage, the units done, and their total.

    Raises
    ------
    OptionError
        If the sampler cannot choose from a memory bank and new patches.
    """
    if pipeline.can_stream and not len(state.bank.vectors):
        scorer = pipeline.new_scorer()
        assert isinstance(scorer, StreamingScorer)
        scorer.restore(state.bank, state.scorer.state())
        return StreamingFit(scorer, new_count, bank=state.bank)
    require_reducible(pipeline, "the model cannot be updated")
    return MergeReduceFit(pipeline, new_count, state=state, images=old_count, progress=progress)


def run_fit(pipeline: Pipeline, images: Sequence[ImageLike], strategy: FitStrategy, options: FitOptions) -> MemberFit:
    """Read images, extract their patches, and let the strategy fit on them.

    Parameters
    ----------
    pipeline
        The components of a member.
    images
        Paths or arrays.
    strategy
        Collects the patches and fits the scorer.
    options
        How images are read and what is reported.

    Returns
    -------
    MemberFit
        The fitted state, the images that were read, and their held-out scores.

    Raises
    ------
    ImageError
        For an unreadable image, if errors are not skipped; if no image is left.
    PatchcoreError
        If there is not enough memory, or features cannot be kept.
    """
    store = None
    if options.features is not None:
        settings = {"thumbnails": options.keep_thumbnails, **pipeline.extraction_settings()}
        store = FeatureStore(Path(options.features), settings, pipeline.device)
    readable: list[TrainingImage] = []
    errors: list[ImageError] = []
    announce = options.announce
    start = time.perf_counter()
    reader = _reader(pipeline, options)
    for batch in feature_batches(images, pipeline, reader, strategy.held_out(options.seed), store):
        readable += batch.images
        errors += batch.errors
        done = len(readable) + len(errors)
        if batch.patches is not None:
            strategy.add(batch)
            if announce is not None and not batch.from_store:
                per_image = (time.perf_counter() - start) / len(batch.images)
                announce(strategy.describe(per_image * (len(images) - done)))
                announce = None
        start = time.perf_counter()
        if options.progress is not None:
            options.progress("reading images", done, len(images))
    result = strategy.finish()
    return MemberFit(result.state, sorted(readable), errors, result.scores, strategy.scoring)


def require_memory(pipelines: Sequence[Pipeline], images: Sequence[ImageLike], options: FitOptions) -> None:
    """Check the memory for several members before the first is fitted.

    Parameters
    ----------
    pipelines
        The components of each member.
    images
        Paths or arrays.
    options
        How images are read.

    Raises
    ------
    PatchcoreError
        If there is not enough for one of them.
    """
    samples = []
    for number, pipeline in enumerate(pipelines):
        sample = sample_patches(images, pipeline, _reader(pipeline, options))
        if sample is None:
            return
        if pipeline.can_stream:
            scorer = pipeline.new_scorer()
            assert isinstance(scorer, StreamingScorer)
            scorer.update(sample)  # checks its own memory
        else:
            samples.append((member_label(number, pipeline.recipe.name), sample))
    memory.require_memory_of_members(len(images), samples)


def member_label(number: int, name: str) -> str:
    """Return how a member is called in messages.

    Parameters
    ----------
    number
        Position of the member, from 0.
    name
        Name of its recipe.
    """
    return f"member {number} ({name})"


def _reader(pipeline: Pipeline, options: FitOptions) -> ImageReader:
    return ImageReader(pipeline.recipe.preprocessing, options.on_error, thumbnails=options.keep_thumbnails)
