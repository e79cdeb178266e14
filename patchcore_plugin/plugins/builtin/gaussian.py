"""Scorer `gaussian`: Mahalanobis distance from a Gaussian at each position (PaDiM)."""

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
"""Number of images of a bank in a batch."""


@dataclass(frozen=True, kw_only=True)
class GaussianConfig:
    """Options of `gaussian`."""

    epsilon: Annotated[float, Gt(0)] = 0.01
    """Added to the diagonal of each covariance, which allows fewer images than values per patch."""


class Gaussian:
    """A Gaussian at each position of the grid (arXiv 2011.08785, sections III-B and III-C, equations 1 and 2).

    A position has the mean m and the covariance S = 1/(N-1) sum of (x - m)(x - m)^T + epsilon I of N images. The score
    of a patch x is its Mahalanobis distance, the root of (x - m)^T S^-1 (x - m). The score of an image is the largest
    of its patches. Memory depends on the grid and on the square of the patch length, not on the number of images.

    Parameters
    ----------
    config
        The options.
    """

    def __init__(self, config: GaussianConfig) -> None:
        self._epsilon = config.epsilon
        self._grid = (0, 0, 0)  # h, w, D
        self._moments: Moments | None = None
        self._state: dict[str, Tensor] | None = None

    def fit(self, bank: MemoryBank) -> None:
        """Fit to a bank with every patch of at least two images.

        Raises
        ------
        TensorError
            If the positions of the grid have different numbers of patches.
        PatchcoreError
            If there is not enough memory.
        """
        rows, height, width = _by_position(bank)
        self._moments = self._state = None
        vectors = bank.vectors
        for batch in rows.split(IMAGES):
            self.update(Patches(vectors[batch].view(len(batch), height, width, -1)))
        self.finish()

    def update(self, patches: Patches) -> None:
        """Add the patches of further images on the same grid; scores change at the next `finish`.

        Raises
        ------
        TensorError
            If the grid differs.
        PatchcoreError
            If there is not enough memory; nothing is added then.
        """
        import torch

        from patchcore_plugin.kernels.gaussian import Moments

        # The moments are modified in place, possibly by later calls outside of inference mode.
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
        """Use all images added so far for scoring.

        Raises
        ------
        TensorError
            If there are fewer than two images, or epsilon is too small.
        """
        import torch

        count = 0 if self._moments is None else self._moments.count
        if self._moments is None or count < 2:
            raise TensorError(
                f"scorer 'gaussian': a covariance needs at least 2 images in addition to those held out for the "
                f"threshold, got {count}; add images of good parts"
            )
        self._state = None  # frees the old factors before the new ones are computed
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
        """Return mean, factors and count.

        Returns
        -------
        dict
            ``mean``, float64 [h, w, D]; ``factors``, rows of the lower Cholesky triangles, float32 [h, w, D(D+1)/2];
            ``count``, the number of images.
        """
        return self._require_state()

    def restore(self, bank: MemoryBank, state: Mapping[str, Tensor]) -> None:
        """Restore the Gaussians from `state`; the bank is not used.

        Raises
        ------
        TensorError
            If the shapes of the tensors do not match.
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
            shapes = {name: list(tensor.shape) for name, tensor in state.items()}
            raise TensorError(
                "scorer 'gaussian': expected the state mean [h, w, D], factors [h, w, D(D+1)/2] and count [], "
                f"got {shapes}; fit again"
            )
        height, width, dims = mean.shape
        self._grid, self._moments = (height, width, dims), None
        self._state = {"mean": mean, "factors": factors, "count": count}

    def __call__(self, patches: Patches) -> Scores:
        """Return the scores of patches.

        Raises
        ------
        TensorError
            Before `fit`, or if the grid differs.
        """
        from patchcore_plugin.kernels.gaussian import distances

        state = self._require_state()
        grid = patches.grid
        self._check_grid(grid)
        distance = distances(grid.flatten(1, 2), state["mean"].flatten(0, 1), state["factors"].flatten(0, 1))
        return Scores(image=distance.amax(dim=1), map=distance.view(grid.shape[:3]))

    def export_module(self) -> nn.Module:
        """Return a module with the same scores and inverted factors, in twice the memory; see `Scorer`."""
        from ._export_modules import GaussianModule

        state = self._require_state()
        return GaussianModule(state["mean"], state["factors"])

    def _require_state(self) -> dict[str, Tensor]:
        if self._state is None:
            raise TensorError("scorer 'gaussian': call fit or restore before scoring")
        return self._state

    def _check_grid(self, grid: Tensor) -> None:
        height, width, dims = self._grid
        if tuple(grid.shape[1:]) != self._grid:
            raise TensorError(
                f"scorer 'gaussian': expected patches of {dims} values on a grid of {height} x {width} as in the fit, "
                f"got {grid.shape[3]} values on {grid.shape[1]} x {grid.shape[2]}"
            )


def _by_position(bank: MemoryBank) -> tuple[Tensor, int, int]:
    """Return the rows of the bank by image and position, int64 [N, h x w], and the height and width of the grid."""
    if 0 in bank.vectors.shape:
        raise TensorError(f"scorer 'gaussian': expected bank vectors [M, D], got {list(bank.vectors.shape)}")
    height, width = (int(last) + 1 for last in bank.origin[:, 1:].amax(dim=0))
    place = bank.origin[:, 1] * width + bank.origin[:, 2]
    counts = place.bincount(minlength=height * width)
    least, most = int(counts.min()), int(counts.max())
    if least != most:
        raise TensorError(
            f"scorer 'gaussian' needs every patch, and the bank has {least} to {most} patches at the positions of its "
            f"{height} x {width} grid; use --sampler all"
        )
    return place.argsort(stable=True).view(-1, most).T.contiguous(), height, width


def _check_memory(grid: Tensor) -> None:
    from patchcore_plugin.kernels import device
    from patchcore_plugin.kernels.gaussian import packed_size

    height, width, dims = grid.shape[1:]
    # 8 bytes for the moments and 4 for the factors.
    needed, free = 12 * height * width * packed_size(dims), device.available(grid.device)
    if needed > free:
        raise PatchcoreError(
            f"scorer 'gaussian': {height} x {width} covariances of {dims} values need {needed / 1e9:.1f} GB, and "
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
            summary="distance from a Gaussian at each position (PaDiM); needs sampler all",
            streaming=True,
        )
    ]
