"""Runs a network up to the last requested layer; imported by `create` only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import patchcore_plugin as pp

from . import Config
from ._factory import make_network
from ._weights import load_weights


class _StopForward(Exception):  # noqa: N818
    """Ends the forward pass once all layers have run; caught in this module."""


class ModuleFeatures:
    """Outputs of submodules of a frozen network, as a `patchcore_plugin.Backbone`.

    Nothing after the last of them runs, so a classifier does not restrict the size of images.

    Parameters
    ----------
    network
        The network with its weights; modified in place.
    layers
        Names of submodules, as in ``named_modules``; if one runs more than once, its first output is used.
    mean, std
        Normalisation of the input.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.mean = mean
        self.std = std
        self._layers = tuple(layers)
        self._network = network.float().eval().requires_grad_(False)
        self._hash = pp.hash_weights(network.state_dict())

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
            One map [B, C, h, w] per layer, floating point, finest first.

        Raises
        ------
        TensorError
            If `images` has another shape, or a layer returns something else or does not run.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise pp.TensorError(f"backbone module: expected images [B, 3, H, W], got {list(images.shape)}")
        outputs: dict[str, Tensor] = {}

        def keep(name: str, output: object) -> None:
            if name not in outputs:
                # A copy, because later layers may modify it in place.
                outputs[name] = _feature_map(name, output, len(images)).clone()
            if len(outputs) == len(self._layers):
                raise _StopForward

        hooks = [
            self._network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: keep(name, output)
            )
            for name in self._layers
        ]
        try:
            self._network(images)
        except _StopForward:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        idle = [name for name in self._layers if name not in outputs]
        if idle:
            raise pp.TensorError(
                f"backbone module: layers: {', '.join(idle)} did not run; choose layers that its forward calls"
            )
        maps = [outputs[name] for name in self._layers]
        return sorted(maps, key=lambda features: features.shape[2] * features.shape[3], reverse=True)

    def to(self, device: torch.device | str) -> ModuleFeatures:
        """Move the weights to `device` and return the backbone."""
        self._network.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the whole state dict."""
        return self._hash


def _feature_map(name: str, output: object, batch: int) -> Tensor:
    if isinstance(output, Tensor):
        if output.ndim == 4 and len(output) == batch and output.is_floating_point():
            return output
        got = f"{output.dtype} {list(output.shape)}".removeprefix("torch.")
    else:
        got = type(output).__name__
    raise pp.TensorError(
        f"backbone module: layer {name!r} must return floating-point maps [B, C, h, w] of {batch} images, got {got}; "
        "choose another layer, or let the factory return a module that converts it to maps"
    )


def create_features(config: Config) -> ModuleFeatures:
    """Create the network, check its layers, and load its weights.

    Raises
    ------
    OptionError
        If the factory is not allowed, does not exist or fails, or the network has no such layer.
    WeightsError
        If the weights are missing, unreadable, or belong to another network.
    """
    network = make_network(config.factory, config.arguments, config.seed)
    _check_layers(config.layers, [name for name, _ in network.named_modules() if name])
    if config.weights != "factory":
        load_weights(network, config.weights, config.prefix)
    return ModuleFeatures(network, config.layers, mean=config.mean, std=config.std)


def _check_layers(layers: Sequence[str], available: Sequence[str]) -> None:
    for index, layer in enumerate(layers):
        if layer not in available:
            choices = difflib.get_close_matches(layer, available, n=3) or [
                name for name in available if "." not in name
            ]
            raise pp.OptionError(
                f"backbone module: layers: the network has no submodule {layer!r}; choose from {', '.join(choices)}"
            )
        if layer in layers[:index]:
            raise pp.OptionError(f"backbone module: layers has {layer!r} twice; remove one")
