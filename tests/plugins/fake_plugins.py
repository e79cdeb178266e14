"""Plugins for tests: sources of modules, and a sampler that selects the first rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import patchcore_plugin as pp

Install = Callable[..., Path]
"""The fixture `distribution`."""

BUILT_IN = {
    "backbone": [
        *("densenet201", "efficientnet_b4", "resnet101", "resnet18", "resnet50", "resnext101"),
        *("wide_resnet101", "wide_resnet50"),
    ],
    "aggregator": ["average-pool", "global-pool"],
    "sampler": ["all", "greedy-coreset", "random"],
    "scorer": ["faiss", "gaussian", "image-gaussian", "image-knn", "knn", "pyramid-knn"],
}

RECORD = 'pp.SamplerSpec(name="first", config=Config, create=create, summary="the first rows")'
GOOD = f"""
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        keep: int = 2

    def create(config):
        import torch
        return lambda vectors: torch.arange(config.keep)

    @pp.hookimpl
    def patchcore_samplers():
        return [{RECORD}]
"""
ALSO_ALL = GOOD.replace('"first"', '"all"')
"""Claims the name of a built-in sampler."""
BROKEN = "raise RuntimeError('no licence')"
MISSPELT = """
    import patchcore_plugin as pp

    @pp.hookimpl
    def patchcore_sampler():
        return []
"""
MISSPELT_REASON = (
    "unknown hook 'patchcore_sampler'; did you mean 'patchcore_samplers'? the hooks are: "
    "patchcore_backbones, patchcore_aggregators, patchcore_samplers, patchcore_scorers"
)


@dataclass(frozen=True, kw_only=True)
class Config:
    keep: int = 2


def first_rows(config: Config) -> pp.Sampler:
    def first(vectors: torch.Tensor) -> torch.Tensor:
        return torch.arange(config.keep)

    return first


def sampler(name: str = "first", **fields: Any) -> pp.SamplerSpec:
    """Return the record of a sampler."""
    record = {"name": name, "config": Config, "create": first_rows, "summary": "the first rows", **fields}
    return pp.SamplerSpec(**record)


def plugin(records: Callable[[], Any], hook: str = "patchcore_samplers", **order: bool) -> object:
    """Return a plugin object with one hook; `order` is tryfirst or trylast."""

    def implementation() -> Any:
        return records()

    return SimpleNamespace(**{hook: pp.hookimpl(implementation, specname=hook, **order)})


def host_with(records: Callable[[], Any], hook: str = "patchcore_samplers", **options: Any) -> pp.Host:
    """Return a host of the built-in plugins and one called ``mine``."""
    return pp.Host(entry_points=False, extra={"mine": plugin(records, hook)}, **options)


def found(host: pp.Host, name: str) -> pp.Plugin:
    """Return a plugin of a host by name."""
    (plugin,) = (plugin for plugin in host.plugins if plugin.name == name)
    return plugin


def select(host: pp.Host, name: str = "first", **options: Any) -> list[int]:
    """Return which of nine rows a sampler selects."""
    rows: list[int] = host.create("sampler", name, **options)(torch.zeros(9, 1)).tolist()
    return rows


def built_in_works(host: pp.Host) -> bool:
    """Return whether all built-in components are there and one of them can be created."""
    return select(host, "all") == list(range(9)) and all(
        set(names) <= set(host.names(role)) for role, names in BUILT_IN.items()
    )


def error(call: Callable[..., Any], *args: Any, kind: type[Exception] = pp.PluginError, **kwargs: Any) -> str:
    """Return the message of an expected error of exactly that class."""
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)
