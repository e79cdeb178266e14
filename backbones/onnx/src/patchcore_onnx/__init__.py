"""Any ONNX feature extractor as a backbone, computed by ONNX Runtime.

A plugin for ``patchcore_plugin``: this module imports neither torch nor onnxruntime, `create` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, MinLen

import patchcore_plugin as pp

if TYPE_CHECKING:
    from ._features import OnnxFeatures

__all__ = ["Config", "patchcore_backbones"]

Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of an ONNX backbone."""

    file: str
    """Path of the .onnx file: one input, float32 [B, 3, H, W], and feature maps [B, C, h, w] among its outputs."""
    layers: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """Which feature maps, by the outputs' names; none for all outputs with four dimensions."""
    providers: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """ONNX Runtime's execution providers, in order of preference; none for the CPU's or, with --device cuda, CUDA's."""
    mean: tuple[float, float, float] | None = None
    """Channel means that the input is normalised with; none for what the file says, else ImageNet's."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Channel standard deviations, likewise."""
    threads: Annotated[int, Ge(1)] | None = None
    """Threads of one prediction on the CPU; none for as many as torch uses."""


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the backbone."""
    return [pp.BackboneSpec(name="onnx", config=Config, create=create, summary="any ONNX file: set backbone.file")]


def create(config: Config) -> OnnxFeatures:
    """Return the feature extractor of an ONNX file.

    Raises
    ------
    OptionError
        If the file has no such layers, or ONNX Runtime no such provider.
    WeightsError
        If the file is missing, damaged, or no feature extractor.
    """
    from ._features import OnnxFeatures

    return OnnxFeatures(config)
