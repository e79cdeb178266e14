"""What backbones made of torch modules share: running stage after stage, and seeded random weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from patchcore_plugin.errors import OptionError, TensorError

from .protocols import hash_weights


class StagedBackbone:
    """The first stages of a network, frozen; a `patchcore_plugin.plugins.protocols.Backbone`.

    Gradients, training mode and anything after the last stage are left out. Convolutions run channels-last, and
    the feature maps are returned so.

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
    fold
        Whether to fold each batch normalisation into the convolution that is registered right before it: equal
        maps up to rounding, in less time. Only for networks that use those convolutions for nothing else.

    Raises
    ------
    OptionError
        If `layers` is empty, names one twice, or names one that no stage has.
    """

    def __init__(
        self,
        name: str,
        stages: nn.Sequential,
        layers: Iterable[str],
        *,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        fold: bool = False,
    ) -> None:
        layers = tuple(layers)
        check_layers(name, layers, [stage for stage, _ in stages.named_children()])
        self.mean = mean
        self.std = std
        self._name = name
        self._layers = frozenset(layers)
        # Before the folding: models must load whether or not their backbone was folded.
        self._hash = hash_weights(stages.state_dict())
        stages.eval().requires_grad_(False)
        if fold:
            _fold_batch_norms(stages)
        for module in stages.modules():
            if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.padding == (0, 0):
                module.__class__ = _Pointwise
        # Convolutions on the CPU are 1.3 to 1.8 times as fast in this layout.
        self._stages = stages.to(memory_format=torch.channels_last)

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

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the feature maps, finest first."""
        return tuple(name for name, _ in self._stages.named_children() if name in self._layers)

    def to(self, device: torch.device | str) -> StagedBackbone:
        """Move the weights to `device` and return the backbone."""
        self._stages.to(device)
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the weights that were kept, as they were given."""
        return self._hash


def check_layers(name: str, layers: Sequence[str], available: Sequence[str]) -> None:
    """Refuse a choice of layers that the backbone `name` cannot serve.

    Raises
    ------
    OptionError
        If `layers` is empty, names one twice, or names one that is not `available`.
    """
    choices = ", ".join(available)
    if not layers:
        raise OptionError(f"backbone {name}: layers is empty; choose from {choices}")
    for index, layer in enumerate(layers):
        if layer not in available:
            near = difflib.get_close_matches(layer, available, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise OptionError(f"backbone {name}: layers has no '{layer}'{hint}; choose from {choices}")
        if layer in layers[:index]:
            raise OptionError(f"backbone {name}: layers names '{layer}' twice")


class _Pointwise(nn.Conv2d):
    """A 1 x 1 convolution that oneDNN computes on a single thread too.

    There torch's own choice copies channels-last maps back and forth, which makes a WideResNet a third slower.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Convolve by oneDNN where torch would not, and as torch chooses everywhere else."""
        if (
            torch.get_num_threads() > 1
            or torch.compiler.is_compiling()  # nothing but torch knows oneDNN's operator
            or input.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")
            or not torch.backends.mkldnn.is_available()
        ):
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, (0, 0), self.stride, self.dilation, self.groups)


def _fold_batch_norms(module: nn.Module) -> None:
    children = list(module.named_children())
    for (before, convolution), (name, norm) in pairwise(children):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, before, fuse_conv_bn_eval(convolution, norm))
            setattr(module, name, nn.Identity())
    for _, child in children:
        _fold_batch_norms(child)


def initialise(module: nn.Module, seed: int) -> None:
    """Fill a fresh network with weights that depend on `seed` alone, as ResNets are initialised.

    The generator is private: the process's random state has no influence and is left as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
