"""Models as ONNX programs: compared before they are written, and the older file stays if they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin import Detector, ExportedModel, export_model
from patchcore_plugin.models.export import program as program_module
from patchcore_plugin.models.export.program import interpolation
from patchcore_plugin.models.exported_model import INPUT, OLD_INPUT
from tests.models.exports import GOOD, HOST, SIZE, SIZES, draw, fitted_model, same

IMAGES = [draw(number, size) for size in SIZES[:4] for number in range(2)]


@pytest.fixture(scope="module")
def exported_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "part.onnx"
    export = export_model(fitted_model("cropped ensemble"), path, images=GOOD[:3])
    assert 0 < export.score_difference < 1e-4
    assert (export.images, export.sizes[0]) == (3, GOOD[0].shape[:2])
    return path


@pytest.mark.slow
def test_the_file_predicts_like_the_model(exported_path: Path) -> None:
    same(pp.load_model(exported_path).predict(IMAGES), fitted_model("cropped ensemble").predict(IMAGES))
    (graph_input,) = onnx.load(exported_path).graph.input
    assert graph_input.name == INPUT == "images"


@pytest.mark.slow
def test_files_with_the_older_name_of_the_input_load(exported_path: Path, tmp_path: Path) -> None:
    program = onnx.load(exported_path)
    program.graph.input[0].name = OLD_INPUT
    for node in program.graph.node:
        for number, name in enumerate(node.input):
            if name == INPUT:
                node.input[number] = OLD_INPUT
    onnx.checker.check_model(program)
    onnx.save(program, tmp_path / "old.onnx")
    older = ExportedModel.load(tmp_path / "old.onnx")
    same(older.predict(IMAGES[:2]), fitted_model("cropped ensemble").predict(IMAGES[:2]))
    older.save(tmp_path / "again.onnx")
    assert ExportedModel.load(tmp_path / "again.onnx").threshold == older.threshold


def refusal(kind: type[pp.PatchcoreError], model: Any, folder: Path, **options: Any) -> str:
    """Return why a model is not exported; the older file must stay, alone."""
    path = folder / "part.onnx"
    path.write_text("an older file")
    with pytest.raises(kind) as caught:
        export_model(model, path, **options)
    assert path.read_text() == "an older file"
    assert list(folder.iterdir()) == [path]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_a_wrong_program_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*arguments: Any, antialias: bool) -> Tensor:
        return interpolation(*arguments, antialias=False)

    model = fitted_model("patchcore")
    monkeypatch.setattr(program_module, "interpolation", without)
    assert "differs from the model: a score by " in refusal(pp.TensorError, model, tmp_path, images=GOOD)


def test_a_component_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    spade = Detector.from_recipe("spade", backbone="tiny", preprocessing=SIZE, device="cpu", host=HOST).fit(GOOD)
    assert "scorer 'pyramid-knn' cannot be exported" in refusal(pp.PluginError, spade, tmp_path, images=GOOD)
    foreign = Detector.from_recipe("patchcore", backbone="by-numpy", preprocessing=SIZE, device="cpu", host=HOST)
    message = refusal(pp.PluginError, foreign.fit(GOOD), tmp_path, images=GOOD)
    assert "backbone 'by-numpy' cannot be exported" in message


def test_an_export_needs_images_and_a_file_name(tmp_path: Path) -> None:
    model = fitted_model("patchcore")
    assert "--images" in refusal(pp.ImageError, model, tmp_path)
    assert f"{tmp_path / 'missing.png'}: no such file" in refusal(
        pp.ImageError, model, tmp_path, images=[tmp_path / "missing.png"]
    )
    with pytest.raises(pp.OptionError, match=r"part\.bin: .*\*\.onnx"):
        export_model(model, tmp_path / "part.bin", images=GOOD)


def test_an_exported_model_is_not_exported_again(tmp_path: Path) -> None:
    model = object.__new__(ExportedModel)
    assert "already exported" in refusal(pp.ModelFileError, model, tmp_path)
