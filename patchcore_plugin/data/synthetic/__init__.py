"""A drawn line of machined flanges, good and defective with exact masks: a data set that needs no download.

The part is drawn once, at twice the size, in `part`; `defects` spoils it; `line` takes the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchcore_plugin.data.images import write_png
from patchcore_plugin.errors import DatasetError

from .camera import Line
from .defects import DEFECTS

__all__ = ["CATEGORY", "DEFECTS", "draw_dataset"]

CATEGORY = "synthetic-parts"
"""Name of the folder that `draw_dataset` makes."""


def draw_dataset(
    folder: str | Path, *, seed: int = 0, train: int = 30, size: int = 256, good: int = 8, defective: int = 4
) -> Path:
    """Draw images of a line of parts, in the MVTec AD layout.

    The images differ as those of a real line do: position, rotation, brightness, light, belt and sensor noise.
    The same arguments draw the same pixels, given the same versions of OpenCV and NumPy.

    Parameters
    ----------
    folder : str or Path
        Where to; `CATEGORY` is made in it, with the folders above it. Images of an earlier call are replaced.
    seed : int
        Decides everything that varies.
    train : int
        Number of good images to fit on, at least 1.
    size : int
        Height and width of an image in pixels, at least 64.
    good : int
        Number of good images to test with, at least 1.
    defective : int
        Number of images of each of the kinds in `DEFECTS`, each with its mask; at least 1.

    Returns
    -------
    Path
        The folder of the category. Images are uint8 RGB and masks uint8 grey (0 and 255), all [size, size].

    Raises
    ------
    DatasetError
        A number is too small, or the folder holds images that this call would not replace.
    ImageError
        A file cannot be written.
    """
    if size < 64 or min(train, good, defective) < 1:
        raise DatasetError(
            f"cannot draw {train} + {good} good and {defective} defective images of {size} pixels; "
            "use at least 1 of each and 64 pixels"
        )
    root = Path(folder) / CATEGORY
    plan = [(root / "train" / "good" / f"{i:03}.png", "good", i) for i in range(train)]
    plan += [(root / "test" / "good" / f"{i:03}.png", "good", i) for i in range(good)]
    plan += [(root / "test" / kind / f"{i:03}.png", kind, i) for kind in DEFECTS for i in range(defective)]
    masks = {
        image: root / "ground_truth" / kind / f"{image.stem}_mask.png" for image, kind, _ in plan if kind != "good"
    }
    foreign = set(root.rglob("*.png")) - {image for image, _, _ in plan} - set(masks.values())
    if foreign:
        raise DatasetError(f"{root}: holds other images, such as {min(foreign)}; choose an empty folder")
    rng = np.random.default_rng(seed)
    line = Line(size)
    for image, kind, index in plan:
        pixels, mask = line.image(rng, kind, index)
        image.parent.mkdir(parents=True, exist_ok=True)
        write_png(image, pixels)
        if kind != "good":
            masks[image].parent.mkdir(parents=True, exist_ok=True)
            write_png(masks[image], mask)
    return root
