"""Checks of what components of every role do: they use `example` and `run` of the role's module.

``example(it)`` returns tensors to call a component with; ``run(it, made, tensors)`` calls it, checks the form of its
answer, and returns its tensors; ``image(tensors, number)`` returns those of one image, where the role knows images.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from patchcore_plugin.errors import PatchcoreError

from .records import limits
from .subject import CannotBeMadeError, Subject, told
from .tensors import alike, identical, nothing_changes


def role_module(role: str) -> Any:
    """Return the module with the checks of a role."""
    return import_module(f"{__package__}.{role}")


def can_be_made(it: Subject) -> None:
    """Return a component of the role from `create`."""
    _ = it.shared


def input_stays_unchanged(it: Subject) -> None:
    """Change no tensor that is given."""
    role = role_module(it.role)
    tensors = role.example(it)
    before = [each.clone() for each in tensors]
    role.run(it, it.shared, tensors)
    changed = sum(not identical([a], [b]) for a, b in zip(tensors, before, strict=True))
    it.expect(changed == 0, "its input unchanged", f"{changed} of {len(before)} tensors changed", "work on a copy")


def same_answer_twice(it: Subject) -> None:
    """Answer two calls with equal input equally, on a CPU bit for bit."""
    role = role_module(it.role)
    first, second = (role.run(it, it.shared, role.example(it)) for _ in range(2))
    remedy = "keep nothing between calls; switch networks to eval(); draw from a generator made anew from the seed"
    it.expect(_equal(it, first, second), "equal answers from two calls", "different ones", remedy)


def equal_options_equal_answer(it: Subject) -> None:
    """Answer equally from two components that are made with equal options."""
    role = role_module(it.role)
    first, second = (role.run(it, made, role.example(it)) for made in (it.shared, it.make()))
    remedy = "draw from a generator made from an option called seed"
    it.expect(_equal(it, first, second), "equal answers from two that are made alike", "different ones", remedy)


def process_stays_unchanged(it: Subject) -> None:
    """Leave random states, threads, torch's modes, environment and working folder as they were."""
    role = role_module(it.role)
    with nothing_changes():
        role.run(it, it.shared, role.example(it))  # imports libraries, which may set things on their own account
    with nothing_changes() as changed:
        role.run(it, it.make(), role.example(it))
    remedy = "use a torch.Generator of your own, and leave alone what belongs to the process"
    it.expect(not changed, "the process left as it was", f"{', '.join(changed)} changed", remedy)


def images_are_independent(it: Subject) -> None:
    """Answer for an image alone as for the same image in a batch, up to rounding."""
    role = role_module(it.role)
    tensors = role.example(it)
    batch = [each for each in role.run(it, it.shared, tensors) if each.is_floating_point()]
    for number in range(len(batch[0])):
        answer = role.run(it, it.shared, role.image(tensors, number))
        it.expect(
            alike([each for each in answer if each.is_floating_point()], [each[number, None] for each in batch]),
            "an image alone to give what it gives in a batch",
            f"another answer for image {number}",
            "compute nothing across the batch dimension",
        )


def works_at_its_lower_limits(it: Subject) -> None:
    """Answer, or say why not, with each numeric option at the lowest value that it allows."""
    role = role_module(it.role)
    for option, kind, limit in limits(it.component.spec.config):
        if kind != "ge":
            continue
        try:
            role.run(it, it.make(it.config(**{option: limit})), role.example(it))
        except (PatchcoreError, CannotBeMadeError):
            continue
        except Exception as error:
            raise it.failure(
                f"an answer, or a PatchcoreError, with option {option!r} = {limit!r}, which its type allows",
                told(error.__cause__ or error),
                "raise the limit, or mend this case",
            ) from error


def _equal(it: Subject, first: Any, second: Any) -> bool:
    if it.device == "cpu":
        return identical(first, second)
    floating = [[each for each in answer if each.is_floating_point()] for answer in (first, second)]
    return alike(*floating)  # which row is nearest may change with the order of adding


CHECKS = (
    can_be_made,
    input_stays_unchanged,
    same_answer_twice,
    equal_options_equal_answer,
    process_stays_unchanged,
)
