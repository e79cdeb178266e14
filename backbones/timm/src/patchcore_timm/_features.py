"""Timm models up to the last requested layer; imported by `create` only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.errors import did_you_mean

from ._weights import load_file, load_pretrained


class TimmFeatures:
    """Feature maps of a frozen timm model, as a `patchcore_plugin.Backbone`.

    Layers after the last one are removed. Class, register and distillation tokens are dropped, and patch tokens are
    arranged on their grid.

    Parameters
    ----------
    model
        Name of the model, for messages.
    network
        The model with its weights; modified in place.
    indices
        Numbers of its feature maps, ascending.
    any_size
        Whether position embeddings and windows adapt to the size of images.
    """

    def __init__(self, model: str, network: Any, indices: Sequence[int], *, any_size: bool) -> None:
        config = network.pretrained_cfg
        self.mean: tuple[float, float, float] = tuple(config["mean"])
        self.std: tuple[float, float, float] = tuple(config["std"])
        self._model = model
        self._any_size = any_size
        self._native: tuple[int, int] = tuple(config["input_size"][-2:])
        self._multiple: int = max(info["reduction"] for info in network.feature_info)
        self._indices: list[int] = network.prune_intermediate_layers(list(indices), prune_norm=True, prune_head=True)
        self._hash = pp.hash_weights(network.state_dict())
        network.eval().requires_grad_(False)
        # Convolutions on the CPU are faster in this layout.
        self._network = network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised images.

        Parameters
        ----------
        images
            [B, 3, H, W], float32, on the device of the backbone.

        Returns
        -------
        list of Tensor
            One map [B, C, h, w] per layer, float32, finest first; several may have the same grid.

        Raises
        ------
        TensorError
            If `images` has another shape, or a size that the model does not support.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise pp.TensorError(f"backbone timm: expected images [B, 3, H, W], got {list(images.shape)}")
        try:
            maps: list[Tensor] = self._network.forward_intermediates(
                images.contiguous(memory_format=torch.channels_last),
                indices=self._indices,
                stop_early=True,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        except torch.cuda.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            # Families of models refuse sizes with different exceptions. With the native size, the cause is another one.
            height, width = images.shape[-2:]
            if (height, width) == self._native:
                raise
            raise pp.TensorError(self._refusal(height, width, error)) from error
        return maps

    def to(self, device: torch.device | str) -> TimmFeatures:
        """Move the weights to `device` and return the backbone."""
        self._network.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the weights of all remaining layers."""
        return self._hash

    def _refusal(self, height: int, width: int, error: Exception) -> str:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        size = self._native
        if self._any_size:
            size = (self._nearest_multiple(height), self._nearest_multiple(width))
        return (
            f"backbone timm: {self._model} does not support images of {height} x {width} ({reason}); "
            f"set preprocessing.size={size[0]},{size[1]}, or preprocessing.crop if the recipe crops"
        )

    def _nearest_multiple(self, length: int) -> int:
        return max(1, round(length / self._multiple)) * self._multiple


def create_features(model: str, *, layers: Sequence[int | str] | None, weights: str, seed: int) -> TimmFeatures:
    """Return a timm model up to the last of `layers` as a backbone.

    Parameters
    ----------
    model
        Name of the model, with or without a tag.
    layers
        Indices or names in ``feature_info`` of the model, in any order; None for the default.
    weights
        "pretrained", "random", or the path of a file.
    seed
        Seed of "random".

    Raises
    ------
    OptionError
        If the model or a layer does not exist.
    WeightsError
        If the weights are missing, unreadable, or belong to another network.
    """
    _check_model(model)
    outline, options = _outline(model)
    indices = _indices(model, outline.feature_info, layers)
    if weights == "pretrained":
        network = load_pretrained(model, lambda **source: _build(model, "cpu", 0, **options, **source))
    else:
        network = _build(model, "cpu", seed, **options)
        if weights != "random":
            load_file(model, network, weights)
    return TimmFeatures(model, network, indices, any_size=bool(options))


def _build(model: str, device: str, seed: int, **options: Any) -> Any:
    """Return a timm model without its classifier, with random weights from `seed`."""
    # timm uses the default generator of torch; its state is restored afterwards.
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        return timm.create_model(model, num_classes=0, **options)


def _outline(model: str) -> tuple[Any, dict[str, Any]]:
    """Return the model on the device "meta", and the options that enable images of any size."""
    options = {"dynamic_img_size": True}
    try:
        return _build(model, "meta", 0, **options), options
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
    return _build(model, "meta", 0), {}


def _check_model(model: str) -> None:
    architecture, _, tag = model.partition(".")
    known = timm.list_models()
    if architecture not in known:
        raise pp.OptionError(
            f"backbone timm: timm {timm.__version__} has no model {architecture!r}; {did_you_mean(architecture, known)}"
            "list all with python -c 'import timm; print(*timm.list_models())'"
        )
    tags = [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        choices = f"choose from {', '.join(tags)}" if tags else "it has none"
        raise pp.OptionError(f"backbone timm: model {architecture} has no tag {tag!r}; {choices}")


def _indices(model: str, infos: Sequence[dict[str, Any]], layers: Sequence[int | str] | None) -> list[int]:
    """Return the indices of `layers`, ascending: timm lists feature maps from fine to coarse."""
    if layers is None:
        return _default_indices(infos)
    names = [info["module"] for info in infos]
    choices = f"choose from {', '.join(names)}, or 0 to {len(names) - 1}"
    if not layers:
        raise pp.OptionError(f"backbone timm: layers is empty; {model} has several: {choices}")
    indices = []
    for layer in layers:
        if isinstance(layer, str) and layer in names:
            index = names.index(layer)
        elif isinstance(layer, int) and 0 <= layer < len(names):
            index = layer
        else:
            hint = did_you_mean(str(layer), names)
            raise pp.OptionError(f"backbone timm: layers: {model} has no {layer!r}; {hint}{choices}")
        if index in indices:
            raise pp.OptionError(f"backbone timm: layers has {names[index]!r} twice; remove one")
        indices.append(index)
    return sorted(indices)


def _default_indices(infos: Sequence[dict[str, Any]]) -> list[int]:
    """Return the middle layers, as PatchCore uses them: strides 8 and 16, or blocks at 1/2 and 3/4 of the depth.

    In a plain transformer, all blocks share one grid. The first blocks depend on little more than the patch itself, the
    last ones are specialised on the training task, so the middle ones correspond to stages 2 and 3 of a ResNet.
    """
    strides = [info["reduction"] for info in infos]
    if len(set(strides)) > 1:
        indices = [strides.index(stride) for stride in (8, 16) if stride in strides]
        if indices:
            return indices
    return sorted({max(0, len(strides) // 2 - 1), max(0, 3 * len(strides) // 4 - 1)})
