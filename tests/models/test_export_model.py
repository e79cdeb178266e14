"""Models as files of programs: checked before they are written, and refused with what was there before left."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin import Detector, ExportedModel, export_model
from patchcore_plugin.models.export import program as export_module
from patchcore_plugin.models.export.model import SUFFIXES, Format
from patchcore_plugin.models.export.program import interpolation
from tests.models.exports import GOOD, HOST, SIZE, SIZES, Image, draw, fitted, same


def test_a_program_of_torch_without_pickle(tmp_path: Path) -> None:
    model = fitted("cropped ensemble")
    export = export_model(model, tmp_path / "part.pt2", format="torch", images=GOOD[:3])
    assert 0 < export.score_difference < 1e-4
    assert export.images == 3
    assert export.sizes[0] == GOOD[0].shape[:2]
    with zipfile.ZipFile(export.path) as archive:
        assert not [each.filename for each in archive.infolist() if b"\x80\x02}q" in archive.read(each)]
        assert not [each.filename for each in archive.infolist() if each.filename.endswith(".pt") and each.file_size]
    extra = {"patchcore": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.export.load(export.path, extra_files=extra).module()

    def compute(images: NDArray[np.float32]) -> dict[str, Image]:
        return {name: each.numpy() for name, each in program(torch.from_numpy(images)).items()}

    found = ExportedModel(export.path, extra["patchcore"], compute)
    images = [draw(number, size) for size in SIZES[:4] for number in range(2)]
    same(found.predict(images), model.predict(images))
    with pytest.raises(pp.ModelFileError) as caught:
        pp.load_model(export.path)
    assert str(caught.value) == (
        f"{export.path}: a program of torch.export, which patchcore writes and does not read, because reading one can "
        "run code that is in the file; give the model file, or export that with --format onnx"
    )


def refused(
    kind: type[pp.PatchcoreError],
    model: Any,
    folder: Path,
    *,
    kind_of_file: Format = "torch",
    **options: Any,
) -> str:
    """Return why a model is not exported; what was there before must stay, alone."""
    path = folder / f"part{SUFFIXES[kind_of_file]}"
    path.write_text("what was there before")
    with pytest.raises(kind) as caught:
        export_model(model, path, format=kind_of_file, **options)
    assert path.read_text() == "what was there before"
    assert list(folder.iterdir()) == [path]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_wrong_program_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*arguments: Any, antialias: bool) -> Tensor:
        return interpolation(*arguments, antialias=False)

    model = fitted("patchcore")
    monkeypatch.setattr(export_module, "interpolation", without)
    text = refused(pp.TensorError, model, tmp_path, images=GOOD)
    assert text.startswith("the exported program differs from the model: a score by ")
    assert text.endswith("at most 1e-04 is allowed; nothing was written")


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    spade = Detector.from_recipe("spade", backbone="tiny", preprocessing=SIZE, device="cpu", host=HOST).fit(GOOD)
    assert refused(pp.PluginError, spade, tmp_path, images=GOOD) == (
        "scorer 'pyramid-knn' cannot be exported: it has no export_module; use the model file itself, or fit with "
        "another scorer, such as knn"
    )
    foreign = Detector.from_recipe("patchcore", backbone="by-numpy", preprocessing=SIZE, device="cpu", host=HOST)
    text = refused(pp.PluginError, foreign.fit(GOOD), tmp_path, images=GOOD)
    assert text.startswith("backbone 'by-numpy' cannot be exported, because it is not made of torch operations only (")
    assert text.endswith("); use the model file itself")


def test_images_and_names_that_do_not_serve(tmp_path: Path) -> None:
    model = fitted("patchcore")
    assert refused(pp.ImageError, model, tmp_path) == (
        "an export is checked on real images, and none of those that the model was fitted on is still there; give some "
        "with --images"
    )
    assert f"{tmp_path / 'missing.png'}: no such file" in refused(
        pp.ImageError, model, tmp_path, images=[tmp_path / "missing.png"]
    )
    with pytest.raises(pp.OptionError, match=r"part\.bin: a file of format onnx is called \*\.onnx; choose another"):
        export_model(model, tmp_path / "part.bin", images=GOOD)
