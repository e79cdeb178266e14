"""Calls of a function that an option names, if the user allows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

import patchcore_plugin as pp
from patchcore_plugin.errors import did_you_mean, one_line

from . import ALLOWED


def make_network(factory: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """Return the network that a factory creates, on the CPU.

    Nothing is imported unless the environment allows this factory: the option may come from an untrusted model file.

    Parameters
    ----------
    factory
        ``package.module:function``.
    arguments
        Its keyword arguments.
    seed
        Seed of torch's default generator for the call; its state is restored afterwards.

    Raises
    ------
    OptionError
        If the factory is not allowed, does not exist, fails, or returns something else.
    """
    allowed = [name.strip() for name in os.environ.get(ALLOWED, "").split(",")]
    if factory not in allowed:
        raise pp.OptionError(
            f"backbone module: factory {factory} is not allowed and was not imported; "
            f"if you trust its code and these arguments, set {ALLOWED}={factory}"
        )
    function = _import(factory)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            network = function(**arguments)
    except Exception as error:
        raise pp.OptionError(
            f"backbone module: factory {factory} failed with arguments {dict(arguments)}: {_describe(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise pp.OptionError(
            f"backbone module: factory {factory} must return a torch.nn.Module, got {type(network).__name__}"
        )
    return network


def _import(factory: str) -> Callable[..., object]:
    name, _, attribute = factory.partition(":")
    try:
        module = import_module(name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name in (name, name.partition(".")[0])
        advice = "install it, or set PYTHONPATH to its folder" if absent else "fix it"
        raise pp.OptionError(f"backbone module: cannot import {name}: {_describe(error)}; {advice}") from error
    function: Callable[..., object] | None = getattr(module, attribute, None)
    if not callable(function):
        hint = did_you_mean(attribute, [key for key in dir(module) if key[0] != "_" and callable(getattr(module, key))])
        raise pp.OptionError(
            f"backbone module: {name} has no function or class {attribute!r}; {hint}set backbone.factory"
        )
    return function


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__
