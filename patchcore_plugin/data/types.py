"""Types that callers meet everywhere an image is read: what is accepted, what an error does, who hears of progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

ImageLike: TypeAlias = str | Path | npt.NDArray[Any]
Rgb: TypeAlias = npt.NDArray[np.uint8]
OnError: TypeAlias = Literal["stop", "skip"]
Progress: TypeAlias = Callable[[str, int, int], None]
