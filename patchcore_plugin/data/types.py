"""Types of images and of the options of functions that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

ImageLike: TypeAlias = str | Path | npt.NDArray[Any]
"""The path of an image file, or an array that `patchcore_plugin.data.images.as_image` accepts."""
Rgb: TypeAlias = npt.NDArray[np.uint8]
"""RGB pixels, uint8 [H, W, 3]."""
OnError: TypeAlias = Literal["stop", "skip"]
"""Whether an unreadable image stops the call or is skipped."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of finished items, and their total."""
