"""Synthetic images of machined flanges, good and defective, with exact masks: a data set without a download.

`part` draws the product at twice the size of an image, `defects` adds defects to it, and `camera` takes the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patchcore_plugin.data.images import write_png
from patchcore_plugin.errors import DatasetError

from .camera import Camera
from .defects import DEFECTS

__all__ = ["CATEGORY", "DEFECTS", "draw_dataset"]

CATEGORY = "synthetic-parts"
"""Name of the folder that `draw_dataset` creates."""


def draw_dataset(
    folder: str | Path, *, seed: int = 0, train: int = 30, size: int = 256, good: int = 8, defective: int = 4
) -> Path:
    """Draw images of parts on a conveyor belt, in the layout of MVTec AD.

    The images vary as those of a production line do: in position, rotation, brightness, light, belt and sensor noise.
    The same arguments give the same pixels with the same versions of OpenCV and NumPy.

    Parameters
    ----------
    folder : str or Path
        Parent of the folder `CATEGORY`; created if it does not exist. Images of an earlier call are replaced.
    seed : int
        Seed of all random variation.
    train : int
        Number of good images to fit on, at least 1.
    size : int
        Height and width of an image in pixels, at least 64.
    good : int
        Number of good images to test with, at least 1.
    defective : int
        Number of images per kind in `DEFECTS`, each with a mask; at least 1.

    Returns
    -------
    Path
        Folder of the category. Images are uint8 RGB and masks uint8 grey (0 and 255), all [size, size].

    Raises
    ------
    DatasetError
        If a number is too small, or the folder holds images that this call would not replace.
    ImageError
        If a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = draw_dataset(folder, train=1, good=1, defective=1, size=64)
    ...     sorted(path.name for path in root.glob("test/*"))
    ['chip', 'good', 'misprint', 'missing_hole', 'scratch', 'stain']
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
        raise DatasetError(f"{root}: contains other images, such as {min(foreign)}; choose an empty folder")
    rng = np.random.default_rng(seed)
    camera = Camera(size)
    for path, kind, index in plan:
        image, mask = camera.take_image(rng, kind, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, image)
        if kind != "good":
            masks[path].parent.mkdir(parents=True, exist_ok=True)
            write_png(masks[path], mask)
    return root
