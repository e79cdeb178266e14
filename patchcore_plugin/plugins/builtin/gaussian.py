"""Scorer `gaussian`: at each position, the distance from what is normal there (PaDiM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from patchcore_plugin.errors import PatchcoreError, TensorError
from patchcore_plugin.plugins.hookspecs import hookimpl
from patchcore_plugin.plugins.protocols import MemoryBank, Patches, Scorer, Scores
from patchcore_plugin.plugins.specs import ScorerSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from patchcore_plugin.kernels.gaussian import Moments

IMAGES = 8
"""How many images of a bank are learned from at once."""


@dataclass(frozen=True, kw_only=True)
class GaussianConfig:
    """Options of `gaussian`."""

    epsilon: Annotated[float, Gt(0)] = 0.01
    """Added to the diagonal of each covariance, so that fewer images than values of a patch do."""


class Gaussian:
    """A Gaussian at each position of the grid (arXiv 2011.08785, sections III-B and III-C, equations 1 and 2).

    With N images, mean m and covariance S = 1/(N-1) sum of (x - m)(x - m)^T + epsilon I of a position, a patch x there
    gets the Mahalanobis distance, the root of (x - m)^T S^-1 (x - m), and an image the largest distance of its patches.

    It learns from patches as they come, in memory that depends on the grid and on the square of their length only.
    """

    def __init__(self, config: GaussianConfig) -> None:
        self._epsilon = config.epsilon
        self._grid = (0, 0, 0)  # h, w, D
        self._moments: Moments | None = None
        self._state: dict[str, Tensor] | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Learn from a bank that has every patch of at least two images.

        Raises
        ------
        TensorError
            If there are not as many images at each position of a grid.
        PatchcoreError
            If memory does not suffice.
        """
        rows, height, width = _by_position(bank)
        self._moments = self._state = None
        vectors = bank.vectors
        for part in rows.split(IMAGES):
            self.update(Patches(vectors[part].view(len(part), height, width, -1)))
        self.finish()

    def update(self, patches: Patches) -> None:
        """Learn from the patches of some more images, on the grid of those before; see `finish`.

        Raises
        ------
        TensorError
            If the grid is another one.
        PatchcoreError
            If memory does not suffice; before anything is learned.
        """
        import torch

        from patchcore_plugin.kernels.gaussian import Moments

        # What is kept for later calls is changed in place, and those need not be in inference mode as well.
        with torch.inference_mode(False), torch.no_grad():
            grid = patches.grid
            if self._moments is None:
                if self._state is None:
                    _check_memory(grid)
                    self._grid = grid.shape[1], grid.shape[2], grid.shape[3]
                    self._moments = Moments(grid.new_zeros(grid[0, ..., 0].numel(), grid.shape[3]))
                else:
                    mean, factors = self._state["mean"].flatten(0, 1), self._state["factors"].flatten(0, 1)
                    self._moments = Moments.of(mean, int(self._state["count"]), factors, self._epsilon)
            self._check_grid(grid)
            self._moments.add(grid.flatten(1, 2))

    def finish(self) -> None:
        """Score from now on by all that was learned.

        Raises
        ------
        TensorError
            If that are fewer than two images, or if epsilon is too small.
        """
        import torch

        count = 0 if self._moments is None else self._moments.count
        if self._moments is None or count < 2:
            raise TensorError(
                f"scorer 'gaussian': a covariance needs at least 2 images, beside those that are held out for the "
                f"threshold, and there is {count}; give more images of good parts"
            )
        self._state = None  # the old factors make room for the new ones
        with torch.inference_mode(False), torch.no_grad():
            factors = self._moments.factors(self._epsilon)
        if factors is None:
            raise TensorError(
                f"scorer 'gaussian': a covariance is not positive definite with epsilon {self._epsilon:g}; "
                "raise scorer.epsilon"
            )
        height, width, _ = self._grid
        self._state = {
            "mean": self._moments.mean.clone().unflatten(0, (height, width)),
            "factors": factors.unflatten(0, (height, width)),
            "count": torch.tensor(count),
        }

    def state(self) -> Mapping[str, Tensor]:
        """Return mean, float64 [h, w, D]; Cholesky factors, rows of the lower triangle, float32 [h, w, D(D+1)/2]; N."""
        return self._fitted()

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned; the bank is not needed.

        Raises
        ------
        TensorError
            If the tensors do not fit together.
        """
        from patchcore_plugin.kernels.gaussian import packed_size

        mean, factors, count = (state.get(name) for name in ("mean", "factors", "count"))
        if (
            mean is None
            or factors is None
            or count is None
            or mean.ndim != 3
            or factors.shape != (*mean.shape[:2], packed_size(mean.shape[2]))
            or count.ndim
        ):
            found = {name: list(tensor.shape) for name, tensor in state.items()}
            raise TensorError(
                "scorer 'gaussian': expected the state mean [h, w, D], factors [h, w, D(D+1)/2] and count [], "
                f"got {found}; fit again"
            )
        height, width, dims = mean.shape
        self._grid, self._moments = (height, width, dims), None
        self._state = {"mean": mean, "factors": factors, "count": count}

    def __call__(self, patches: Patches) -> Scores:
        """Score patches on the grid that was learned."""
        from patchcore_plugin.kernels.gaussian import distances

        state = self._fitted()
        grid = patches.grid
        self._check_grid(grid)
        found = distances(grid.flatten(1, 2), state["mean"].flatten(0, 1), state["factors"].flatten(0, 1))
        return Scores(image=found.amax(dim=1), map=found.view(grid.shape[:3]))

    def export_module(self) -> nn.Module:
        """Return the same scores as a module, with inverted factors: twice their memory; see `Scorer`."""
        from ._exported import GaussianModule

        state = self._fitted()
        return GaussianModule(state["mean"], state["factors"])

    def _fitted(self) -> dict[str, Tensor]:
        if self._state is None:
            raise TensorError("scorer 'gaussian': call fit or restore before scoring")
        return self._state

    def _check_grid(self, grid: Tensor) -> None:
        height, width, dims = self._grid
        if tuple(grid.shape[1:]) != self._grid:
            raise TensorError(
                f"scorer 'gaussian': expected patches of {dims} values on a grid of {height} x {width}, like those "
                f"that it learned from, got {grid.shape[3]} values on {grid.shape[1]} x {grid.shape[2]}"
            )


def _by_position(bank: MemoryBank) -> tuple[Tensor, int, int]:
    """Return rows of the bank, int64 [N, h x w]: the first, the second, ... image's at each position; and h, w."""
    if 0 in bank.vectors.shape:
        raise TensorError(f"scorer 'gaussian': expected bank vectors [M, D], got {list(bank.vectors.shape)}")
    height, width = (int(each) + 1 for each in bank.origin[:, 1:].amax(dim=0))
    place = bank.origin[:, 1] * width + bank.origin[:, 2]
    counts = place.bincount(minlength=height * width)
    least, most = int(counts.min()), int(counts.max())
    if least != most:
        raise TensorError(
            f"scorer 'gaussian' needs every patch: use --sampler all (the bank has {least} to {most} patches at each "
            f"position of its {height} x {width} grid)"
        )
    return place.argsort(stable=True).view(-1, most).T.contiguous(), height, width


def _check_memory(grid: Tensor) -> None:
    from patchcore_plugin.kernels import device
    from patchcore_plugin.kernels.gaussian import packed_size

    height, width, dims = grid.shape[1:]
    # Moments in float64 and factors in float32.
    needed, free = 12 * height * width * packed_size(dims), device.available(grid.device)
    if free is not None and needed > free:
        raise PatchcoreError(
            f"scorer 'gaussian': {height} x {width} covariances of {dims} values take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; lower aggregator.channels or preprocessing.size, or raise aggregator.stride"
        )


def create(config: GaussianConfig) -> Scorer:
    """Return the scorer."""
    return Gaussian(config)


@hookimpl
def patchcore_scorers() -> list[ScorerSpec]:
    """Provide `gaussian`."""
    return [
        ScorerSpec(
            name="gaussian",
            config=GaussianConfig,
            create=create,
            summary="distance from a Gaussian at each position (PaDiM); needs every patch: sampler all",
        )
    ]
