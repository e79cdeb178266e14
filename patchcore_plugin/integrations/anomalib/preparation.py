"""The preprocessing of a recipe as an anomalib pre-processor, with the same inputs as in a detector."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from anomalib.pre_processing import PreProcessor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from patchcore_plugin.models.preprocessing import geometry
from patchcore_plugin.models.recipes import Preprocessing
from patchcore_plugin.plugins.options import validate

from .model import plain


class Resize(v2.Resize):  # type: ignore[misc]
    """Resize images bilinearly with antialiasing, and masks to the nearest pixel.

    anomalib searches the transforms for a ``Resize`` and applies it before images are stacked; the second application
    does not change the image.

    Parameters
    ----------
    options
        The recipe's preprocessing.
    """

    def __init__(self, options: Preprocessing) -> None:
        super().__init__(options.size, antialias=True)
        self.options = options

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image [..., 3, H, W], or a mask [..., H, W]."""
        height, width = F.get_size(inpt)
        return F.resize(inpt, list(geometry(self.options, (height, width)).resized), antialias=True)


class Crop(v2.Transform):  # type: ignore[misc]
    """Crop a resized image or mask to the inspected part.

    Parameters
    ----------
    options
        The recipe's preprocessing.
    """

    def __init__(self, options: Preprocessing) -> None:
        super().__init__()
        self.options = options

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop an image [..., 3, H, W], or a mask [..., H, W]."""
        height, width = F.get_size(inpt)
        return F.crop(inpt, *geometry(self.options, (height, width)).crop)


class Preparation(PreProcessor):
    """Resize and crop images; values stay in 0..1, because each backbone normalises its input.

    Parameters
    ----------
    options
        The recipe's preprocessing.
    """

    def __init__(self, options: Preprocessing) -> None:
        super().__init__()
        self._set_options(options)

    def _set_options(self, options: Preprocessing) -> None:
        steps: list[v2.Transform] = [Resize(options)]
        if options.crop is not None:
            steps.append(Crop(options))
        self.options = options
        self.transform = v2.Compose(steps)
        # The base class would leave antialiasing out of exported models, whose scores then differ.
        self.export_transform = self.transform

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the options, which are not those of the recipe if the model was given another pre-processor."""
        return {"options": plain(asdict(self.options))}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the options, or the transform of anomalib's default pre-processor, from a checkpoint."""
        if "options" in config:
            self._set_options(validate(Preprocessing, config["options"], "the checkpoint's preprocessing"))
        elif "transform" in config:
            super().load_checkpoint_config(config)
