"""What backbones made of torch modules share: running stage after stage, and seeded random weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .errors import TensorError
from .roles import hash_weights


class StagedBackbone:
    """The first stages of a network, frozen; a `patchcore_plugin.roles.Backbone`.

    Gradients, training mode and anything after the last stage are left out; convolutions run channels-last.

    Parameters
    ----------
    name
        The backbone's name, for messages.
    stages
        What to compute, in order, by name; nothing follows the last layer of interest.
    layers
        Names of the stages whose outputs are the feature maps.
    mean, std
        What the network's input is normalised with; those of ImageNet by default.
    """

    def __init__(
        self,
        name: str,
        stages: nn.Sequential,
        layers: Iterable[str],
        *,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        self.mean = mean
        self.std = std
        self._name = name
        self._layers = frozenset(layers)
        # Convolutions on the CPU are 1.3 to 1.8 times as fast in this layout.
        self._stages = stages.eval().requires_grad_(False).to(memory_format=torch.channels_last)

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
            One map [B, C, h, w] per layer, float32, finest first.

        Raises
        ------
        TensorError
            If `images` has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise TensorError(f"backbone {self._name}: expected images [B, 3, H, W], got {list(images.shape)}")
        x = images.contiguous(memory_format=torch.channels_last)
        maps = []
        for name, stage in self._stages.named_children():
            x = stage(x)
            if name in self._layers:
                maps.append(x)
        return maps

    def to(self, device: torch.device | str) -> StagedBackbone:
        """Move the weights to `device` and return the backbone."""
        self._stages.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the weights that are kept."""
        return hash_weights(self._stages.state_dict())


def initialise(module: nn.Module, seed: int) -> None:
    """Fill a fresh network with weights that depend on `seed` alone, as ResNets are initialised.

    The generator is private: the process's random state has no influence and is left as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
