"""A check, the component that it looks at, and how it says what is wrong. Without torch."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from patchcore_plugin.errors import PatchcoreError
from patchcore_plugin.plugins import protocols as roles
from patchcore_plugin.plugins.manager import Component, Host


class ConformanceError(AssertionError):
    """A component breaks its contract: one line with what was expected, what was found, and what to do."""


class CannotBeMadeError(ConformanceError):
    """A component says why it cannot be made here (a package, weights or an option are missing): it was not checked."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A component under check.

    Parameters
    ----------
    host
        Where it comes from.
    component
        Its record and plugin.
    options
        What it is made with.
    device
        Where its inputs are.
    module
        The module that holds its plugin, if there is one.
    """

    host: Host
    component: Component
    options: Mapping[str, Any]
    device: str = "cpu"
    module: str | None = None

    def __str__(self) -> str:
        return f"{self.role} {self.name!r}"

    @property
    def role(self) -> str:
        """The component's role."""
        return self.component.spec.role

    @property
    def name(self) -> str:
        """The component's name."""
        return self.component.spec.name

    def config(self, **changes: Any) -> Any:
        """Return the config of the options, with some changed."""
        return self.host.configure(self.role, self.name, {**self.options, **changes})

    def make(self, config: Any = None) -> Any:
        """Return a new component on the device.

        Raises
        ------
        CannotBeMadeError
            If it says itself what is missing, be it an option or a package.
        ConformanceError
            If it fails in another way.
        """
        try:
            # Not through the host, which makes one PluginError of what create meant to say and what it did not.
            made = self.component.spec.create(self.config() if config is None else config)
        except PatchcoreError as error:
            raise self.unavailable(error) from error
        except Exception as error:
            raise ConformanceError(
                f"{self}: expected create to return a component, or to raise a PatchcoreError that says what is "
                f"missing, found {told(error)}; mend create"
            ) from error
        protocol = getattr(roles, self.role.capitalize())
        members = "__call__" if self.role in ("aggregator", "sampler") else "all members of the role"
        self.expect(
            isinstance(made, protocol),
            f"create to return a {protocol.__name__}",
            type(made).__name__,
            f"return an object with {members}; see patchcore_plugin.plugins.protocols",
        )
        if self.role == "backbone":
            made = made.to(self.device)
            self.expect(isinstance(made, protocol), "to() to return the backbone", type(made).__name__, "return self")
        return made

    def unavailable(self, error: PatchcoreError) -> CannotBeMadeError:
        """Return what to raise where the component says why it cannot be made."""
        given = f"options {dict(self.options)}" if self.options else "its default options"
        return CannotBeMadeError(f"{self} cannot be made with {given}: {error}")

    @functools.cached_property
    def shared(self) -> Any:
        """The component, made once for all checks that only call it; a large backbone takes a while to make."""
        return self.make()

    def place_of(self, error: BaseException) -> str:
        """Return file and line where the plugin's own code was last at work when an exception was raised."""
        modules = (self.module or "", self.component.spec.config.__module__)
        packages = {module.partition(".")[0] for module in modules}

        def is_own(frame: FrameType) -> bool:
            module = str(frame.f_globals.get("__name__"))
            return module.partition(".")[0] in packages and not module.startswith(f"{__package__}.")

        frames = list(traceback.walk_tb(error.__traceback__))
        frame, line = ([each for each in frames if is_own(each[0])] or frames)[-1]
        return f"{frame.f_code.co_filename}, line {line}"

    def expect(self, condition: bool, expected: str, found: object, remedy: str) -> None:
        """Raise a `ConformanceError` unless `condition` holds."""
        if not condition:
            raise self.failure(expected, found, remedy)

    def failure(self, expected: str, found: object, remedy: str) -> ConformanceError:
        """Return what to raise."""
        return ConformanceError(f"{self}: expected {expected}, found {found}; {remedy}")

    def refuses(self, what: str, call: Callable[[], object]) -> None:
        """Expect that `call` raises a PatchcoreError."""
        remedy = "raise a TensorError that says what was expected and what came"
        try:
            call()
        except PatchcoreError:
            return
        except Exception as error:
            raise self.failure(f"a PatchcoreError for {what}", told(error), remedy) from error
        raise self.failure(f"a PatchcoreError for {what}", "an answer", remedy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a component must do; calling it looks whether it does.

    Parameters
    ----------
    role, name
        The component.
    title
        What the check is called.
    meaning
        What it expects, in a sentence.
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
            If the component does not do what it must.
        """
        __tracebackhide__ = True
        try:
            self.function(self.subject)
        except ConformanceError as error:
            raise type(error)(" ".join(str(error).split())) from error.__cause__
        except Exception as error:
            message = f"{self.subject}: expected no exception, found {told(error)}; see {self.subject.place_of(error)}"
            raise ConformanceError(" ".join(message.split())) from error


def check_of(function: Callable[[Subject], None], subject: Subject) -> Check:
    """Return a function as a check: its name is the title, the first line of its docstring the meaning."""
    return Check(
        role=subject.role,
        name=subject.name,
        title=title_of(function),
        meaning=(function.__doc__ or "").partition("\n")[0],
        subject=subject,
        function=function,
    )


def title_of(function: Callable[[Subject], None]) -> str:
    """Return what a check is called."""
    return function.__name__.replace("_", "-")


def told(error: BaseException) -> str:
    """Return an exception as a user reads it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
