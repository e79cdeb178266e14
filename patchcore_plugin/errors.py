"""Errors that a user sees: each is one line that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable


class PatchcoreError(Exception):
    """Base of the errors that are shown to users on one line, without a traceback.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> try:
    ...     pp.Host(entry_points=False).create("sampler", "al")
    ... except pp.PatchcoreError as error:
    ...     print(type(error).__name__, str(error).partition("?")[0])
    PluginError unknown sampler 'al'; did you mean 'all'
    """


class PluginError(PatchcoreError):
    """A plugin is missing, broken or blocked, or provides a name that another plugin provides too.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> try:
    ...     pp.Host(entry_points=False).component("scorer", "knm")
    ... except pp.PluginError as error:
    ...     print(str(error).partition("?")[0])
    unknown scorer 'knm'; did you mean 'knn'
    """


class OptionError(PatchcoreError):
    """An option of a component or recipe is unknown or has an invalid value.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> try:
    ...     pp.Host(entry_points=False).configure("scorer", "knn", {"neighbours": "many"})
    ... except pp.OptionError as error:
    ...     print("neighbours" in str(error))
    True
    """


class TensorError(PatchcoreError):
    """A component received or returned a tensor of the wrong shape, dtype or content.

    Examples
    --------
    >>> import torch
    >>> import patchcore_plugin as pp
    >>> try:
    ...     pp.Scores(image=torch.zeros(2, 1))
    ... except pp.TensorError as error:
    ...     print(error)
    Scores.image: expected shape [B], got [2, 1]
    """


class WeightsError(PatchcoreError):
    """The weights of a backbone are missing or are not those that a model was fitted with.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> issubclass(pp.WeightsError, pp.PatchcoreError)
    True
    """


class ImageError(PatchcoreError):
    """An image or mask cannot be read; ``path`` is its file, if the image was skipped.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> issubclass(pp.ImageError, pp.PatchcoreError)
    True
    """

    path: str | None = None


class DatasetError(PatchcoreError):
    """A folder lacks the images that a command needs.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import patchcore_plugin as pp
    >>> issubclass(pp.DatasetError, pp.PatchcoreError)
    True
    """


class CalibrationError(PatchcoreError):
    """A threshold cannot be calculated from the images given.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> issubclass(pp.CalibrationError, pp.PatchcoreError)
    True
    """


class ResultsError(PatchcoreError):
    """A folder of results is in use by another process, or a file in it is damaged.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> issubclass(pp.ResultsError, pp.PatchcoreError)
    True
    """


class ModelFileError(PatchcoreError):
    """A model file is missing, damaged or too new, or does not fit the installed components.

    Examples
    --------
    >>> import patchcore_plugin as pp
    >>> issubclass(pp.ModelFileError, pp.PatchcoreError)
    True
    """


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

    Parameters
    ----------
    name
        The misspelt name.
    names
        All valid names.

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
