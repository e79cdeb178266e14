"""Scorer `gaussian`: Mahalanobis distances by position, against NumPy and SciPy, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.kernels import device
from patchcore_plugin.kernels.gaussian import packed_size, positions
from patchcore_plugin.kernels.gaussian.reference import mahalanobis as reference

HOST = pp.Host(entry_points=False)
HEIGHT, WIDTH = 3, 4


def grids(images: int, dims: int, *, seed: int = 0, offset: float = 0) -> Tensor:
    """Return grids [B, 3, 4, D] whose values go together, differently at each position."""
    draws = torch.Generator().manual_seed(seed)
    mix = torch.randn(HEIGHT, WIDTH, dims, dims, generator=torch.Generator().manual_seed(99)) / dims**0.5
    return torch.einsum("bhwd,hwde->bhwe", torch.randn(images, HEIGHT, WIDTH, dims, generator=draws), mix) + offset


def bank_of(grid: Tensor) -> pp.MemoryBank:
    places = torch.cartesian_prod(*(torch.arange(length) for length in grid.shape[:3]))
    return pp.MemoryBank(grid.flatten(0, 2), places)


def gaussian(**options: Any) -> Any:
    return HOST.create("scorer", "gaussian", **options)


def fitted(grid: Tensor, **options: Any) -> Any:
    scorer = gaussian(**options)
    scorer.fit(bank_of(grid))
    return scorer


def streamed(*batches: Tensor) -> Any:
    scorer = gaussian()
    for batch in batches:
        scorer.update(pp.Patches(batch))
    scorer.finish()
    return scorer


def scores(scorer: Any, grid: Tensor) -> Tensor:
    found: Tensor = scorer(pp.Patches(grid)).map
    return found


# The distance


@pytest.mark.parametrize(("images", "dims", "epsilon"), [(30, 6, 0.01), (5, 20, 0.01), (2, 3, 0.01), (12, 8, 1.0)])
def test_scores_are_mahalanobis_distances(images: int, dims: int, epsilon: float) -> None:
    known, new = grids(images, dims), grids(4, dims, seed=1)
    found = fitted(known, epsilon=epsilon)(pp.Patches(new))
    wanted = np.empty((4, HEIGHT, WIDTH))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            here = known[:, row, column].double().numpy()
            inverse = np.linalg.inv(np.cov(here, rowvar=False) + epsilon * np.eye(dims))
            for image in range(4):
                there = new[image, row, column].double().numpy()
                wanted[image, row, column] = mahalanobis(there, here.mean(axis=0), inverse)
    assert found.map.dtype == torch.float32
    assert found.nearest is None
    np.testing.assert_allclose(found.map.numpy(), wanted, rtol=1e-4)
    np.testing.assert_allclose(found.image.numpy(), wanted.max(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_large_offsets_keep_precision(offset: float) -> None:
    """The variances are about 1 and down to epsilon; a mean of squares less a square of means would lose them."""
    known, new = grids(40, 10, offset=offset), grids(3, 10, seed=1, offset=offset)
    wanted = reference(known.flatten(1, 2), new.flatten(1, 2), 0.01).view(3, HEIGHT, WIDTH).float()
    torch.testing.assert_close(scores(streamed(*known.split(7)), new), wanted, rtol=1e-4, atol=0)


def test_scores_do_not_depend_on_batches() -> None:
    known, new = grids(23, 9, offset=50), grids(3, 9, seed=1, offset=50)
    wanted = scores(fitted(known), new)
    for sizes in ([23], [1] * 23, [8, 8, 7], [1, 21, 1]):
        torch.testing.assert_close(scores(streamed(*known.split(sizes)), new), wanted, rtol=1e-5, atol=0)
    shuffled = bank_of(known)
    order = torch.randperm(len(shuffled.vectors), generator=torch.Generator().manual_seed(0))
    scorer = gaussian()
    scorer.fit(pp.MemoryBank(shuffled.vectors[order], shuffled.origin[order]))
    torch.testing.assert_close(scores(scorer, new), wanted, rtol=1e-5, atol=0)


def test_chunks_of_positions_keep_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    known, new = grids(9, 5), grids(2, 5, seed=1)
    wanted = scores(fitted(known), new)
    monkeypatch.setattr(positions, "WORKSPACE", 5 * 8 * 5**2)
    torch.testing.assert_close(scores(fitted(known), new), wanted, rtol=1e-6, atol=0)


def test_update_keeps_scores_until_finish() -> None:
    known, new = grids(20, 6), grids(3, 6, seed=1)
    scorer = streamed(known[:8])
    first, state = scores(scorer, new), {name: each.clone() for name, each in scorer.state().items()}
    scorer.update(pp.Patches(known[8:]))
    assert torch.equal(scores(scorer, new), first)
    assert all(torch.equal(each, state[name]) for name, each in scorer.state().items())
    scorer.finish()
    torch.testing.assert_close(scores(scorer, new), scores(fitted(known), new), rtol=1e-5, atol=0)


def test_update_continues_from_restored_state() -> None:
    known, new = grids(20, 6, offset=30), grids(3, 6, seed=1, offset=30)
    scorer = gaussian()
    scorer.restore(bank_of(known[:0]), streamed(known[:8]).state())
    scorer.update(pp.Patches(known[8:]))
    scorer.finish()
    torch.testing.assert_close(scores(scorer, new), scores(fitted(known), new), rtol=1e-4, atol=0)


def test_inference_mode_is_optional() -> None:
    known, new = grids(20, 6), grids(3, 6, seed=1)
    scorer = gaussian()
    with torch.inference_mode():
        scorer.update(pp.Patches(known[:10].clone()))
        later = known[10:].clone()
    scorer.update(pp.Patches(later))
    scorer.finish()
    torch.testing.assert_close(scores(scorer, new), scores(fitted(known), new), rtol=1e-5, atol=0)


def test_state_stores_triangles() -> None:
    state = fitted(grids(9, 6)).state()
    assert {name: (list(each.shape), each.dtype) for name, each in state.items()} == {
        "mean": ([HEIGHT, WIDTH, 6], torch.float64),
        "factors": ([HEIGHT, WIDTH, 21], torch.float32),
        "count": ([], torch.int64),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    known, new = grids(40, 30, offset=100), grids(4, 30, seed=1, offset=100)
    on_gpu = scores(streamed(*known.cuda().split(7)), new.cuda())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), scores(fitted(known), new), rtol=1e-4, atol=0)


# What it refuses


def error(call: Any, *arguments: Any) -> str:
    with pytest.raises(pp.TensorError) as caught:
        call(*arguments)
    return str(caught.value)


def test_bank_without_all_patches_is_refused() -> None:
    bank = bank_of(grids(6, 5))
    kept = torch.arange(len(bank.vectors)) != 17
    assert "--sampler all" in error(gaussian().fit, pp.MemoryBank(bank.vectors[kept], bank.origin[kept]))
    assert "got [0, 5]" in error(gaussian().fit, pp.MemoryBank(bank.vectors[:0], bank.origin[:0]))


@pytest.mark.parametrize("learn", [fitted, streamed])
def test_single_image_is_refused(learn: Any) -> None:
    assert "at least 2 images" in error(learn, grids(1, 5))


def test_another_grid_is_refused() -> None:
    scorer = streamed(grids(4, 5))
    for call in (scorer, scorer.update):
        assert error(call, pp.Patches(grids(1, 5)[:, :2])).endswith("got 5 values on 2 x 4")
    assert error(scorer, pp.Patches(grids(1, 6))).endswith("got 6 values on 3 x 4")


def test_scoring_before_fit_is_refused() -> None:
    scorer = gaussian()
    assert "call fit" in error(scorer, pp.Patches(grids(1, 5)))
    scorer.update(pp.Patches(grids(4, 5)))
    assert "call fit" in error(scorer.state)
    assert "got 0" in error(gaussian().finish)


def test_singular_covariance_is_refused() -> None:
    """Two images leave one direction with variance; the others have epsilon alone."""
    scorer = gaussian(epsilon=1e-300)
    assert "raise scorer.epsilon" in error(scorer.fit, bank_of(grids(2, 5)))


@pytest.mark.parametrize("lost", ["mean", "factors", "count"])
def test_invalid_state_is_refused(lost: str) -> None:
    state = dict(fitted(grids(4, 5)).state())
    wrong = {**state, lost: state[lost][None]}
    shapes = {name: list(each.shape) for name, each in wrong.items()}
    assert str(shapes) in error(gaussian().restore, bank_of(grids(1, 5)), wrong)
    del state[lost]
    assert "fit again" in error(gaussian().restore, bank_of(grids(1, 5)), state)


def test_missing_memory_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grids(4, 5)
    monkeypatch.setattr(device, "available", lambda device: HEIGHT * WIDTH * packed_size(5) * 12)
    streamed(grid)
    monkeypatch.setattr(device, "available", lambda device: HEIGHT * WIDTH * packed_size(5) * 12 - 1)
    with pytest.raises(pp.PatchcoreError, match=r"lower aggregator.channels"):
        streamed(grid)
    monkeypatch.setattr(device, "available", lambda device: 10**15)
    streamed(grid)
