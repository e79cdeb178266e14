"""Helpers for authors of backbones: staged networks, seeded random weights, and weights from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from patchcore_plugin.errors import OptionError, TensorError, WeightsError, did_you_mean

from .protocols import hash_weights

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts store the tensors of the network in a checkpoint."""


class StagedBackbone:
    """The first stages of a network, frozen, as a `Backbone`.

    Convolutions run channels-last, and feature maps are returned in that layout.

    Parameters
    ----------
    name
        Name of the backbone, for messages.
    stages
        Modules to run in order, by name, up to the last layer of interest.
    layers
        Names of the stages whose outputs are the feature maps.
    mean, std
        Normalisation of the network's input; by default that of ImageNet.
    fold
        Whether to fold each batch normalisation into the convolution registered right before it. Maps are equal up to
        rounding and take less time. Only for networks that use those convolutions for nothing else.

    Raises
    ------
    OptionError
        If `layers` is empty, repeats a name, or names a stage that does not exist.

    Examples
    --------
    >>> import torch
    >>> stages = torch.nn.Sequential()
    >>> stages.add_module("stem", torch.nn.Conv2d(3, 8, 4, stride=4))
    >>> backbone = StagedBackbone("tiny", stages, ["stem"])
    >>> [list(features.shape) for features in backbone(torch.zeros(1, 3, 32, 32))]
    [[1, 8, 8, 8]]
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
        # Before folding: model files must load whether or not their backbone was folded.
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
        """Return the feature maps of normalised images.

        Parameters
        ----------
        images
            [B, 3, H, W], float32, on the device of the backbone.

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
        """Return the SHA-256 of the weights of all stages, as passed to the constructor."""
        return self._hash


def check_layers(name: str, layers: Sequence[str], available: Sequence[str]) -> None:
    """Check the option ``layers`` of the backbone `name`.

    Parameters
    ----------
    name
        Name of the backbone.
    layers
        Names of the layers, as given by the user.
    available
        All layers of the backbone.

    Raises
    ------
    OptionError
        If `layers` is empty, repeats a name, or has a name that is not `available`.
    """
    choices = ", ".join(available)
    if not layers:
        raise OptionError(f"backbone {name}: layers is empty; choose from {choices}")
    for index, layer in enumerate(layers):
        if layer not in available:
            hint = did_you_mean(layer, available)
            raise OptionError(f"backbone {name}: unknown layer {layer!r}; {hint}choose from {choices}")
        if layer in layers[:index]:
            raise OptionError(f"backbone {name}: layers has {layer!r} twice; remove one")


class _Pointwise(nn.Conv2d):
    """A 1 x 1 convolution that uses oneDNN on a single thread too.

    With one thread, torch chooses an algorithm that copies channels-last maps back and forth. A WideResNet then takes
    a third longer.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Convolve with oneDNN on one CPU thread, and with torch's choice otherwise."""
        if (
            torch.get_num_threads() > 1
            or torch.compiler.is_compiling()  # the operator of oneDNN cannot be exported
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
    """Fill a network with random weights, initialised like those of a ResNet.

    The weights depend on `seed` alone. The random state of the process is neither used nor changed.

    Parameters
    ----------
    module
        Network with convolutions and batch normalisations, modified in place.
    seed
        Seed of a private generator.

    Examples
    --------
    >>> import torch
    >>> layers = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(3, 8, 3)
    >>> for layer in layers:
    ...     initialise(layer, seed=0)
    >>> torch.equal(layers[0].weight, layers[1].weight)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def read_weights(path: str | Path, owner: str, choices: str) -> dict[str, Tensor]:
    """Return the named tensors in a weights file, without running code from it.

    Parameters
    ----------
    path
        A .safetensors file, or a .pth file with a state dict or with a checkpoint that contains one.
    owner
        The component that needs the weights, for messages: ``backbone resnet18``.
    choices
        What to pass instead of a missing file, for messages.

    Raises
    ------
    WeightsError
        If the file does not exist, cannot be read without running its pickle, or holds something else.

    Examples
    --------
    >>> read_weights("missing.pth", "backbone resnet18", "imagenet or a path")
    Traceback (most recent call last):
    patchcore_plugin.errors.WeightsError: backbone resnet18: weights: no file missing.pth; pass imagenet or a path
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{owner}: weights: no file {path}; pass {choices}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own exceptions for a damaged file
        raise WeightsError(
            f"{owner}: weights: {path} cannot be read as a .pth or .safetensors file of tensors "
            f"({type(error).__name__}); save one with torch.save(network.state_dict(), PATH)"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(
            f"{owner}: weights: {path} does not contain named tensors; "
            "save the network with torch.save(network.state_dict(), PATH)"
        )
    return dict(content)


def differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> str:
    """Return how two state dicts differ in names and shapes, in one line.

    Parameters
    ----------
    expected
        Tensors of the network, by name.
    actual
        Tensors of a file, by name.

    Returns
    -------
    str
        Counts and first names of missing, unexpected and differently shaped tensors; empty if there are none.

    Examples
    --------
    >>> import torch
    >>> differences({"weight": torch.zeros(2)}, {"bias": torch.zeros(2)})
    '1 missing (weight); 1 unexpected (bias)'
    """
    missing = [key for key in expected if key not in actual]
    unexpected = [key for key in actual if key not in expected]
    mismatched = [key for key in expected if key in actual and actual[key].shape != expected[key].shape]
    return "; ".join(
        f"{len(keys)} {problem} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
        for problem, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    )
