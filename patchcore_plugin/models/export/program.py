"""A fitted detector as one torch module, from decoded images to scores and maps, that torch.export can trace.

Resizing, blurring and upsampling are linear and treat rows and columns separately, so each is a product with one
matrix per axis. The matrices are computed in the module from the shape of the images, which may have any size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from patchcore_plugin.errors import PluginError
from patchcore_plugin.models.member import Member
from patchcore_plugin.models.preprocessing import map_matrix
from patchcore_plugin.models.recipes import Map, Preprocessing
from patchcore_plugin.models.tiling import tile_patches
from patchcore_plugin.plugins.protocols import Patches, Scores


class Program(nn.Module):
    """All members of a detector, and the mean of their normalised scores and maps.

    Parameters
    ----------
    members
        Fitted members.

    Raises
    ------
    PluginError
        If a scorer cannot be exported.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = tuple(MemberProgram(member) for member in members)
        for number, member in enumerate(self.members):
            self.add_module(f"member{number}", member)
        self._preparation = Preparation(self.members[0].preprocessing)
        self._scales = [member.scale for member in members]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Score images of one size.

        Parameters
        ----------
        images
            RGB, float32 [B, H, W, 3] in 0..1.

        Returns
        -------
        dict
            ``score`` float32 [B]. With patch scores, ``map`` float32 [B, H, W]. With nearest patches: ``distance``
            float32 [B], the highest patch score; ``peak`` int64 [B, 2], row and column of that patch in its grid;
            ``nearest`` int64 [B, 3], number of the training image, row and column of the normal patch; and for several
            members ``member`` int64 [B], the member that these three refer to.
        """
        inputs = self._preparation(images)
        results = [member(inputs) for member in self.members]
        scores = [result.image / scale.score for result, scale in zip(results, self._scales, strict=True)]
        outputs = {"score": torch.stack(scores).mean(dim=0)}
        maps = {
            number: result.map / self._scales[number].map
            for number, result in enumerate(results)
            if result.map is not None
        }
        if maps:
            full = [self.members[number].full_map(grid, *images.shape[1:3]) for number, grid in maps.items()]
            outputs["map"] = torch.stack(full).mean(dim=0)
        rows = {number: results[number].nearest for number in maps if results[number].nearest is not None}
        if rows:
            outputs |= self._nearest(maps, rows)
        return outputs

    def _nearest(self, maps: Mapping[int, Tensor], rows: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return the outputs about the nearest patch, from patch scores and nearest rows of some members."""
        peaks = [self.members[number].peak(maps[number], nearest_rows) for number, nearest_rows in rows.items()]
        distance, peak, nearest = (torch.stack(tensors, dim=1) for tensors in zip(*peaks, strict=True))
        best = distance.argmax(dim=1, keepdim=True)
        outputs = {"distance": distance.gather(1, best)[:, 0]}
        for name, tensor in (("peak", peak), ("nearest", nearest)):
            outputs[name] = tensor.gather(1, best[:, :, None].expand(-1, 1, tensor.shape[2]))[:, 0]
        if len(self.members) > 1:
            outputs["member"] = torch.tensor(list(rows))[best[:, 0]]
        return outputs


