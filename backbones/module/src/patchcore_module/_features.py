"""Runs a network until the last layer asked for; imported by the backbone's `create` only."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import patchcore_plugin as pp

from . import Config
from ._factory import make_network
from ._weights import load_weights


class _Enough(Exception):  # noqa: N818
    """Ends a network's run once all layers have put out; never leaves this module."""


class ModuleFeatures:
    """Outputs of some submodules of a network, frozen; a `patchcore_plugin.Backbone`.

    Nothing after the last of them is computed, so a classifier for images of one size is not in the way of others.

    Parameters
    ----------
    network
        The network with its weights; it belongs to the backbone from now on.
    layers
        Names of submodules, as in ``named_modules``; of one that runs more than once, the first output counts.
    mean, std
        What the network's input is normalised with.
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
        """Compute the feature maps of normalised images.

        Parameters
        ----------
        images
            [B, 3, H, W], float32, on the backbone's device.

        Returns
        -------
        list of Tensor
            One map [B, C, h, w] per layer, floating point, finest first.

        Raises
        ------
        TensorError
            If `images` has another shape, or a layer puts out something else, or nothing.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise pp.TensorError(f"backbone module: expected images [B, 3, H, W], got {list(images.shape)}")
        found: dict[str, Tensor] = {}

        def keep(name: str, output: object) -> None:
            if name not in found:
                # A copy: what follows may work in place.
                found[name] = _feature_map(name, output, len(images)).clone()
            if len(found) == len(self._layers):
                raise _Enough

        hooks = [
            self._network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: keep(name, output)
            )
            for name in self._layers
        ]
        try:
            self._network(images)
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        idle = [name for name in self._layers if name not in found]
        if idle:
            raise pp.TensorError(
                f"backbone module: layers: {', '.join(idle)} did not run; choose layers that its forward calls"
            )
        maps = [found[name] for name in self._layers]
        return sorted(maps, key=lambda each: each.shape[2] * each.shape[3], reverse=True)

    def to(self, device: torch.device | str) -> ModuleFeatures:
        """Move the weights to `device` and return the backbone."""
        self._network.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the network's whole state dict."""
        return self._hash


def _feature_map(name: str, output: object, batch: int) -> Tensor:
    if isinstance(output, Tensor):
        if output.ndim == 4 and len(output) == batch and output.is_floating_point():
            return output
        got = f"{output.dtype} {list(output.shape)}".removeprefix("torch.")
    else:
        got = type(output).__name__
    raise pp.TensorError(
        f"backbone module: layer {name!r} must put out floating-point maps [B, C, h, w] of {batch} images, got {got}; "
        "choose another layer, or let the factory return a module that makes maps of it"
    )


def create_features(config: Config) -> ModuleFeatures:
    """Build the network, check the layers, and fill in the weights.

    Raises
    ------
    OptionError
        If the factory is not allowed, is not there or fails, or the network has no such layer.
    WeightsError
        If the weights are missing, unreadable, or those of another network.
    """
    network = make_network(config.factory, config.arguments, config.seed)
    _check_layers(config.layers, [name for name, _ in network.named_modules() if name])
    if config.weights != "factory":
        load_weights(network, config.weights, config.prefix)
    return ModuleFeatures(network, config.layers, mean=config.mean, std=config.std)


def _check_layers(layers: Sequence[str], available: Sequence[str]) -> None:
    for index, layer in enumerate(layers):
        if layer not in available:
            near = difflib.get_close_matches(layer, available, n=3)
            shown = near or [name for name in available if "." not in name]
            raise pp.OptionError(
                f"backbone module: layers: the network has no submodule '{layer}'; "
                f"{'near ones are' if near else 'at its top are'} {', '.join(shown)}"
            )
        if layer in layers[:index]:
            raise pp.OptionError(f"backbone module: layers names '{layer}' twice")
