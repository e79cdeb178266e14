"""Checkpoints: content, other processes, other models, and moves to another device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import patchcore_plugin as pp
from patchcore_plugin.integrations.anomalib import PluginPatchcore
from patchcore_plugin.integrations.anomalib.preparation import Preparation
from tests.integrations.anomalib.engines import (
    DEEP,
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


def test_checkpoint_gives_equal_scores_in_another_process(
    fitted_model: tuple[PluginPatchcore, Path], dataset: Path
) -> None:
    model, path = fitted_model
    images = images_of(dataset)
    script = """
import json, sys, torch
from patchcore_plugin.integrations.anomalib import PluginPatchcore
from anomalib.data.utils import read_image
torch.load(sys.argv[1], weights_only=True)
model = PluginPatchcore.load_from_checkpoint(sys.argv[1]).eval()
with torch.no_grad():
    batch = model(torch.stack([read_image(path, as_tensor=True) for path in sys.argv[2:]]))
print(json.dumps(batch.pred_score.tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *map(str, images)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        here = model.eval()(read(images))
    assert json.loads(done.stdout.splitlines()[-1]) == here.pred_score.tolist()


def test_checkpoint_holds_every_option_but_no_weights(fitted_model: tuple[PluginPatchcore, Path]) -> None:
    content = torch.load(fitted_model[1], weights_only=True)
    assert content["hyper_parameters"]["recipe"]["scorer"] == {
        "name": "knn", "neighbours": 9, "reweight": True, "squared": False,
    }  # fmt: skip
    assert content["hyper_parameters"]["backbone"] is None  # it is in the recipe
    tensors = {key for key, value in content["state_dict"].items() if isinstance(value, Tensor) and value.numel() > 1}
    assert tensors == set()
    assert content["state_dict"]["model._extra_state"]["bank.vectors"].shape[1] == 64 + 128
    loaded = load(fitted_model[1])
    assert isinstance(loaded.pre_processor, Preparation)
    assert loaded.pre_processor.transform is not None
    assert loaded.pre_processor.transform(torch.rand(1, 3, 90, 90)).shape == (1, 3, 48, 64)
    assert loaded.model.pipeline.recipe == fitted_model[0].model.pipeline.recipe


@pytest.mark.parametrize("recipe", ["spade", "gaussian-ad"])
def test_checkpoint_has_the_image_descriptors(recipe: str, dataset: Path, tmp_path: Path) -> None:
    model, used = PluginPatchcore(recipe, **DEEP), engine(tmp_path)
    used.fit(model=model, datamodule=folder(dataset))
    again = load(Path(str(used.best_model_path)))
    assert model.model.bank is not None
    assert model.model.bank.descriptors is not None
    assert torch.equal(again.model.bank.descriptors, model.model.bank.descriptors)
    assert (again.model.bank.levels, again.model.bank.seen) == (model.model.bank.levels, model.model.bank.seen)
    images = read(images_of(dataset))
    with torch.no_grad():
        assert torch.equal(
            without_normalisation(again).eval()(images).pred_score,
            without_normalisation(model).eval()(images).pred_score,
        )


def test_checkpoint_has_a_pre_processor_that_is_not_that_of_the_recipe(dataset: Path, tmp_path: Path) -> None:
    given = PluginPatchcore.configure_pre_processor(image_size=(40, 56), center_crop_size=(32, 48))
    model, used = PluginPatchcore(**SMALL, pre_processor=given), engine(tmp_path)
    used.fit(model=model, datamodule=folder(dataset))
    again = load(Path(str(used.best_model_path)))
    images = read(images_of(dataset))
    assert again.pre_processor.transform(images).shape == (6, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(
            without_normalisation(again).eval()(images).pred_score,
            without_normalisation(model).eval()(images).pred_score,
        )


def test_checkpoint_of_another_model_is_refused(fitted_model: tuple[PluginPatchcore, Path], tmp_path: Path) -> None:
    state = torch.load(fitted_model[1], weights_only=True)["state_dict"]
    other = PluginPatchcore(**{**SMALL, "backbone": {**SMALL["backbone"], "seed": 1}})
    with pytest.raises(pp.WeightsError, match="weights of 'resnet18' differ"):
        other.load_state_dict(state)
    other = PluginPatchcore(**SMALL, scorer={"neighbours": 3})
    with pytest.raises(pp.OptionError, match=r"fitted with scorer \{.*'neighbours': 9.* and the model has .*: 3"):
        other.load_state_dict(state)


def test_an_unfitted_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model = PluginPatchcore(**SMALL)
    other = PluginPatchcore(**SMALL)
    other.load_state_dict(model.state_dict())
    assert other.model.bank is None


def test_bank_and_scorer_move_to_another_device(
    fitted_model: tuple[PluginPatchcore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(fitted_model[1]).model
    banks = []
    monkeypatch.setattr("patchcore_plugin.models.pipeline.usable_device", torch.device)
    monkeypatch.setattr(model.scorer, "restore", lambda bank, state: banks.append(bank))
    model.to("meta")
    assert model.pipeline.device.type == "meta"
    assert model.bank is banks[0]
    assert model.bank.vectors.device.type == model.bank.origin.device.type == "meta"
    model.half()
    assert len(banks) == 1
