"""The anomalib adapter: the detector's scores from anomalib's engine, data modules, checkpoints and exports."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# First, because it knows what anomalib warns of when it is imported.
from patchcore_plugin.integrations.anomalib import PluginPatchcore

# isort: split
import lightning.pytorch as pl
import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from torch import Tensor
from torchvision import tv_tensors

import patchcore_plugin as pp
from patchcore_plugin.images import read_photo
from patchcore_plugin.integrations.anomalib.model import lifting
from patchcore_plugin.integrations.anomalib.module import _rearrange
from patchcore_plugin.integrations.anomalib.preparation import Preparation
from patchcore_plugin.preprocessing import Geometry, anomaly_map, prepare
from patchcore_plugin.recipe import Map, Preprocessing

# What Lightning, anomalib and torch's exporter say about themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]

REAL = Path(__file__).parents[2] / "shared" / "data"
SMALL: dict[str, Any] = {
    "backbone": {"name": "resnet18", "weights": "random", "layers": ["layer1", "layer2"]},
    "preprocessing": {"size": [48, 64]},
}


QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def engine(folder: Path) -> Engine:
    return Engine(default_root_dir=folder, **QUIET)


def folder(dataset: Path, *, masks: bool = True, batch: int = 4) -> Folder:
    return Folder(
        name="washer",
        root=dataset,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/blot",
        mask_dir="ground_truth/blot" if masks else None,
        val_split_mode="same_as_test",
        train_batch_size=batch,
        eval_batch_size=batch,
        num_workers=0,
    )


def load(checkpoint: Path) -> Any:
    return PluginPatchcore.load_from_checkpoint(checkpoint)


def raw(model: Any) -> Any:
    """Leave scores and maps as they are."""
    model.post_processor.enable_normalization = False
    return model


def predict(model: PluginPatchcore, data: Any, tmp_path: Path) -> dict[str, tuple[float, Tensor]]:
    batches: Any = engine(tmp_path).predict(model=raw(model), datamodule=data)
    return {
        path: (float(score), found)
        for batch in batches
        for path, score, found in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True)
    }


@pytest.fixture(scope="module")
def fitted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PluginPatchcore, Path]:
    """A model of `SMALL`, and its checkpoint."""
    model, used = PluginPatchcore(**SMALL), engine(tmp_path_factory.mktemp("fitted"))
    used.fit(model=model, datamodule=folder(dataset))
    assert used.best_model_path is not None
    return model, Path(used.best_model_path)


def judged(dataset: Path) -> list[Path]:
    return sorted(dataset.glob("test/*/*.png"))


def read(photos: list[Path]) -> Tensor:
    return torch.stack([torch.as_tensor(read_image(photo, as_tensor=True)) for photo in photos])


@pytest.mark.parametrize(
    "options",
    [
        {**SMALL, "preprocessing": {"size": [72, 96]}, "map": {"sigma": 2}},  # the photos' own size: maps compare too
        {**SMALL, "recipe": "patchcore-paper", "preprocessing": {"size": [51, 51], "crop": [40, 48]}},
        {**SMALL, "sampler": "random", "scorer": {"reweight": False, "squared": True}, "seed": 5},
    ],
    ids=["maps", "crop", "other components"],
)
def test_scores_are_those_of_the_detector(options: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    model = PluginPatchcore(**options)
    data = folder(dataset)
    engine(tmp_path).fit(model=model, datamodule=data)
    found = predict(model, data, tmp_path)
    changes = {name: value for name, value in options.items() if name not in ("recipe", "seed")}
    recipe, seed = options.get("recipe", "patchcore"), options.get("seed", 0)
    detector = pp.Detector.from_recipe(recipe, seed=seed, device="cpu", **changes)
    detector.fit(sorted((dataset / "train" / "good").iterdir()))
    assert len(found) == 6
    for expected in detector.predict(sorted(found)):
        score, heat = found[str(expected.path)]
        assert score == pytest.approx(expected.score, rel=1e-4)
        if heat.shape == (72, 96):
            assert expected.anomaly_map is not None
            np.testing.assert_allclose(heat, expected.anomaly_map, rtol=1e-4)


def test_order_and_batches_of_the_training_photos_have_no_influence(
    fitted: tuple[PluginPatchcore, Path], dataset: Path, tmp_path: Path
) -> None:
    model, _ = fitted
    again = PluginPatchcore(**SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        engine(tmp_path).fit(model=again, datamodule=folder(dataset, batch=3))
    assert model.model.bank is not None
    assert again.model.bank is not None
    assert torch.equal(again.model.bank.origin, model.model.bank.origin)
    torch.testing.assert_close(again.model.bank.vectors, model.model.bank.vectors, rtol=1e-4, atol=1e-5)
    assert again.model.photos == model.model.photos
    assert sorted(model.model.photos) == [str(path) for path in sorted((dataset / "train" / "good").iterdir())]


def test_bank_remembers_its_photos(fitted: tuple[PluginPatchcore, Path]) -> None:
    model, _ = fitted
    bank = model.model.bank
    assert bank is not None
    photo, row, column = bank.origin[7].tolist()
    pixels = prepare(read_photo(model.model.photos[photo]), Preprocessing(size=(48, 64)))
    expected = model.model.patches(pixels[None]).grid[0, row, column]
    torch.testing.assert_close(bank.vectors[7], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # those of pixels, where there are no masks
@pytest.mark.parametrize("masks", [True, False])
def test_metrics_threshold_and_pictures_are_those_of_anomalib(
    masks: bool, fitted: tuple[PluginPatchcore, Path], dataset: Path, tmp_path: Path
) -> None:
    model = load(fitted[1])
    (figures,) = engine(tmp_path).test(model=model, datamodule=folder(dataset, masks=masks))
    assert figures["image_AUROC"] == 1
    # Its threshold is the lowest score of a defective photo, which then is not above it: two of three are found.
    assert figures["image_F1Score"] == pytest.approx(0.8)
    fresh: Any = fitted[0].post_processor
    assert model.post_processor.image_threshold == fresh.image_threshold
    assert ("pixel_AUROC" in figures) == masks
    assert len(list(tmp_path.rglob("images/**/*.png"))) == 6


def test_a_second_fit_starts_afresh(dataset: Path, tmp_path: Path) -> None:
    model = PluginPatchcore(**SMALL)
    data = folder(dataset)
    engine(tmp_path / "1").fit(model=model, datamodule=data)
    first = predict(model, data, tmp_path)
    engine(tmp_path / "2").fit(model=model, datamodule=data)
    second = predict(model, data, tmp_path)
    for path, (score, _) in first.items():
        assert second[path][0] == pytest.approx(score, rel=1e-4)
    assert len(model.model.photos) == 10


def test_trial_run_before_the_fit_does_no_harm(dataset: Path, tmp_path: Path) -> None:
    trainer = pl.Trainer(max_epochs=1, num_sanity_val_steps=2, default_root_dir=tmp_path, logger=False, **QUIET)
    model = PluginPatchcore(**SMALL)
    trainer.fit(model, datamodule=folder(dataset))
    assert len(model.model.photos) == 10


def test_what_needs_a_fit_says_so(dataset: Path, tmp_path: Path) -> None:
    model = PluginPatchcore(**SMALL)
    with pytest.raises(pp.DatasetError, match=r"^the model has seen no training photo; call Engine\.fit, or load"):
        engine(tmp_path).validate(model=model, datamodule=folder(dataset))
    with pytest.raises(pp.TensorError, match=r"^the model is not fitted; call Engine\.fit or load a checkpoint first$"):
        model(torch.rand(1, 3, 72, 96))
    with pytest.raises(pp.TensorError, match="before exporting it"):
        model.to_onnx(tmp_path)


def test_a_loader_that_repeats_photos_is_refused(dataset: Path, tmp_path: Path) -> None:
    data = folder(dataset)
    data.setup()
    sampler = torch.utils.data.RandomSampler(data.train_data, replacement=True, num_samples=15)
    loader = torch.utils.data.DataLoader(data.train_data, 4, sampler=sampler, collate_fn=data.train_data.collate_fn)
    with pytest.raises(pp.DatasetError, match="gives more photos than the 10 of its dataset; take one that gives each"):
        engine(tmp_path).fit(PluginPatchcore(**SMALL), loader, data.val_dataloader())


def test_checkpoint_gives_equal_scores_in_another_process(fitted: tuple[PluginPatchcore, Path], dataset: Path) -> None:
    model, path = fitted
    photos = judged(dataset)
    script = """
