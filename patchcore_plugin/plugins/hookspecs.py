"""The four hooks. Each takes no arguments and returns a list of records.

A plugin is a module with one or more of these functions, marked with `hookimpl`, and an entry point in the group
``patchcore_plugin`` that names the module. Hooks return a list, not a generator, so errors occur when plugins are
loaded.

The host calls hooks through pluggy, one plugin at a time. ``hookimpl(tryfirst=True)`` lists the components of a plugin
before those of others, ``trylast=True`` after them. A wrapper (``hookimpl(wrapper=True)``) applies to the calls of all
other plugins and may change the lists that they return.

Examples
--------
>>> from types import SimpleNamespace
>>> import patchcore_plugin as pp
>>> @pp.hookimpl
... def patchcore_samplers():
...     return []
>>> host = pp.Host(entry_points=False, extra={"empty": SimpleNamespace(patchcore_samplers=patchcore_samplers)})
>>> host.plugins[-1].status
'loaded'
"""

from __future__ import annotations

import pluggy

from .specs import AggregatorSpec, BackboneSpec, SamplerSpec, ScorerSpec

PROJECT = "patchcore_plugin"
"""Project name in pluggy, and the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def patchcore_backbones() -> list[BackboneSpec]:
    '''Return the backbones of the plugin.

    A complete plugin::

        from dataclasses import dataclass
        import patchcore_plugin as pp

        @dataclass(frozen=True, kw_only=True)
        class Config:
            stride: int = 8
            """Pixels per patch."""

        def create(config):
            import torch

            class Colours:
                mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

                def __call__(self, images):
                    if images.ndim != 4 or images.shape[1] != 3:
                        raise pp.TensorError(f"colours: expected images [B, 3, H, W], got {list(images.shape)}")
                    return [torch.nn.functional.avg_pool2d(images, config.stride)]

                def to(self, device):
                    return self

                def weight_hash(self):
                    return pp.hash_weights({})

            return Colours()

        @pp.hookimpl
        def patchcore_backbones():
            return [pp.BackboneSpec(name="colours", config=Config, create=create, summary="mean colours")]
    '''
    raise NotImplementedError


@hookspec
def patchcore_aggregators() -> list[AggregatorSpec]:
    """Return the aggregators of the plugin.

    A complete plugin::

        from dataclasses import dataclass
        import patchcore_plugin as pp

        @dataclass(frozen=True, kw_only=True)
        class Config:
            pass

        def create(config):
            def finest_map(maps):
                if not maps:
                    raise pp.TensorError("finest: expected at least one feature map")
                return pp.Patches(grid=maps[0].permute(0, 2, 3, 1))

            return finest_map

        @pp.hookimpl
        def patchcore_aggregators():
            return [pp.AggregatorSpec(name="finest", config=Config, create=create, summary="the first map")]
    """
    raise NotImplementedError


@hookspec
def patchcore_samplers() -> list[SamplerSpec]:
    '''Return the samplers of the plugin.

    Set two optional fields of `SamplerSpec` if known, so the host need not create a sampler: ``keeps_all`` (it returns
    every row) and ``reduces`` (it can select from a bank and new patches).

    A complete plugin::

        from dataclasses import dataclass
        import patchcore_plugin as pp

        @dataclass(frozen=True, kw_only=True)
        class Config:
            step: int = 10
            """Keep every step-th patch."""

        def create(config):
            import torch

            def every(vectors):
                if vectors.ndim != 2 or len(vectors) == 0:
                    raise pp.TensorError(f"every: expected vectors [N, D], got {list(vectors.shape)}")
                return torch.arange(0, len(vectors), config.step, device=vectors.device)

            return every

        @pp.hookimpl
        def patchcore_samplers():
            return [pp.SamplerSpec(name="every", config=Config, create=create, summary="every n-th patch",
                                   keeps_all=False, reduces=False)]
    '''
    raise NotImplementedError


@hookspec
def patchcore_scorers() -> list[ScorerSpec]:
    """Return the scorers of the plugin.

    The optional field ``streaming`` of `ScorerSpec` states whether it is a `StreamingScorer`.

    A complete plugin::

        from dataclasses import dataclass
        import patchcore_plugin as pp

        @dataclass(frozen=True, kw_only=True)
        class Config:
            pass

        def create(config):
            class MeanDistance:
                centre = None

                def fit(self, bank):
                    self.centre = bank.vectors.mean(dim=0)

                def __call__(self, patches):
                    if self.centre is None or patches.grid.shape[-1] != len(self.centre):
                        raise pp.TensorError("mean: call fit first, with a bank of as many values as the patches")
                    distance = (patches.grid - self.centre).norm(dim=-1)
                    return pp.Scores(image=distance.flatten(1).amax(dim=1), map=distance)

                def state(self):
                    return {}

                def restore(self, bank, state):
                    self.fit(bank)

            return MeanDistance()

        @pp.hookimpl
        def patchcore_scorers():
            return [pp.ScorerSpec(name="mean", config=Config, create=create, summary="distance to the mean",
                                  streaming=False)]
    """
    raise NotImplementedError
