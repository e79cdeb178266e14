"""Methods that see the same images in one pass, because they share a backbone: in a fit, and when they judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchcore_plugin.data.types import ImageLike, OnError, Progress
from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.kernels import device as devices
from patchcore_plugin.models.pipeline import Composition
from patchcore_plugin.models.shared_backbone import SharedBackbone
from patchcore_plugin.plugins.protocols import Patches, Scores

from .learners import Learner, learner
from .reading import Read, first_patches, read_good
from .store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How the images of a fit, or of an update, are read; as in `Fittable.fit`."""

    keep_thumbnails: bool = False
    features: str | Path | None = None
    on_error: OnError = "stop"
    progress: Progress | None = None
    announce: Callable[[str], object] | None = None


class Found(NamedTuple):
    """What a method finds in an image: a score and, where it knows them, patch scores and nearest bank rows [h, w]."""

    score: float
    map: NDArray[np.float32] | None
    nearest: NDArray[np.int64] | None = None


class Group:
    """One method, or several that share a backbone, which computes for all of them once.

    Parameters
    ----------
    parts
        The components of each; equal in preprocessing, seed and device.
    labels
        What each is called in progress and announcements; "" for a single one that needs no name.
    shared
        The backbone that several have in common.
    """

    def __init__(
        self, parts: Sequence[Composition], labels: Sequence[str] = ("",), shared: SharedBackbone | None = None
    ) -> None:
        self._parts = parts
        self._labels = labels
        self._shared = shared
        self._preprocessing, self._seed = parts[0].recipe.preprocessing, parts[0].seed

    def score(self, images: Tensor) -> list[list[Found]]:
        """Return what each finds in images, network inputs [B, 3, h, w]: for each method one of each image."""
        with self._remembering():
            return [_found(parts.score(parts.patches(images))) for parts in self._parts]

    def first_patches(self, images: Sequence[ImageLike], on_error: OnError) -> Sequence[Patches]:
        """Return what each extracts from the first readable image of a fit; nothing if there is none."""
        return first_patches(images, self._preprocessing, self._seed, on_error, self._extract)

    def read(self, images: Sequence[ImageLike], learners: Sequence[Learner], options: ReadOptions) -> Read:
        """Let each learn from images, by a learner of its own.

        Raises
        ------
        ImageError
            For an unreadable image, if `options.on_error` is "stop".
        PatchcoreError
            If there is not the memory, or features cannot be kept.
        """
        store, announce = None, options.announce
        if options.features is not None:
            settings = {"thumbnails": options.keep_thumbnails, "members": [each.extraction() for each in self._parts]}
            store = FeatureStore(Path(options.features), settings, self._parts[0].device)

        def learn(patches: Sequence[Patches]) -> None:
            for learning, each in zip(learners, patches, strict=True):
                learning.add(each)

        def hold_out() -> None:
            for learning in learners:
                learning.hold_out()

        def tell(seconds: float) -> None:
            if announce is not None:
                for label, learning in zip(self._labels, learners, strict=True):
                    announce(_labelled(label, learning.describe(seconds)))

        return read_good(
            images,
            self._preprocessing,
            self._seed,
            extract=self._extract,
            learn=learn,
            hold_out=hold_out,
            on_error=options.on_error,
            thumbnails=options.keep_thumbnails,
            store=store,
            progress=labelled(self._label, options.progress),
            announce=tell,
        )

    def require_memory(self, images: Sequence[ImageLike], on_error: OnError) -> None:
        """Try one image: a fit of so many for which there is no room ends here, not hours later.

        Raises
        ------
        PatchcoreError
            If there is not the memory for one of them, or for all together.
        """
        needed, free = 0.0, devices.available(self._parts[0].device)
        for parts, patches in zip(self._parts, self.first_patches(images, on_error), strict=False):
            learning = learner(parts, len(images))
            learning.add(patches)
            needed += learning.needed
            del learning  # before the next takes its room
        if free is not None and needed > free:
            raise PatchcoreError(
                f"{self._label} share a backbone and are fitted together: about {needed / 1e9:.1f} GB are "
                f"needed and {free / 1e9:.1f} GB are free; take fewer images, raise aggregator.stride, or lower "
                "preprocessing.size"
            )

    @property
    def _label(self) -> str:
        return " and ".join(self._labels)

    def _extract(self, images: Tensor) -> list[Patches]:
        with self._remembering():
            return [parts.patches(images) for parts in self._parts]

    def _remembering(self) -> AbstractContextManager[None]:
        return nullcontext() if self._shared is None or len(self._parts) == 1 else self._shared.remembering()


def labelled(label: str, progress: Progress | None) -> Progress | None:
    """Return what calls `progress` with a label before each stage; "" for none."""
    if progress is None:
        return None
    return lambda stage, done, total: progress(_labelled(label, stage), done, total)


def _labelled(label: str, text: str) -> str:
    return f"{label}: {text}" if label else text


def _found(scores: Scores) -> list[Found]:
    nothing = [None] * len(scores.image)
    maps = nothing if scores.map is None else scores.map.cpu().numpy()
    rows = nothing if scores.nearest is None else scores.nearest.cpu().numpy()
    return [Found(*each) for each in zip(scores.image.tolist(), maps, rows, strict=True)]
