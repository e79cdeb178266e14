"""Errors that a user sees: each is one line that says what to do next."""

from __future__ import annotations


class PatchcoreError(Exception):
    """Base of every failure that is told to the user in one line, without a traceback."""


class PluginError(PatchcoreError):
    """A plugin is missing, broken, blocked, or clashes with another one."""


class OptionError(PatchcoreError):
    """An option of a component or recipe is unknown or has a value that it cannot take."""


class TensorError(PatchcoreError):
    """A component got or returned a tensor of the wrong shape, dtype or content."""


class WeightsError(PatchcoreError):
    """The weights of a backbone are missing or are not those that a model was fitted with."""


class ImageError(PatchcoreError):
    """A photo or mask cannot be read; ``path`` says which, where it came from a file and was skipped."""

    path: str | None = None


class DatasetError(PatchcoreError):
    """A folder does not hold what the command needs."""


class CalibrationError(PatchcoreError):
    """A threshold that the photos at hand cannot give."""


class ResultsError(PatchcoreError):
    """A folder of results cannot be added to: another process does, or a file in it is damaged."""


class ModelFileError(PatchcoreError):
    """A model file is damaged, too new, or does not fit the installed components."""
