"""Calls a function that an option names, if the user allows it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn

import patchcore_plugin as pp

from . import ALLOWED


def make_network(factory: str, arguments: Mapping[str, Any], seed: int) -> nn.Module:
    """Return the network that a factory makes, on the CPU.

    Nothing is imported unless the environment allows this very factory: the option may come from a model file, and
    loading one of a stranger's must not run what the stranger chose.

    Parameters
    ----------
    factory
        ``package.module:function``.
    arguments
        Its keyword arguments.
    seed
        What it draws from torch's own generator depends on this alone; the generator gets its state back.

    Raises
    ------
    OptionError
        If it is not allowed, is not there, fails, or returns something else.
    """
    allowed = [each.strip() for each in os.environ.get(ALLOWED, "").split(",")]
    if factory not in allowed:
        raise pp.OptionError(
            f"backbone module: factory {factory} is not allowed here, so nothing of it was imported; "
            f"if you trust its code and these arguments, name it in the environment: {ALLOWED}={factory}"
        )
    make = _import(factory)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            network = make(**arguments)
    except Exception as error:
        raise pp.OptionError(
            f"backbone module: factory {factory} failed with arguments {dict(arguments)}: {_told(error)}"
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
        advice = "install it, or say in which folder it lies: PYTHONPATH=FOLDER" if absent else "mend it"
        raise pp.OptionError(f"backbone module: {name} cannot be imported: {_told(error)}; {advice}") from error
    make: Callable[..., object] | None = getattr(module, attribute, None)
    if not callable(make):
        callables = [each for each in dir(module) if not each.startswith("_") and callable(getattr(module, each))]
        near = difflib.get_close_matches(attribute, callables, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise pp.OptionError(f"backbone module: {name} has no function or class '{attribute}'{hint}")
    return make


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