import json, sys, torch
from patchcore_plugin.integrations.anomalib import PluginPatchcore
from anomalib.data.utils import read_image
torch.load(sys.argv[1], weights_only=True)
model = PluginPatchcore.load_from_checkpoint(sys.argv[1]).eval()
with torch.no_grad():
    found = model(torch.stack([read_image(path, as_tensor=True) for path in sys.argv[2:]]))
print(json.dumps(found.pred_score.tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *map(str, photos)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        here = model.eval()(read(photos))
    assert json.loads(done.stdout.splitlines()[-1]) == here.pred_score.tolist()


def test_checkpoint_holds_every_option_but_no_weights(fitted: tuple[PluginPatchcore, Path]) -> None:
    content = torch.load(fitted[1], weights_only=True)
    assert content["hyper_parameters"]["recipe"]["scorer"] == {
        "name": "knn", "neighbours": 9, "reweight": True, "squared": False,
    }  # fmt: skip
    assert content["hyper_parameters"]["backbone"] is None  # it is in the recipe
    tensors = {key for key, value in content["state_dict"].items() if isinstance(value, Tensor) and value.numel() > 1}
    assert tensors == set()
    assert content["state_dict"]["model._extra_state"]["bank.vectors"].shape[1] == 64 + 128
    loaded = load(fitted[1])
    assert isinstance(loaded.pre_processor, Preparation)
    assert loaded.pre_processor.transform is not None
    assert loaded.pre_processor.transform(torch.rand(1, 3, 90, 90)).shape == (1, 3, 48, 64)
    assert loaded.model.composition.recipe == fitted[0].model.composition.recipe


def test_checkpoint_of_another_model_is_refused(fitted: tuple[PluginPatchcore, Path], tmp_path: Path) -> None:
    state = torch.load(fitted[1], weights_only=True)["state_dict"]
    other = PluginPatchcore(**{**SMALL, "backbone": {**SMALL["backbone"], "seed": 1}})
    with pytest.raises(pp.WeightsError, match=r"fitted with backbone 'resnet18', and the weights of 'resnet18' here"):
        other.load_state_dict(state)
    other = PluginPatchcore(**SMALL, scorer={"neighbours": 3})
    with pytest.raises(pp.OptionError, match=r"fitted with scorer \{.*'neighbours': 9.* and the model has .*: 3"):
        other.load_state_dict(state)


def test_an_unfitted_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model = PluginPatchcore(**SMALL)
    other = PluginPatchcore(**SMALL)
    other.load_state_dict(model.state_dict())
    assert other.model.bank is None


def test_bank_and_scorer_follow_to_another_device(
    fitted: tuple[PluginPatchcore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(fitted[1]).model
    given = []
    monkeypatch.setattr("patchcore_plugin.composition.usable_device", torch.device)
    monkeypatch.setattr(model.composition.scorer, "restore", lambda bank, state: given.append(bank))
    model.to("meta")
    assert model.composition.device.type == "meta"
    assert model.bank is given[0]
    assert model.bank.vectors.device.type == model.bank.origin.device.type == "meta"
    model.half()
    assert len(given) == 1


def test_automatic_precision_leaves_distances_alone(fitted: tuple[PluginPatchcore, Path]) -> None:
    model = raw(load(fitted[1])).eval()
    photos = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        expected = model(photos)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(photos)
    assert torch.equal(found.pred_score, expected.pred_score)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)


@pytest.mark.parametrize(
    "options",
    [
        Preprocessing(size=(40, 56)),
        Preprocessing(size=(51, 60), crop=(48, 49)),
        Preprocessing(size=(40, 40), keep_aspect=True, crop=(33, 40)),
    ],
)
def test_preparation_is_the_detectors(options: Preprocessing, dataset: Path) -> None:
    path = dataset / "test" / "blot" / "000.png"
    transform = Preparation(options).transform
    assert transform is not None
    photo = read_image(path, as_tensor=True)
    mask = tv_tensors.Mask(torch.arange(72 * 96).view(72, 96) % 251)
    got, cut = transform(photo, mask)
    torch.testing.assert_close(got, prepare(read_photo(path), options), rtol=0, atol=1e-6)
    assert cut.shape == got.shape[1:]
    assert set(cut.unique().tolist()) <= set(mask.unique().tolist())  # nearest: no values in between
    resize = transform.transforms[0]
    assert torch.equal(transform(resize(photo)), got)  # anomalib resizes before it stacks photos, then again


def test_lifting_gives_the_detectors_map() -> None:
    rng = np.random.default_rng(0)
    grid = rng.random((9, 12), dtype=np.float32)
    for options in (Map(), Map(sigma=0), Map(sigma=1.5, upsample="nearest")):
        expected = anomaly_map(grid, Geometry((70, 90), (70, 90), (0, 0, 70, 90)), options)
        found = lifting(9, 70, options) @ torch.from_numpy(grid) @ lifting(12, 90, options).T
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rearranging_in_place(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(seed * 3 + 1).tolist()
    rows = torch.rand(len(order), 4)
    expected = rows[order]
    _rearrange(rows, order)
    assert torch.equal(rows, expected)


def test_torch_export_is_refused(fitted: tuple[PluginPatchcore, Path], tmp_path: Path) -> None:
    with pytest.raises(pp.PatchcoreError, match=r"^export type 'torch' would pickle .* or export type 'onnx'$"):
        engine(tmp_path).export(fitted[0], "torch", export_root=tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_onnx_gives_the_same_scores(fitted: tuple[PluginPatchcore, Path], dataset: Path, tmp_path: Path) -> None:
    model = raw(load(fitted[1])).eval()
    path = engine(tmp_path).export(model, "onnx", export_root=tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    photos = read(judged(dataset))
    for batch in (photos[:1], photos[2:5], photos[:2, :, 10:, :50]):  # other batches, other sizes: antialiasing shows
        found = dict(
            zip((out.name for out in session.get_outputs()), session.run(None, {"input": batch.numpy()}), strict=True)
        )
        with torch.no_grad():
            expected = model.post_processor(model.model(model.pre_processor.transform(batch)))
        np.testing.assert_allclose(found["pred_score"], expected.pred_score, rtol=1e-5)
        np.testing.assert_allclose(found["anomaly_map"], expected.anomaly_map, rtol=1e-4)
        np.testing.assert_array_equal(found["pred_label"], expected.pred_label)


def test_onnx_of_photos_in_their_proportions_needs_their_size(tmp_path: Path) -> None:
    model = PluginPatchcore("patchcore-paper", backbone=SMALL["backbone"])
    with pytest.raises(pp.OptionError, match=r"^the recipe's keep_aspect .*; give input_size, the height and width"):
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
    photos = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(photos).pred_score, model.eval()(photos).pred_score)
        assert again(photos).anomaly_map is None
    with pytest.raises(
        pp.PatchcoreError,
        match=r"^this model cannot be exported to ONNX: torch\.export cannot follow one of backbone 'resnet18', "
        r"aggregator 'average-pool', scorer 'mean' \(.*\); use the checkpoint with",
    ) as error:
        model.to_onnx(tmp_path)
    assert "\n" not in str(error.value)
    assert model.model.bank is not None  # the model is as it was


def test_command_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # anomalib's command line sets it
    from anomalib.cli import AnomalibCLI

    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
model:
  class_path: patchcore_plugin.integrations.anomalib.PluginPatchcore
  init_args:
    backbone: {{name: resnet18, weights: random, layers: [layer1]}}
    sampler:
      ratio: 0.05
    preprocessing: {{size: [48, 64]}}
    seed: 3
data:
  class_path: anomalib.data.MVTecAD
  init_args: {{root: {dataset.parent}, category: {dataset.name}, num_workers: 0}}
trainer: {{accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
default_root_dir: {tmp_path}
""",
        encoding="utf-8",
    )
    cli: Any = AnomalibCLI(["train", "--config", str(config), "--model.sampler.ratio", "0.02"])
    recipe = cli.model.model.composition.recipe
    assert recipe.sampler.options["ratio"] == 0.02
    assert recipe.sampler.options["seed"] == 3
    assert "image_AUROC" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        AnomalibCLI(["train", "--model.help", "patchcore_plugin.integrations.anomalib.PluginPatchcore"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--model.sampler SAMPLER Another sampler's name, or options such as" in shown
    assert "--model.precision {fp32,bf16}" in shown


def test_unknown_names_are_told_in_one_line() -> None:
    with pytest.raises(pp.OptionError, match="unknown recipe 'patchcor'; did you mean 'patchcore'"):
        PluginPatchcore("patchcor")
    with pytest.raises(pp.PatchcoreError, match="greedy-coreset"):
        PluginPatchcore(sampler="greedy-corset")


def test_without_anomalib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)
    monkeypatch.delitem(sys.modules, "patchcore_plugin.integrations.anomalib")
    with pytest.raises(ImportError, match=r"needs anomalib; pip install 'patchcore-plugin\[anomalib\]'$"):
        importlib.import_module("patchcore_plugin.integrations.anomalib")


@pytest.mark.skipif(not REAL.is_dir(), reason="the reduced MVTec AD categories are not here")
def test_real_photos(tmp_path: Path) -> None:
    model = PluginPatchcore("patchcore-1", backbone="efficientnet-lite0")
    data = MVTecAD(root=REAL, category="hazelnut_reduced", num_workers=0)
    (figures,) = engine(tmp_path).train(model=model, datamodule=data)
    assert figures["image_AUROC"] >= 0.93
    assert figures["pixel_AUROC"] >= 0.97
    found = predict(model, data, tmp_path)
    detector = pp.Detector.from_recipe("patchcore-1", backbone="efficientnet-lite0", device="cpu")
    detector.fit(sorted((REAL / "hazelnut_reduced" / "train" / "good").iterdir()))
    for expected in detector.predict(sorted(found)):
        assert found[str(expected.path)][0] == pytest.approx(expected.score, rel=1e-4)
