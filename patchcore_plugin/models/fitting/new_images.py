"""Selection of the images that a model was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchcore_plugin.data.types import ImageLike
from patchcore_plugin.errors import DatasetError


def new_images(images: Sequence[ImageLike], training_images: Sequence[str]) -> list[ImageLike]:
    """Return the images that a model was not fitted on; arrays always count as new.

    Parameters
    ----------
    images
        Paths or arrays.
    training_images
        Paths of the training images.

    Raises
    ------
    DatasetError
        If none is new.
    """
    paths = {Path(path).resolve() for path in training_images}
    new = [image for image in images if not (isinstance(image, str | Path) and Path(image).resolve() in paths)]
    if not new:
        raise DatasetError(
            f"the model was already fitted on all {len(images)} images; pass new images"
            if len(images)
            else "no images to update the model with; pass at least one"
        )
    return new
