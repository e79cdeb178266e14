"""Checks of the behaviour of all roles. They use `example`, `run` and `image` of the module of a role.

``example(subject)`` returns input tensors. ``run(subject, component, tensors)`` calls a component, checks the form of
its result, and returns the tensors of the result. ``image(tensors, number)`` returns the input of one image.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.plugins.discovery import failure_reason
from patchcore_plugin.plugins.specs import Capabilities

from .check import Subject, UnavailableError
from .spec_checks import limits
from .tensors import are_close, are_identical, detect_changes


def role_module(role: str) -> Any:
    """Return the module with the checks of a role."""
    return import_module(f"{__package__}.{role}")


def can_be_created(subject: Subject) -> None:
    """Return a component of the role from `create`."""
    _ = subject.instance


def input_stays_unchanged(subject: Subject) -> None:
    """Modify no input tensor."""
    role = role_module(subject.role)
    tensors = role.example(subject)
    before = [tensor.clone() for tensor in tensors]
    role.run(subject, subject.instance, tensors)
    changed = sum(not are_identical([a], [b]) for a, b in zip(tensors, before, strict=True))
    subject.expect(changed == 0, "its input unchanged", f"{changed} of {len(before)} tensors changed", "use a copy")


def calls_are_repeatable(subject: Subject) -> None:
    """Return equal results for equal input, on a CPU bit for bit."""
    role = role_module(subject.role)
    first, second = (role.run(subject, subject.instance, role.example(subject)) for _ in range(2))
    remedy = "keep no state between calls; switch networks to eval(); create a generator from the seed in each call"
    subject.expect(_are_equal(subject, first, second), "equal results of two calls", "different ones", remedy)


def equal_options_give_equal_results(subject: Subject) -> None:
    """Return equal results from two components with equal options."""
    role = role_module(subject.role)
    components = (subject.instance, subject.create())
    first, second = (role.run(subject, component, role.example(subject)) for component in components)
    remedy = "draw random numbers from a generator with an option called seed"
    subject.expect(_are_equal(subject, first, second), "equal results of equal options", "different ones", remedy)


def process_stays_unchanged(subject: Subject) -> None:
    """Leave random states, threads, modes of torch, environment and working folder as they are."""
    role = role_module(subject.role)
    with detect_changes():
        role.run(subject, subject.instance, role.example(subject))  # imports libraries, which may change settings
    with detect_changes() as changes:
        role.run(subject, subject.create(), role.example(subject))
    remedy = "use a private torch.Generator, and change no setting of the process"
    subject.expect(not changes, "an unchanged process", f"{', '.join(changes)} changed", remedy)


def images_are_independent(subject: Subject) -> None:
    """Return the same result for an image alone and in a batch, up to rounding."""
    role = role_module(subject.role)
    tensors = role.example(subject)
    batch = [tensor for tensor in role.run(subject, subject.instance, tensors) if tensor.is_floating_point()]
    for number in range(len(batch[0])):
        result = role.run(subject, subject.instance, role.image(tensors, number))
        subject.expect(
            are_close(
                [tensor for tensor in result if tensor.is_floating_point()],
                [tensor[number, None] for tensor in batch],
            ),
            "an image alone to give its result in a batch",
            f"another result for image {number}",
            "compute nothing across the batch dimension",
        )


def lower_limits_work(subject: Subject) -> None:
    """Return a result or raise a PatchcoreError with each numeric option at its lowest allowed value."""
    role = role_module(subject.role)
    for option, kind, limit in limits(subject.component.spec.config):
        if kind != "ge":
            continue
        try:
            role.run(subject, subject.create(subject.config(**{option: limit})), role.example(subject))
        except (PatchcoreError, UnavailableError):
            continue
        except Exception as error:
            raise subject.failure(
                f"a result, or a PatchcoreError, with option {option!r} = {limit!r}, which its type allows",
                failure_reason(error.__cause__ or error),
                "raise the limit, or fix this case",
            ) from error


def capabilities_are_true(subject: Subject) -> None:
    """State `keeps_all`, `reduces` and `streaming` in the record as the component has them, or leave them None."""
    spec = subject.component.spec
    actual = Capabilities.of(subject.instance)
    for name in spec.CAPABILITIES:
        stated, expected = getattr(spec, name), getattr(actual, name)
        subject.expect(
            stated is None or stated is expected,
            f"{name}={expected} in the record, as the component has it",
            f"{name}={stated}",
            f"set {name}={expected}, or leave None if it depends on the options",
        )


def _are_equal(subject: Subject, first: Any, second: Any) -> bool:
    if subject.device == "cpu":
        return are_identical(first, second)
    # On a GPU, the nearest row may depend on the order of additions.
    return are_close(*([tensor for tensor in result if tensor.is_floating_point()] for result in (first, second)))


CHECKS = (
    can_be_created,
    input_stays_unchanged,
    calls_are_repeatable,
    equal_options_give_equal_results,
    process_stays_unchanged,
)
