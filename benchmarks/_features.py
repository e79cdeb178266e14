"""Inputs of the benchmarks: patch features of synthetic images, cached in `CACHE`, and difficult synthetic vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import patchcore_plugin as pp
from benchmarks._vectors import patch_features
from patchcore_plugin.data.images import read_image
from patchcore_plugin.data.synthetic import draw_dataset
from patchcore_plugin.kernels.coreset import greedy_coreset
from patchcore_plugin.kernels.embedding import adaptive_embedding, average_embedding

CACHE = Path(".benchmarks/features")
IMAGES = 205
"""Images of 224 x 224 pixels with 28 x 28 patches each: 160,720 patches."""
PER_SEED = 41
KINDS = ("parts", "turned")
"""Images as drawn, with each part at about the same place; and random crops of them, rotated and shifted."""

Image = NDArray[np.uint8]


def mostly_copies(count: int, dims: int) -> Tensor:
    """Return patch features of which nine in ten are copies of a few, like those of a flat background."""
    vectors = patch_features(count, dims)
    few = max(1, count // 500)
    copies = torch.arange(count) % 10 > 0
    vectors[copies] = vectors[:few].repeat(-(-count // few), 1)[:count][copies]
    return vectors


def one_far_outlier(count: int, dims: int) -> Tensor:
    """Return patch features with one outlier, so far away that float32 and codes cannot tell the others apart."""
    vectors = patch_features(count, dims)
    vectors[count // 2] = 1e7
    return vectors


def load_or_compute(name: str, make: Callable[[], Tensor]) -> Tensor:
    """Return the cached tensor of a name, computed by `make` the first time."""
    path = CACHE / f"{name}.pt"
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        torch.save(make(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    tensor: Tensor = torch.load(path, weights_only=True)
    return tensor


def images(count: int, size: int, *, kind: str = "parts", test: bool = False) -> list[Image]:
    """Return synthetic images [size, size, 3], equal for equal arguments; half of a test set is defective."""

    def draw() -> Tensor:
        images: list[Image] = []
        for seed in range(-(-count // PER_SEED)):
            with tempfile.TemporaryDirectory() as folder:
                root = draw_dataset(
                    folder,
                    seed=seed + 1000 * test,
                    train=1 if test else PER_SEED,
                    size=size,
                    good=PER_SEED if test else 1,
                    defective=PER_SEED if test else 1,
                )
                paths = sorted(root.glob("test/good/*.png" if test else "train/good/*.png"))
                if test:
                    defective = [path for path in sorted(root.glob("test/*/*.png")) if path.parent.name != "good"]
                    every = len(defective) // len(paths)
                    paths = [path for pair in zip(paths, defective[::every], strict=False) for path in pair]
                images += [np.asarray(read_image(path), dtype=np.uint8) for path in paths]
        return torch.from_numpy(np.stack(images[:count]))

    drawn = load_or_compute(f"images-{count}-{size}{'-test' if test else ''}", draw).numpy()
    if kind == "turned":
        rng = np.random.default_rng(int(test))
        drawn = np.stack([_rotate(image, rng) for image in drawn])
    return list(drawn)


def _rotate(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    centre = rng.uniform(0.3, 0.7, 2) * size
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), rng.uniform(0, 360), 2.0)
    matrix[:, 2] += size / 2 - centre
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT), dtype=np.uint8)


def component(role: str, name: str, **options: Any) -> Any:
    """Return a component of an installed plugin."""
    host = pp.Host()
    return host.build(role, name, host.configure(role, name, options))


def efficientnet_maps(batch: Sequence[Image]) -> list[Tensor]:
    """Return stages 3 to 6 of EfficientNet-Lite0 with its ImageNet weights."""
    return _maps(component("backbone", "efficientnet-lite0", layers=("stage3", "stage4", "stage5", "stage6")), batch)


def wide_resnet_maps(batch: Sequence[Image]) -> list[Tensor]:
    """Return layers 2 and 3 of wide_resnet50 with random weights, the same each time."""
    return _maps(component("backbone", "wide_resnet50", weights="random"), batch)


def _maps(backbone: Any, batch: Sequence[Image]) -> list[Tensor]:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    return list(backbone((torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255 - mean) / std))


EMBEDDED: dict[int, Callable[[Sequence[Image]], Tensor]] = {
    1024: lambda batch: adaptive_embedding(efficientnet_maps(batch), 3, 1, 1024, "bilinear"),
    1536: lambda batch: average_embedding(wide_resnet_maps(batch), 3, 1, "bilinear"),
}


def patch_vectors(dims: int, *, kind: str = "parts", test: bool = False) -> Tensor:
    """Return patch vectors, float32: [160,720, dims], or [6,272, dims] of test images.

    For 1024 values, the embedding of the authors of stages 3 to 6 of EfficientNet-Lite0 with its ImageNet weights. For
    1536, the averages of the paper of layers 2 and 3 of wide_resnet50 with random weights. For any other number, the
    first after the Gaussian random projection that the authors apply before the selection.
    """
    name = f"{kind}{'-test' if test else ''}-{dims}"
    if dims in EMBEDDED:
        return load_or_compute(name, lambda: _embed(dims, images(8 if test else IMAGES, 224, kind=kind, test=test)))
    projection = torch.randn(1024, dims, generator=torch.Generator().manual_seed(0)) / dims**0.5
    return load_or_compute(name, lambda: patch_vectors(1024, kind=kind, test=test) @ projection)


def _embed(dims: int, images: Sequence[Image]) -> Tensor:
    out: Tensor | None = None
    for first in range(0, len(images), 8):
        patches = EMBEDDED[dims](images[first : first + 8])
        if out is None:  # allocated once: concatenation would hold all parts twice
            out = torch.empty(len(images), *patches.shape[1:])
        out[first : first + 8] = patches
    assert out is not None
    return out.flatten(0, 2)


def bank(rows: int, kind: str, dims: int = 1024) -> Tensor:
    """Return a bank [rows, dims]: a greedy coreset of the patch vectors or, above a tenth of them, random ones.

    The patches are the same for every number of dimensions: they are selected with 128.
    """

    def choose() -> Tensor:
        vectors = patch_vectors(dims, kind=kind)
        if 10 * rows > len(vectors):
            return vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:rows]]
        return vectors[greedy_coreset(patch_vectors(128, kind=kind), rows)[0]]

    return load_or_compute(f"{kind}-bank-{rows}{'' if dims == 1024 else f'-{dims}'}", choose)
