"""ONNX files: requirements, metadata, and replacing older files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from patchcore_plugin.errors import PluginError

ENTRY = "patchcore"
"""The entry of the metadata, in JSON."""


def require_export() -> None:
    """Check that a model can be exported.

    Raises
    ------
    PluginError
        If the extra "export" is not installed, or torch is older than 2.8.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise PluginError(f"export to ONNX requires {' and '.join(missing)}; pip install 'patchcore-plugin[export]'")
    if not hasattr(torch.onnx, "ops"):
        raise PluginError(f"export to ONNX requires torch 2.8 or newer, not {torch.__version__}; pip install -U torch")


def save_onnx(program: torch.onnx.ONNXProgram | None, path: Path, metadata: str) -> None:
    """Write a program of torch.onnx with one entry of metadata, and let onnx check it.

    Parameters
    ----------
    program
        What ``torch.onnx.export`` returned.
    path
        The file to write.
    metadata
        Text of the metadata entry `ENTRY`.
    """
    import onnx
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # source lines and paths of this computer
    program.model.metadata_props[ENTRY] = metadata
    program.save(path)
    onnx.checker.check_model(str(path))


def put_in_place(drafts: Path, folder: Path) -> None:
    """Move finished files into a folder, where they replace older ones.

    Parameters
    ----------
    drafts
        Folder with the finished files and nothing else.
    folder
        Where to move them, on the same file system.
    """
    # A second file with weights first, so that no program reads a model without them.
    for draft in sorted(drafts.iterdir(), reverse=True):
        draft.replace(folder / draft.name)


def reason(error: BaseException) -> str:
    """Return the first line of the root cause of an error, without torch's advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip().rstrip('.:')}" if lines else type(error).__name__
