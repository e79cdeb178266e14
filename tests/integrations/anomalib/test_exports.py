"""Exports to ONNX: the same scores, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import patchcore_plugin as pp
from patchcore_plugin.integrations.anomalib import PluginPatchcore
from tests.integrations.anomalib.engines import (
    SMALL,
    THEIR_WARNINGS,
    engine,
    folder,
    images_of,
    load,
    read,
    without_normalisation,
)

pytestmark = [*THEIR_WARNINGS, pytest.mark.slow]


def test_torch_export_is_refused(fitted_model: tuple[PluginPatchcore, Path], tmp_path: Path) -> None:
    with pytest.raises(pp.PatchcoreError, match="pickle"):
        engine(tmp_path).export(fitted_model[0], "torch", export_root=tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_onnx_gives_the_same_scores(fitted_model: tuple[PluginPatchcore, Path], dataset: Path, tmp_path: Path) -> None:
    model = without_normalisation(load(fitted_model[1])).eval()
    path = engine(tmp_path).export(model, "onnx", export_root=tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = read(images_of(dataset))
    names = [output.name for output in session.get_outputs()]
    for batch in (images[:1], images[2:5], images[:2, :, 10:, :50]):  # of other sizes, for antialiasing
        outputs = dict(zip(names, session.run(None, {"input": batch.numpy()}), strict=True))
        with torch.no_grad():
            expected = model.post_processor(model.model(model.pre_processor.transform(batch)))
        np.testing.assert_allclose(outputs["pred_score"], expected.pred_score, rtol=1e-5)
        np.testing.assert_allclose(outputs["anomaly_map"], expected.anomaly_map, rtol=1e-4)
        np.testing.assert_array_equal(outputs["pred_label"], expected.pred_label)


def test_onnx_with_keep_aspect_needs_the_size_of_images(tmp_path: Path) -> None:
    model = PluginPatchcore("patchcore-paper", backbone=SMALL["backbone"])
    with pytest.raises(pp.OptionError, match=r"keep_aspect .*input_size"):
        model.to_onnx(tmp_path)


SCORER = """
    from dataclasses import dataclass
    import patchcore_plugin as pp

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def create(config):
        import torch

        class Mean:
            def fit(self, bank):
                self.centre = bank.vectors.mean(dim=0)

            def __call__(self, patches):
                far = torch.from_numpy((patches.grid - self.centre).numpy()).norm(dim=-1)
                return pp.Scores(image=far.flatten(1).amax(dim=1))

            def state(self):
                return {"centre": self.centre}

            def restore(self, bank, state):
                self.centre = state["centre"]

        return Mean()

    @pp.hookimpl
    def patchcore_scorers():
        return [pp.ScorerSpec(name="mean", config=Config, create=create, summary="by NumPy")]
"""


def test_scorer_of_a_plugin(distribution: Callable[..., Path], dataset: Path, tmp_path: Path) -> None:
    distribution("mean-scorer", SCORER)
    model, used = PluginPatchcore(**SMALL, scorer="mean"), engine(tmp_path)
    used.fit(model=model, datamodule=folder(dataset))
    again = load(Path(str(used.best_model_path)))
    images = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(images).pred_score, model.eval()(images).pred_score)
        assert again(images).anomaly_map is None
    with pytest.raises(
        pp.PatchcoreError,
        match=r"cannot be exported to ONNX: .*'resnet18', .*'average-pool', .*'mean' \(.*\); use the checkpoint",
    ) as error:
        model.to_onnx(tmp_path)
    assert "\n" not in str(error.value)
    assert model.model.bank is not None  # the model is restored
