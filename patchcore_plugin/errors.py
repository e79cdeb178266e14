"""Errors that a user sees: each is one line that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable


class PatchcoreError(Exception):
    """Base of every failure that is reported to the user in one line, without a traceback."""


class PluginError(PatchcoreError):
    """A plugin is missing, broken, blocked, or clashes with another one."""


class OptionError(PatchcoreError):
    """An option of a component or recipe is unknown or has a value that it cannot take."""


class TensorError(PatchcoreError):
    """A component got or returned a tensor of the wrong shape, dtype or content."""


class WeightsError(PatchcoreError):
    """The weights of a backbone are missing or are not those that a model was fitted with."""


class ImageError(PatchcoreError):
    """An image or mask cannot be read; ``path`` names its file if it was skipped."""

    path: str | None = None


class DatasetError(PatchcoreError):
    """A folder does not hold what the command needs."""


class CalibrationError(PatchcoreError):
    """A threshold that cannot be computed from the available images."""


class ResultsError(PatchcoreError):
    """A folder of results cannot be added to: another process does, or a file in it is damaged."""


class ModelFileError(PatchcoreError):
    """A model file is damaged, too new, or does not fit the installed components."""


def one_line(error: BaseException) -> str:
    r"""Return the text of an error on one line, or the name of its class if it has no text.

    Examples
    --------
    >>> one_line(ValueError("two\nlines"))
    'two lines'
    """
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a hint with the name closest to a misspelt one, to put before other text.

    Returns
    -------
    str
        Ends with a space; empty if no name is close.

    Examples
    --------
    >>> did_you_mean("resnet19", ["resnet18", "vgg11"])
    "did you mean 'resnet18'? "
    """
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