class MemberProgram(nn.Module):
    """One fitted member, from prepared images to patch scores; the backbone in float32.

    Parameters
    ----------
    member
        The fitted member.

    Raises
    ------
    PluginError
        If the scorer does not offer ``export_module``.
    """

    mean: Tensor
    std: Tensor
    origin: Tensor

    def __init__(self, member: Member) -> None:
        super().__init__()
        recipe, pipeline = member.recipe, member.pipeline
        self.preprocessing = recipe.preprocessing
        self._names = {role: recipe.choice(role).name for role in ("backbone", "aggregator", "scorer")}
        self._map = recipe.map
        self._backbone, self._aggregator = pipeline.backbone, pipeline.aggregator
        backbone = pipeline.backbone
        modules = [backbone] if isinstance(backbone, nn.Module) else vars(backbone).values()
        for number, module in enumerate(item for item in modules if isinstance(item, nn.Module)):
            self.add_module(f"backbone{number}", module)  # only registered modules are exported as weights
        for name, values in (("mean", pipeline.backbone.mean), ("std", pipeline.backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))
        export_module = getattr(member.fitted.scorer, "export_module", None)
        if export_module is None:
            raise PluginError(
                f"scorer {self._names['scorer']!r} cannot be exported: it has no export_module; use the model file, or "
                "fit with another scorer, such as knn"
            )
        self.scorer: nn.Module = export_module()
        self.register_buffer("origin", member.bank.origin)

    def forward(self, images: Tensor) -> Scores:
        """Score images [B, 3, h, w] in 0..1."""
        options = self.preprocessing
        if options.tile is None:
            patches = self._patches(images)
        else:
            patches = tile_patches(images, options.tile, options.overlap, self._patches)
        with self._name_role("scorer"):
            scores: Scores = self.scorer(patches)
        return scores

    def full_map(self, scores: Tensor, height: int, width: int) -> Tensor:
        """Return patch scores [B, h, w] as maps of images, [B, height, width].

        Parameters
        ----------
        scores
            Patch scores, float32 [B, h, w].
        height, width
            Size of the images, in pixels.
        """
        options = self.preprocessing
        rows, columns = (
            _map_matrix(options, axis, scores.shape[1 + axis], self._map, (height, width)) for axis in range(2)
        )
        return rows @ scores @ columns.T

    def peak(self, scores: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the highest patch scores, and where they are.

        Parameters
        ----------
        scores
            Patch scores, float32 [B, h, w].
        nearest
            Row of the bank nearest to each patch, int64 [B, h, w].

        Returns
        -------
        tuple of Tensor
            Highest score [B], its row and column [B, 2], and the origin of its nearest patch [B, 3].
        """
        place = scores.flatten(1).argmax(dim=1, keepdim=True)
        column = place % scores.shape[2]
        peak = torch.cat([(place - column) // scores.shape[2], column], dim=1)
        return scores.flatten(1).gather(1, place)[:, 0], peak, self.origin[nearest.flatten(1).gather(1, place)[:, 0]]

    def _patches(self, images: Tensor) -> Patches:
        with self._name_role("backbone"):
            maps = self._backbone((images - self.mean) / self.std)
        with self._name_role("aggregator"):
            return self._aggregator([features.float() for features in maps])

    @contextmanager
    def _name_role(self, role: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # components raise anything when they run on tensors without values
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise PluginError(
                f"{role} {self._names[role]!r} cannot be exported, because it is not made of torch operations only "
                f"({type(error).__name__}: {reason}); use the model file"
            ) from error


class Preparation(nn.Module):
    """The computation of `preprocessing.prepare` for a batch of images of one size.

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
    """Return the matrix that resizes and crops one axis of the image, float32 [h, H] or [w, W]."""
    resized, start, length = _window(options, axis, image)
    return interpolation(start + torch.arange(length), resized, image[axis], antialias=True)


def _map_matrix(options: Preprocessing, axis: int, cells: int, smoothing: Map, image: tuple[int, int]) -> Tensor:
    """Return the matrix from one axis of the grid to one axis of the map, float32 [H, h] or [W, w]."""
    resized, start, length = _window(options, axis, image)
    blurred = torch.from_numpy(map_matrix(cells, length, smoothing))
    low, high = (_rounded_quotient(edge * image[axis], resized) for edge in (start, start + length))  # as Geometry.box
    place = torch.arange(image[axis])
    inside = (low <= place) & (place < high)
    return (interpolation(place - low, high - low, length, antialias=False) * inside[:, None]) @ blurred


def _rounded_quotient(product: Tensor, divisor: Tensor) -> Tensor:
    """Return the quotient of whole numbers, rounded half to even, in integers, on which all runtimes agree."""
    twice = 2 * product + divisor
    whole = twice.div(2 * divisor, rounding_mode="floor")
    return whole - ((twice == whole * 2 * divisor) & (whole % 2 == 1)).long()


def _window(options: Preprocessing, axis: int, image: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
    """Return the resized length of an axis, and start and length of the crop; see `preprocessing.geometry`."""
    length = (options.crop or options.size)[axis]
    resized = torch.tensor(options.size[axis])
    if options.keep_aspect:
        sides = [torch.full((), side, dtype=torch.float64) for side in image]
        scale = torch.maximum(options.size[0] / sides[0], options.size[1] / sides[1])
        resized = torch.maximum(resized, (sides[axis] * scale).round().long())
    return resized, (resized - length) // 2, length


def interpolation(place: Tensor, size: Tensor, count: int, *, antialias: bool) -> Tensor:
    """Return rows of the matrix that resizes `count` values to `size` linearly, with pixel centres at halves.

    With antialiasing it equals torch's ``interpolate``, without it OpenCV's ``resize``. Large intermediate values are
    integers, so that no precision is lost.

    Parameters
    ----------
    place
        The rows, int64 [n].
    size
        int64 [].
    count
        Number of values.
    antialias
        Whether each result averages all values that fall on it when the size shrinks.

    Returns
    -------
    Tensor
        float32 [n, count].
    """
    apart = (2 * torch.arange(count) + 1) * size - ((2 * place + 1) * count)[:, None]
    reach = torch.maximum(size, torch.full((), count)) if antialias else size
    weights = (1 - apart.abs() / (2 * reach)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
