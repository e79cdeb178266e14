"""A fitted model as one module, from decoded images to scores and maps, of operations that torch.export can follow.

Resizing, blurring and upsampling are linear, and treat rows and columns apart; so each is a matrix for either side.
What must be decided for images of any size, these matrices, is computed in the module from the images' own shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from patchcore_plugin.errors import PluginError
from patchcore_plugin.models.averaging import Unit
from patchcore_plugin.models.pipeline import Composition
from patchcore_plugin.models.preprocessing import Geometry, anomaly_map
from patchcore_plugin.models.recipes.recipe import Map, Preprocessing
from patchcore_plugin.models.tiling import tiled
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scores


class Program(nn.Module):
    """What one fitted method, or several that are averaged, makes of images that are decoded.

    Parameters
    ----------
    members
        The methods.
    units
        What the scores and maps of each are divided by; none for a single method.
    """

    def __init__(self, members: Sequence[Member], units: Sequence[Unit] = ()) -> None:
        super().__init__()
        self.members = tuple(members)
        for number, member in enumerate(members):
            self.add_module(f"member{number}", member)
        self._preparation = Preparation(members[0].preprocessing)
        self._units = units or [Unit()] * len(members)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Judge images of one size.

        Parameters
        ----------
        images
            RGB, float32 [B, H, W, 3] in 0..1.

        Returns
        -------
        dict
            ``score`` float32 [B]. Where there are patch scores, ``map`` float32 [B, H, W]. Where nearest patches are
            known: ``distance`` float32 [B], the highest patch score; ``peak`` int64 [B, 2], row and column of that
            patch in its grid; ``nearest`` int64 [B, 3], number of the training image, row and column of the normal
            patch; and of several methods ``member`` int64 [B], the one that these three are of.
        """
        inputs = self._preparation(images)
        found = [member(inputs) for member in self.members]
        scores = [each.image / unit.score for each, unit in zip(found, self._units, strict=True)]
        outputs = {"score": torch.stack(scores).mean(dim=0)}
        maps = {number: each.map / self._units[number].map for number, each in enumerate(found) if each.map is not None}
        if maps:
            drawn = [self.members[number].drawing(each, *images.shape[1:3]) for number, each in maps.items()]
            outputs["map"] = torch.stack(drawn).mean(dim=0)
        rows = {number: found[number].nearest for number in maps if found[number].nearest is not None}
        if rows:
            outputs |= self._nearest(maps, rows)
        return outputs

    def _nearest(self, maps: Mapping[int, Tensor], rows: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return those outputs that tell of the nearest patch, by patch scores and nearest rows of some members."""
        peaks = [self.members[number].peak(maps[number], each) for number, each in rows.items()]
        distance, peak, nearest = (torch.stack(each, dim=1) for each in zip(*peaks, strict=True))
        best = distance.argmax(dim=1, keepdim=True)
        outputs = {"distance": distance.gather(1, best)[:, 0]}
        for name, each in (("peak", peak), ("nearest", nearest)):
            outputs[name] = each.gather(1, best[:, :, None].expand(-1, 1, each.shape[2]))[:, 0]
        if len(self.members) > 1:
            outputs["member"] = torch.tensor(list(rows))[best[:, 0]]
        return outputs


class Member(nn.Module):
    """One fitted method, from prepared images to patch scores; the backbone in float32.

    Parameters
    ----------
    parts
        The components, the scorer fitted.
    bank
        What the scorer was fitted on.

    Raises
    ------
    PluginError
        If the scorer does not offer ``export_module``.
    """

    mean: Tensor
    std: Tensor
    origin: Tensor

    def __init__(self, parts: Composition, bank: MemoryBank) -> None:
        super().__init__()
        self.preprocessing = parts.recipe.preprocessing
        self._names = {role: parts.recipe.choice(role).name for role in ("backbone", "aggregator", "scorer")}
        self._map = parts.recipe.map
        self._backbone, self._aggregator = parts.backbone, parts.aggregator
        for number, module in enumerate(_modules(parts.backbone)):
            self.add_module(f"backbone{number}", module)  # what is not registered is not exported as weights
        for name, values in (("mean", parts.backbone.mean), ("std", parts.backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        export_module = getattr(parts.scorer, "export_module", None)
        if export_module is None:
            raise PluginError(
                f"scorer {self._names['scorer']!r} cannot be exported: it has no export_module; use the model file "
                "itself, or fit with another scorer, such as knn"
            )
        self.scorer: nn.Module = export_module()
        self.register_buffer("origin", bank.origin)

    def forward(self, images: Tensor) -> Scores:
        """Score images [B, 3, h, w] in 0..1."""
        options = self.preprocessing
        if options.tile is None:
            patches = self._patches(images)
        else:
            patches = tiled(images, options.tile, options.overlap, self._patches)
        with self._explained("scorer"):
            scores: Scores = self.scorer(patches)
        return scores

    def drawing(self, scores: Tensor, height: int, width: int) -> Tensor:
        """Return patch scores [B, h, w] as maps of images, [B, height, width]."""
        options = self.preprocessing
        rows, columns = (
            _drawing(options, axis, scores.shape[1 + axis], self._map, (height, width)) for axis in range(2)
        )
        return rows @ scores @ columns.T

    def peak(self, scores: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return highest score [B], its row and column [B, 2], and where the nearest patch is from [B, 3]."""
        place = scores.flatten(1).argmax(dim=1, keepdim=True)
        column = place % scores.shape[2]
        peak = torch.cat([(place - column) // scores.shape[2], column], dim=1)
        return scores.flatten(1).gather(1, place)[:, 0], peak, self.origin[nearest.flatten(1).gather(1, place)[:, 0]]

    def _patches(self, images: Tensor) -> Patches:
        with self._explained("backbone"):
            maps = self._backbone((images - self.mean) / self.std)
        with self._explained("aggregator"):
            return self._aggregator([features.float() for features in maps])

    @contextmanager
    def _explained(self, role: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a component raises when it runs on tensors without values
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise PluginError(
                f"{role} {self._names[role]!r} cannot be exported, because it is not made of torch operations only "
                f"({type(error).__name__}: {reason}); use the model file itself"
            ) from error


class Preparation(nn.Module):
    """`preprocessing.prepare` for a batch of images of one size.

    Parameters
    ----------
    options
        The recipe's preprocessing.
    """

    def __init__(self, options: Preprocessing) -> None:
        super().__init__()
        self._options = options

    def forward(self, images: Tensor) -> Tensor:
        """Return images [B, H, W, 3] resized with antialiasing and cropped, [B, 3, h, w]."""
        batch, height, width, channels = images.shape
        rows, columns = (_inputs(self._options, axis, (height, width)) for axis in range(2))
        resized = rows @ images.reshape(batch, height, width * channels)
        return resized.view(batch, -1, width, channels).permute(0, 3, 1, 2) @ columns.T


def _inputs(options: Preprocessing, axis: int, image: tuple[int, int]) -> Tensor:
    """Return what resizes and crops a side of the image, float32 [h, H] or [w, W]."""
    resized, start, length = _window(options, axis, image)
    return interpolation(start + torch.arange(length), resized, image[axis], antialias=True)


def _drawing(options: Preprocessing, axis: int, cells: int, drawn: Map, image: tuple[int, int]) -> Tensor:
    """Return what makes a side of the map of a side of the grid, float32 [H, h] or [W, w]."""
    resized, start, length = _window(options, axis, image)
    # A row of the grid at a time, alone, by the function that draws for the detector: to the network's input, blurred.
    column = Geometry(image=(length, 1), resized=(length, 1), crop=(0, 0, length, 1))
    one = np.eye(cells, dtype=np.float32)
    blurred = torch.from_numpy(np.concatenate([anomaly_map(each[:, None], column, drawn) for each in one], axis=1))
    low, high = (_rounded(each * image[axis], resized) for each in (start, start + length))  # as Geometry.box
    place = torch.arange(image[axis])
    inside = (low <= place) & (place < high)
    return (interpolation(place - low, high - low, length, antialias=False) * inside[:, None]) @ blurred


def _rounded(product: Tensor, divisor: Tensor) -> Tensor:
    """Return the quotient of whole numbers, rounded, halves to the even one; no runtime differs about whole numbers."""
    twice = 2 * product + divisor
    whole = twice.div(2 * divisor, rounding_mode="floor")
    return whole - ((twice == whole * 2 * divisor) & (whole % 2 == 1)).long()


def _window(options: Preprocessing, axis: int, image: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
    """Return what a side of the image is resized to, and start and length of the crop; see `preprocessing.geometry`."""
    length = (options.crop or options.size)[axis]
    resized = torch.tensor(options.size[axis])
    if options.keep_aspect:
        sides = [torch.full((), side, dtype=torch.float64) for side in image]
        scale = torch.maximum(options.size[0] / sides[0], options.size[1] / sides[1])
        resized = torch.maximum(resized, (sides[axis] * scale).round().long())
    return resized, (resized - length) // 2, length


def interpolation(place: Tensor, size: Tensor, count: int, *, antialias: bool) -> Tensor:
    """Return rows of the matrix that resizes `count` values to `size` linearly, pixels' centres at their halves.

    With antialiasing it equals torch's ``interpolate``, without it OpenCV's ``resize``. All that is large stays a whole
    number, so that nothing is lost.

    Parameters
    ----------
    place
        Which rows, int64 [n].
    size
        int64 [].
    count
        How many values there are.
    antialias
        Whether each result is an average of all values that fall on it, where they become fewer.

    Returns
    -------
    Tensor
        float32 [n, count].
    """
    apart = (2 * torch.arange(count) + 1) * size - ((2 * place + 1) * count)[:, None]
    reach = torch.maximum(size, torch.full((), count)) if antialias else size
    weights = (1 - apart.abs() / (2 * reach)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _modules(backbone: object) -> list[nn.Module]:
    """Return the modules that a backbone is made of, those of what it shares with others included."""
    if isinstance(backbone, nn.Module):
        return [backbone]
    held = list(getattr(backbone, "__dict__", {}).values())
    found = [each for each in held if isinstance(each, nn.Module)]
    for each in held:
        if type(each).__module__.startswith("patchcore_plugin.") and not isinstance(each, nn.Module):
            found += _modules(each)
    return found
