"""Feature maps of an ONNX file, computed by ONNX Runtime; imported by `create` only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.errors import did_you_mean

from . import Config
from ._file import read

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MAP_TYPES = ("tensor(float)", "tensor(float16)")
SILENT = 4
"""Log level of ONNX Runtime: fatal errors only, because all errors are raised too."""


class OnnxFeatures:
    """The feature maps of an ONNX file, as a `patchcore_plugin.Backbone`.

    Raises
    ------
    OptionError
        If a layer or an execution provider does not exist.
    WeightsError
        If the file is missing, damaged, or not a feature extractor.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._check_providers()
        file = read(config.file)
        self._path = file.path
        self._hash = file.digest
        self.mean = config.mean or file.mean or IMAGENET_MEAN
        self.std = config.std or file.std or IMAGENET_STD
        self._session = self._open([(provider, {}) for provider in config.providers or (CPU,)])
        self._input, self._batch, self._size = self._read_input()
        self.layers = self._read_layers()

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of normalised images.

        Parameters
        ----------
        images
            [B, 3, H, W], float32.

        Returns
        -------
        list of Tensor
            One map [B, C, h, w] per layer, float32, on the device of the images, finest first.

        Raises
        ------
        TensorError
            If `images` has another shape or an unsupported size, or the file returns no feature maps.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise pp.TensorError(f"backbone onnx: expected images [B, 3, H, W], got {list(images.shape)}")
        self._check_size(*images.shape[2:])
        inputs = images.detach().to("cpu", torch.float32).numpy()
        maps = [torch.from_numpy(array).to(images.device, torch.float32) for array in self._run(inputs)]
        return sorted(maps, key=lambda features: -features.shape[2] * features.shape[3])

    def to(self, device: torch.device | str) -> OnnxFeatures:
        """Compute on `device` unless the option ``providers`` is set, and return the backbone.

        Raises
        ------
        TensorError
            If ONNX Runtime cannot compute there.
        """
        device = torch.device(device)
        if self._config.providers is not None:
            return self
        if device.type == "cpu":
            if self._session.get_providers() != [CPU]:
                self._session = self._open([(CPU, {})])
        elif device.type == "cuda":
            session = None
            if CUDA in onnxruntime.get_available_providers():
                session = self._open([(CUDA, {"device_id": device.index or 0})])
            if session is None or CUDA not in session.get_providers():  # it falls back to the CPU silently
                raise pp.TensorError(
                    f"backbone onnx: ONNX Runtime cannot compute on {device}; install onnxruntime-gpu instead of "
                    f"onnxruntime, use --device cpu, or --set backbone.providers={CPU}, for features on the CPU"
                )
            self._session = session
        else:
            raise pp.TensorError(
                f"backbone onnx: no execution provider for device {device}; "
                f"set backbone.providers to one of {', '.join(onnxruntime.get_available_providers())}"
            )
        return self

    def weight_hash(self) -> str:
        """Return the SHA-256 of the file and of its external weights."""
        return self._hash

    def _run(self, inputs: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return the maps of all images, computed in batches of the size that the file requires."""
        step = self._batch or len(inputs)
        parts = []
        for start in range(0, len(inputs), step):
            part = inputs[start : start + step]
            fill = np.repeat(part[-1:], step - len(part), axis=0)
            try:
                maps = self._session.run(list(self.layers), {self._input: np.concatenate([part, fill])})
            except Exception as error:  # the exceptions of ONNX Runtime have no common base
                raise pp.TensorError(
                    f"backbone onnx: {self._path} fails on images {list(inputs.shape)} ({_first_line(error)}); "
                    "try another preprocessing.size"
                ) from error
            for layer, each in zip(self.layers, maps, strict=True):
                if each.ndim != 4 or len(each) != step:
                    raise pp.TensorError(
                        f"backbone onnx: output {layer!r} of {self._path}: expected [{step}, C, h, w], "
                        f"got {list(each.shape)}; choose others with backbone.layers"
                    )
            parts.append([each[: len(part)] for each in maps])
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def _open(self, providers: Sequence[tuple[str, dict[str, int]]]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        options.use_deterministic_compute = True
        options.intra_op_num_threads = self._config.threads or torch.get_num_threads()
        try:
            return onnxruntime.InferenceSession(str(self._path), options, providers=list(providers))
        except Exception as error:  # the exceptions of ONNX Runtime have no common base
            raise pp.WeightsError(
                f"backbone onnx: {self._path} cannot be loaded ({_first_line(error)}); copy it again from its source, "
                "or export it for this version of ONNX Runtime"
            ) from error

    def _check_providers(self) -> None:
        available = onnxruntime.get_available_providers()
        for provider in self._config.providers or ():
            if provider not in available:
                raise pp.OptionError(
                    f"backbone onnx: unknown provider {provider!r}; {did_you_mean(provider, available)}"
                    f"available: {', '.join(available)}"
                )

    def _read_input(self) -> tuple[str, int | None, tuple[int | None, int | None]]:
        """Return name, batch and size of the input; None for variable dimensions."""
        inputs = self._session.get_inputs()
        shapes = "; ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        first = inputs[0] if len(inputs) == 1 else None
        # An empty shape means that even the number of dimensions is unknown.
        shape = (first.shape or [None] * 4) if first is not None else []
        if (
            first is None
            or first.type != "tensor(float)"
            or len(shape) != 4
            or _fixed_length(shape[1]) not in (3, None)
        ):
            raise pp.WeightsError(
                f"backbone onnx: {self._path}: expected one input, float32 [B, 3, H, W], found {shapes or 'none'}"
            )
        return first.name, _fixed_length(shape[0]), (_fixed_length(shape[2]), _fixed_length(shape[3]))

    def _read_layers(self) -> tuple[str, ...]:
        maps: list[str] = []
        others: list[str] = []
        for each in self._session.get_outputs():
            is_map = each.type in MAP_TYPES and len(each.shape or [None] * 4) == 4
            (maps if is_map else others).append(each.name)
        if not maps:
            raise pp.WeightsError(
                f"backbone onnx: {self._path}: no output is a feature map, float32 or float16 [B, C, h, w]; "
                f"it has: {', '.join(others)}; cut it, for example with onnx.utils.extract_model"
            )
        layers = self._config.layers or tuple(maps)
        for index, layer in enumerate(layers):
            if layer not in maps:
                problem = "is not a feature map [B, C, h, w]" if layer in others else "is not an output"
                raise pp.OptionError(
                    f"backbone onnx: layers: {layer!r} {problem} of {self._path}; {did_you_mean(layer, maps)}"
                    f"choose from {', '.join(maps)}"
                )
            if layer in layers[:index]:
                raise pp.OptionError(f"backbone onnx: layers has {layer!r} twice; remove one")
        return layers

    def _check_size(self, height: int, width: int) -> None:
        size = (self._size[0] or height, self._size[1] or width)
        if size != (height, width):
            raise pp.TensorError(
                f"backbone onnx: {self._path} supports images of {size[0]} x {size[1]} only, got {height} x {width}; "
                f"set preprocessing.size={size[0]},{size[1]}"
            )


def _fixed_length(dimension: int | str | None) -> int | None:
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__
