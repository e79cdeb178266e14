"""A check, the component that it tests, and its errors. Without torch."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from patchcore_plugin.errors import PatchcoreError, one_line
from patchcore_plugin.plugins import protocols
from patchcore_plugin.plugins.discovery import failure_reason
from patchcore_plugin.plugins.manager import Component, Host


class ConformanceError(AssertionError):
    """A component breaks its contract: one line with what was expected, what was found, and what to do."""


class UnavailableError(ConformanceError):
    """A component cannot be created here, because a package, weights or an option are missing; it is not checked."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A component under test.

    Parameters
    ----------
    host
        The host of the component.
    component
        Its record and plugin.
    options
        The options to create it with.
    device
        Device of its inputs.
    module
        Module of its plugin, if it has one.
    """

    host: Host
    component: Component
    options: Mapping[str, Any]
    device: str = "cpu"
    module: str | None = None

    def __str__(self) -> str:
        return str(self.component)

    @property
    def role(self) -> str:
        """Role of the component."""
        return self.component.spec.role

    @property
    def name(self) -> str:
        """Name of the component."""
        return self.component.spec.name

    def config(self, **changes: Any) -> Any:
        """Return the config for the options, with changes."""
        return self.component.configure({**self.options, **changes})

    def create(self, config: Any = None) -> Any:
        """Return a new component on the device.

        Raises
        ------
        UnavailableError
            If it raises a PatchcoreError, because an option or a package is missing.
        ConformanceError
            If it fails in another way.
        """
        try:
            # Not through the host, which turns all other exceptions into a PluginError too.
            created = self.component.spec.create(self.config() if config is None else config)
        except PatchcoreError as error:
            raise self.unavailable(error) from error
        except Exception as error:
            raise ConformanceError(
                f"{self}: expected create to return a component, or to raise a PatchcoreError that states what is "
                f"missing, found {failure_reason(error)}; fix create"
            ) from error
        protocol = getattr(protocols, self.role.capitalize())
        members = "__call__" if self.role in ("aggregator", "sampler") else "all members of the role"
        self.expect(
            isinstance(created, protocol),
            f"create to return a {protocol.__name__}",
            type(created).__name__,
            f"return an object with {members}; see patchcore_plugin.plugins.protocols",
        )
        if self.role == "backbone":
            created = created.to(self.device)
            self.expect(
                isinstance(created, protocol), "to() to return the backbone", type(created).__name__, "return self"
            )
        return created

    def unavailable(self, error: PatchcoreError) -> UnavailableError:
        """Return the error of a component that cannot be created."""
        options = f"options {dict(self.options)}" if self.options else "its default options"
        return UnavailableError(f"cannot create {self} with {options}: {error}")

    @functools.cached_property
    def instance(self) -> Any:
        """The component, created once for all checks that only call it, since large backbones are slow to create."""
        return self.create()

    def location(self, error: BaseException) -> str:
        """Return file and line of the last frame of an exception in the code of the plugin."""
        modules = (self.module or "", self.component.spec.config.__module__)
        packages = {module.partition(".")[0] for module in modules}

        def is_own(frame: FrameType) -> bool:
            module = str(frame.f_globals.get("__name__"))
            return module.partition(".")[0] in packages and not module.startswith(f"{__package__}.")

        frames = list(traceback.walk_tb(error.__traceback__))
        frame, line = ([entry for entry in frames if is_own(entry[0])] or frames)[-1]
        return f"{frame.f_code.co_filename}, line {line}"

    def expect(self, condition: bool, expected: str, actual: object, remedy: str) -> None:
        """Raise a `ConformanceError` unless `condition` holds.

        Parameters
        ----------
        condition
            Whether the component passes.
        expected, actual
            The expected and the actual result, for the message.
        remedy
            Advice to the author of the component.

        Raises
        ------
        ConformanceError
            If `condition` is false.
        """
        if not condition:
            raise self.failure(expected, actual, remedy)

    def failure(self, expected: str, actual: object, remedy: str) -> ConformanceError:
        """Return the error of a failed check.

        Parameters
        ----------
        expected, actual
            The expected and the actual result, for the message.
        remedy
            Advice to the author of the component.
        """
        return ConformanceError(f"{self}: expected {expected}, found {actual}; {remedy}")

    def expect_refusal(self, case: str, call: Callable[[], object]) -> None:
        """Expect that a call raises a PatchcoreError.

        Parameters
        ----------
        case
            Description of the input that must be refused.
        call
            Makes the call.

        Raises
        ------
        ConformanceError
            If it returns, or raises another exception.
        """
        remedy = "raise a TensorError with what was expected and what was passed"
        try:
            call()
        except PatchcoreError:
            return
        except Exception as error:
            raise self.failure(f"a PatchcoreError for {case}", failure_reason(error), remedy) from error
        raise self.failure(f"a PatchcoreError for {case}", "a result", remedy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One requirement of a contract; call it to test a component.

    Parameters
    ----------
    role, name
        The component.
    title
        Name of the check.
    meaning
        The requirement in a sentence.
    """

    role: str
    name: str
    title: str
    meaning: str
    subject: Subject = field(repr=False)
    function: Callable[[Subject], None] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.role}-{self.name}-{self.title}"

    def __call__(self) -> None:
        """Run the check.

        Raises
        ------
        ConformanceError
            If the component does not meet the requirement.
        """
        __tracebackhide__ = True
        try:
            self.function(self.subject)
        except ConformanceError as error:
            raise type(error)(one_line(error)) from error.__cause__
        except Exception as error:
            raise ConformanceError(
                f"{self.subject}: expected no exception, found {failure_reason(error)}; "
                f"see {self.subject.location(error)}"
            ) from error


def check_of(function: Callable[[Subject], None], subject: Subject) -> Check:
    """Return a check for a function.

    Parameters
    ----------
    function
        The check. Its name is the title, the first line of its docstring the meaning.
    subject
        The component to check.
    """
    return Check(
        role=subject.role,
        name=subject.name,
        title=title_of(function),
        meaning=(function.__doc__ or "").partition("\n")[0],
        subject=subject,
        function=function,
    )


def title_of(function: Callable[[Subject], None]) -> str:
    """Return the title of a check."""
    return function.__name__.replace("_", "-")
