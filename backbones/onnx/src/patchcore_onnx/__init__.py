"""Any ONNX feature extractor as a backbone, computed by ONNX Runtime.

Only `create` imports torch and onnxruntime.
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
    """Feature maps to use, by names of outputs; none for all outputs with four dimensions."""
    providers: Annotated[tuple[str, ...], MinLen(1)] | None = None
    """Execution providers of ONNX Runtime, in order of preference; none for CPU or, with --device cuda, CUDA."""
    mean: tuple[float, float, float] | None = None
    """Channel means to normalise the input with; none for those in the file, otherwise those of ImageNet."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Channel standard deviations, likewise."""
    threads: Annotated[int, Ge(1)] | None = None
    """Number of CPU threads; none for that of torch."""


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    """Return the backbone."""
    return [pp.BackboneSpec(name="onnx", config=Config, create=create, summary="any ONNX file: set backbone.file")]


def create(config: Config) -> OnnxFeatures:
    """Return the feature extractor of an ONNX file.

    Raises
    ------
    OptionError
        If a layer or an execution provider does not exist.
    WeightsError
        If the file is missing, damaged, or not a feature extractor.
    """
    from ._features import OnnxFeatures

    return OnnxFeatures(config)
