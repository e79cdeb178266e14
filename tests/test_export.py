"""Whole models as one program: the detector's scores and maps, checked before a file is written, and read with care."""

from __future__ import annotations

import json
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import patchcore_plugin as pp
from patchcore_plugin import Detector, Ensemble, ExportedModel, cli, export_model, export_module
from patchcore_plugin.builtin import _exported
from patchcore_plugin.export_module import _rounded, interpolation
from patchcore_plugin.images import to_unit
from patchcore_plugin.model_export import SUFFIXES, Format, _program

Photo = NDArray[Any]
DATA = Path(__file__).parents[2] / "shared" / "data" / "hazelnut_reduced"
SIZES = ((72, 96), (48, 64), (131, 61), (200, 150), (9, 8))


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    layers: tuple[str, ...] = ("fine", "coarse")
    seed: int = 0


def tiny(config: TinyConfig) -> pp.StagedBackbone:
    stages = nn.Sequential()
    stages.add_module("fine", nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU()))
    stages.add_module("coarse", nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()))
    pp.initialise(stages, config.seed)
    return pp.StagedBackbone("tiny", stages, config.layers)


class ByNumpy:
    """A backbone that torch.export cannot follow."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(images.numpy()[:, :, ::8, ::8].copy())]

    def to(self, device: object) -> ByNumpy:
        return self

    def weight_hash(self) -> str:
        return "0"


@pp.hookimpl
def patchcore_backbones() -> list[pp.BackboneSpec]:
    return [
        pp.BackboneSpec(name="tiny", config=TinyConfig, create=tiny, summary="two convolutions"),
        pp.BackboneSpec(name="by-numpy", config=TinyConfig, create=lambda config: ByNumpy(), summary="every 8th pixel"),
    ]


PLUGIN = types.SimpleNamespace(patchcore_backbones=patchcore_backbones)
HOST = pp.Host(extra={"tiny": PLUGIN}, entry_points=False)


def draw(seed: int, size: tuple[int, int] = (72, 96)) -> Photo:
    """Return a noisy disc on a plate; every second one has a dark blot."""
    height, width = size
    rng = np.random.default_rng(seed)
    photo = np.full((height, width, 3), 200.0)
    cv2.circle(photo, (width // 2 + int(rng.integers(-3, 4)), height // 2), height // 3, (90.0, 140.0, 90.0), -1)
    if seed % 2:
        cv2.circle(photo, (width // 2 + height // 5, height // 2), height // 9, (10.0, 10.0, 60.0), -1)
    return np.clip(photo + rng.normal(0, 6, photo.shape), 0, 255).astype(np.uint8)


GOOD = [draw(2 * number) for number in range(10)]
SIZE = {"size": [48, 64]}
MEMBERS = [
    {"recipe": "patchcore", "backbone": "tiny", "sampler": {"ratio": 0.1}},
    {"recipe": "patchcore", "backbone": {"name": "tiny", "layers": ["coarse"]}, "sampler": {"ratio": 0.3}},
    {"recipe": "padim", "backbone": "tiny", "aggregator": {"channels": 10}},
    {"recipe": "dn2", "backbone": "tiny"},
]
KEPT = {"size": [48, 48], "crop": [40, 32], "keep_aspect": True}
ENSEMBLES: dict[str, dict[str, Any]] = {
    "ensemble": {"preprocessing": SIZE, "members": MEMBERS},
    "cropped ensemble": {"preprocessing": KEPT, "members": MEMBERS[1::2]},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {"preprocessing": SIZE}),
    "all": ("patchcore", {"preprocessing": SIZE, "sampler": "all"}),
    "paper": (
        "patchcore-paper",
        {"preprocessing": KEPT, "aggregator": {"embed_dim": 16}},
    ),
    "tiles": ("patchcore", {"preprocessing": {"size": [48, 96], "tile": [32, 64], "overlap": 8}}),
    "plain": (
        "patchcore",
        {
            "preprocessing": {"size": [48, 64], "crop": [40, 48]},
            "scorer": {"reweight": False, "squared": True},
            "map": {"sigma": 0, "upsample": "nearest"},
        },
    ),
    "padim": ("padim", {"preprocessing": SIZE, "aggregator": {"channels": 10}}),
    "dn2": ("dn2", {"preprocessing": SIZE}),
    "gaussian-ad": ("gaussian-ad", {"preprocessing": SIZE}),
}


def fitted(case: str) -> Detector | Ensemble:
    if case in ENSEMBLES:
        recipe = pp.EnsembleRecipe.from_dict({"name": "mine", **ENSEMBLES[case]})
        return Ensemble(recipe, device="cpu", host=HOST).fit(GOOD)
    name, changes = CASES[case]
    return Detector.from_recipe(name, backbone="tiny", device="cpu", host=HOST, **changes).fit(GOOD)


def same(found: Sequence[pp.Prediction], expected: Sequence[pp.Prediction]) -> None:
    """Check that predictions are equal up to the rounding of float32, and that this says something."""
    assert len(found) == len(expected) > 0
    for got, wanted in zip(found, expected, strict=True):
        assert wanted.score > 0
        assert got.score == pytest.approx(wanted.score, rel=1e-4)
        assert (got.path, got.threshold, got.is_anomalous) == (wanted.path, wanted.threshold, wanted.is_anomalous)
        assert got.p_value == wanted.p_value
        assert (got.anomaly_map is None) == (wanted.anomaly_map is None)
        if got.anomaly_map is not None and wanted.anomaly_map is not None:
            scale = float(np.ptp(wanted.anomaly_map))
            assert scale > 0
            np.testing.assert_allclose(got.anomaly_map, wanted.anomaly_map, rtol=0, atol=1e-4 * scale)
            assert got.anomaly_map.dtype == np.float32
        assert (got.nearest is None) == (wanted.nearest is None)
        if got.nearest is not None and wanted.nearest is not None:
            assert got.nearest.distance == pytest.approx(wanted.nearest.distance, rel=1e-4)
            assert (got.nearest.peak_x, got.nearest.peak_y) == (wanted.nearest.peak_x, wanted.nearest.peak_y)
            assert got.nearest.photo == wanted.nearest.photo
            assert (got.nearest.x, got.nearest.y) == (wanted.nearest.x, wanted.nearest.y)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["patchcore", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return int(done.value.code or 0)


# The module


@pytest.mark.parametrize("antialias", [True, False])
def test_interpolation_is_that_of_torch_and_of_opencv(antialias: bool) -> None:
    rng = np.random.default_rng(0)
    for count, size in ((5, 5), (7, 19), (19, 7), (100, 13), (13, 100), (64, 32), (1, 4), (33, 1), (3000, 256)):
        values = rng.random((count, 5), dtype=np.float32)
        rows = interpolation(torch.arange(size), torch.tensor(size), count, antialias=antialias)
        if antialias:
            photo = torch.from_numpy(values)[None, None]
            wanted = nn.functional.interpolate(photo, (size, 5), mode="bilinear", antialias=True)[0, 0].numpy()
        else:
            wanted = cv2.resize(values, (5, size), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose((rows @ torch.from_numpy(values)).numpy(), wanted, atol=1e-5)


def test_pixels_are_rounded_as_python_rounds_them() -> None:
    product, divisor = torch.meshgrid(torch.arange(200), torch.arange(1, 30), indexing="ij")
    wanted = [[round(int(a) / int(b)) for a, b in zip(*row, strict=True)] for row in zip(product, divisor, strict=True)]
    assert _rounded(product, divisor).tolist() == wanted


@pytest.mark.parametrize("case", [*CASES, "ensemble"])
def test_the_program_is_the_detector(case: str) -> None:
    model = fitted(case)
    program = _program(model)
    for size in SIZES:
        photos = [draw(100 + number, size) for number in range(3)]
        with torch.inference_mode():
            found = program(torch.from_numpy(np.stack([to_unit(photo) for photo in photos])))
        for number, wanted in enumerate(model.predict(photos)):
            assert float(found["score"][number]) == pytest.approx(wanted.score, rel=1e-4)
            assert ("map" in found) == (wanted.anomaly_map is not None)
            if wanted.anomaly_map is not None:
                scale = float(np.ptp(wanted.anomaly_map))
                np.testing.assert_allclose(found["map"][number], wanted.anomaly_map, rtol=0, atol=1e-4 * scale)
            assert ("nearest" in found) == (wanted.nearest is not None)
    assert ("member" in found) == (case == "ensemble")


@pytest.mark.parametrize("rows", [1, 2, 5, 300])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_rows_far_from_zero_and_in_several_parts(
    rows: int, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_exported, "ROWS", 64)
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(rows, 12, generator=generator) + offset
    bank[rows // 2 :] = bank[: rows - rows // 2].clone()  # copies: ties
    patches = pp.Patches(torch.randn(3, 4, 5, 12, generator=generator) + offset)
    scorer: Any = HOST.create("scorer", "knn")
    scorer.fit(pp.MemoryBank(bank, torch.zeros(rows, 3, dtype=torch.int64)))
    wanted, found = scorer(patches), scorer.export_module()(patches)
    tolerance = 1e-5 if offset else 1e-6
    torch.testing.assert_close(found.image, wanted.image, rtol=tolerance, atol=0)
    torch.testing.assert_close(found.map, wanted.map, rtol=tolerance, atol=0)
    assert torch.equal(bank[found.nearest], bank[wanted.nearest])


# Files of drawn photos


def test_a_program_of_torch_without_pickle(tmp_path: Path) -> None:
    model = fitted("cropped ensemble")
    export = export_model(model, tmp_path / "part.pt2", format="torch", photos=GOOD[:3])
    assert 0 < export.score_difference < 1e-4
    assert export.photos == 3
    assert export.sizes[0] == GOOD[0].shape[:2]
    with zipfile.ZipFile(export.path) as archive:
        assert not [each.filename for each in archive.infolist() if b"\x80\x02}q" in archive.read(each)]
        assert not [each.filename for each in archive.infolist() if each.filename.endswith(".pt") and each.file_size]
    extra = {"patchcore": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.export.load(export.path, extra_files=extra).module()

    def compute(photos: NDArray[np.float32]) -> dict[str, Photo]:
        return {name: each.numpy() for name, each in program(torch.from_numpy(photos)).items()}

    found = ExportedModel(export.path, extra["patchcore"], compute)
    photos = [draw(number, size) for size in SIZES[:4] for number in range(2)]
    same(found.predict(photos), model.predict(photos))
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
    text = refused(pp.TensorError, model, tmp_path, photos=GOOD)
    assert text.startswith("the exported program differs from the model: a score by ")
    assert text.endswith("at most 1e-04 is allowed; nothing was written")


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    spade = Detector.from_recipe("spade", backbone="tiny", preprocessing=SIZE, device="cpu", host=HOST).fit(GOOD)
    assert refused(pp.PluginError, spade, tmp_path, photos=GOOD) == (
        "scorer 'pyramid-knn' cannot be exported: it has no export_module; use the model file itself, or fit with "
        "another scorer, such as knn"
    )
    foreign = Detector.from_recipe("patchcore", backbone="by-numpy", preprocessing=SIZE, device="cpu", host=HOST)
    text = refused(pp.PluginError, foreign.fit(GOOD), tmp_path, photos=GOOD)
    assert text.startswith("backbone 'by-numpy' cannot be exported, because it is not made of torch operations only (")
    assert text.endswith("); use the model file itself")


def test_photos_and_names_that_do_not_serve(tmp_path: Path) -> None:
    model = fitted("patchcore")
    assert refused(pp.ImageError, model, tmp_path) == (
        "an export is checked on real photos, and none of those that the model was fitted on is still there; give some "
        "with --photos"
    )
    assert f"{tmp_path / 'missing.png'}: no such file" in refused(
        pp.ImageError, model, tmp_path, photos=[tmp_path / "missing.png"]
    )
    with pytest.raises(pp.OptionError, match=r"part\.bin: a file of format onnx is called \*\.onnx; choose another"):
        export_model(model, tmp_path / "part.bin", photos=GOOD)


# An ONNX file of real photos


@dataclass
class Exported:
    model: Path
    file: Path
    photos: list[Path]
    said: dict[str, Any]


@pytest.fixture(scope="module")
def exported(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Fit and export by the command line, on real photos where they are at hand."""
    root = DATA if DATA.is_dir() else dataset
    folder = tmp_path_factory.mktemp("exported")
    model, file = folder / "part.safetensors", folder / "part.onnx"
    photos = sorted(path for kind in (root / "test").iterdir() for path in kind.iterdir())[:8]
    good = sorted((root / "train" / "good").iterdir())[:8]
    setting = ["--backbone", "efficientnet-lite0", "--set", "preprocessing.size=128,160", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "fit", *good, "--out", model, *setting) == 0
        output = folder / "said.json"
        with output.open("w") as stream:
            patch.setattr(sys, "stdout", stream)
            assert run(patch, "export", model, "--format", "onnx", "--out", file, "--json") == 0
    return Exported(model, file, photos, json.loads(output.read_text()))


def test_the_command_says_what_it_found(exported: Exported) -> None:
    said = dict(exported.said)
    assert 0 < said.pop("largest_score_difference") < 1e-5
    assert 0 < said.pop("largest_map_difference") < 1e-4
    assert said.pop("sizes")[1:] == [[78, 117], [175, 309]]
    assert said == {
        "file": str(exported.file),
        "format": "onnx",
        "outputs": ["score", "map", "distance", "peak", "nearest"],
        "photos": 8,
        "batches": [1, 3, 8],
    }
    assert {path.name for path in exported.file.parent.iterdir()} == {"part.onnx", "part.safetensors", "said.json"}


def test_predictions_are_those_of_the_model(exported: Exported, tmp_path: Path) -> None:
    model, found = pp.load_model(exported.model, device="cpu"), pp.load_model(exported.file)
    assert isinstance(found, ExportedModel)
    same(found.predict(exported.photos), model.predict(exported.photos))
    first = cv2.imread(str(exported.photos[0]))
    assert first is not None
    mixed: list[Any] = [*exported.photos[:2], tmp_path / "missing.png"]
    for size in ((300, 200), (90, 100), (90, 100), (90, 100)):
        mixed.append(cv2.resize(first[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA))
    deep = (mixed[-1].astype(np.uint16) << 8) + np.arange(100, dtype=np.uint16)[None, :, None]
    mixed += [deep, deep.astype(np.float32) / 65535]
    wanted, got = (list(each.predict_each(mixed, on_error="skip")) for each in (model, found))
    same(
        [each for each in got if isinstance(each, pp.Prediction)],
        [each for each in wanted if isinstance(each, pp.Prediction)],
    )
    assert isinstance(got[2], pp.ImageError)
    assert got[2].path == str(tmp_path / "missing.png")
    with pytest.raises(pp.ImageError, match=r"missing\.png: no such file"):
        found.predict(mixed)
    assert found.training_photos == model.training_photos
    assert (found.bank_rows, found.threshold, found.map_scale) == (model.bank_rows, model.threshold, model.map_scale)
    assert json.dumps(found.recipe.to_dict()) == json.dumps(model.recipe.to_dict())
    assert found.calibration == model.calibration
    assert found.covering_radius == model.covering_radius is not None
    # The eight bits below the first eight of a deep photo count.
    assert found.predict([deep])[0].score != found.predict([mixed[-3]])[0].score


def test_predict_writes_the_same_lines(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = []
    for number, file in enumerate((exported.model, exported.file)):
        out = tmp_path / str(number)
        assert run(monkeypatch, "predict", file, *exported.photos[:3], "--out", out) == 0
        records.append([json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()])
        assert (out / records[-1][0]["overlay"]).is_file()
    assert "threshold" in capsys.readouterr().out
    for wanted, got in zip(*records, strict=True):
        assert got.keys() == wanted.keys()
        for name in ("path", "p_value", "is_anomalous", "threshold", "map", "scale"):
            assert got[name] == wanted[name]
        assert got["nearest"]["photo"] == wanted["nearest"]["photo"]


def test_onnxruntime_alone_at_batches_of_1_3_and_8(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    compare(exported, lambda photos: session.run(["score", "map"], {"photos": photos}))
    (takes,) = session.get_inputs()
    assert (takes.shape, takes.type) == (["batch", "height", "width", 3], "tensor(float)")
    about = json.loads(session.get_modelmeta().custom_metadata_map["patchcore"])
    model = pp.load_model(exported.model, device="cpu")
    assert about["calibration"] == json.loads(json.dumps(model.calibration.to_dict()))
    assert about["backbone_sha256"] == model.describe()["backbone_sha256"]


def test_openvino_computes_the_same(exported: Exported) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    program = openvino.Core().compile_model(str(exported.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def compute(photos: NDArray[np.float32]) -> list[Photo]:
        found = program(photos)
        return [found["score"], found["map"]]

    compare(exported, compute)


def compare(exported: Exported, compute: Callable[[NDArray[np.float32]], Sequence[Photo]]) -> None:
    """Check a runtime's scores and maps against the model's."""
    model = pp.load_model(exported.model, device="cpu")
    photos = [cv2.imread(str(path)) for path in exported.photos]
    for size in ((128, 160), (90, 200), (301, 257)):
        resized = [
            cv2.resize(each[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA) for each in photos if each is not None
        ]
        expected = model.predict(resized)
        for batch in (1, 3, 8):
            scores, maps = compute(np.stack([to_unit(each) for each in resized[:batch]]))
            np.testing.assert_allclose(scores, [each.score for each in expected[:batch]], rtol=1e-4)
            assert maps.shape == (batch, *size)
            for got, wanted in zip(maps, expected, strict=False):
                assert wanted.anomaly_map is not None
                scale = float(np.ptp(wanted.anomaly_map))
                np.testing.assert_allclose(got, wanted.anomaly_map, rtol=0, atol=1e-4 * scale)


def test_calibrate_changes_the_metadata_alone(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "other.onnx"
    assert run(monkeypatch, "calibrate", exported.file, "--false-alarm-rate", 0.4, "--out", out) == 0
    before, after = pp.load_model(exported.file), pp.load_model(out)
    assert before.threshold is not None
    assert after.threshold is not None
    assert after.threshold < before.threshold
    assert after.predict(exported.photos[:1])[0].score == before.predict(exported.photos[:1])[0].score
    programs = [onnx.load(path) for path in (exported.file, out)]
    for program in programs:
        del program.metadata_props[:]
    assert programs[0] == programs[1]


def test_what_an_exported_model_refuses(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pp.load_model(exported.file)
    with pytest.raises(pp.ModelFileError, match="is an exported one; give the model file that it was made of"):
        export_model(model, tmp_path / "again.onnx")
    assert run(monkeypatch, "update", exported.file, *exported.photos) == 1
    assert f"{exported.file}: an exported model cannot learn" in capsys.readouterr().err
    with pytest.raises(pp.OptionError, match="an exported model computes in fp32; leave --precision bf16 out"):
        pp.load_model(exported.file, precision="bf16")
    with pytest.raises(pp.TensorError, match="does not know device 'mps'; use --device cpu or cuda"):
        pp.load_model(exported.file, device="mps")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(pp.TensorError, match="--device cuda needs onnxruntime-gpu in place of onnxruntime"):
            pp.load_model(exported.file, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(pp.PluginError, match=r"running it needs onnxruntime; pip install 'patchcore-plugin\[export\]'"):
        pp.load_model(exported.file)


# Files of others


def test_files_that_are_no_exported_model(tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    with pytest.raises(pp.ModelFileError, match=r"part\.onnx: no such model file; make one with: patchcore export"):
        pp.load_model(path)
    path.write_bytes(b"\x08 no program")
    with pytest.raises(pp.ModelFileError, match=r"part\.onnx: damaged \(.*\); copy it again from its source"):
        pp.load_model(path)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    with pytest.raises(pp.ModelFileError, match="an ONNX file, but no model that patchcore export has written"):
        pp.load_model(path)


DESCRIBED: dict[str, Any] = {
    "format": 1,
    "recipe": pp.Recipe.load("patchcore").to_dict(),
    "photos": [{"path": "good.png", "height": 40, "width": 50}],
    "grids": [[4, 5]],
    "bank_rows": 7,
    "calibration": {"threshold": 1.0, "source": "s", "map_scale": [0.0, 1.0], "scores": [0.5, 1.0]},
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("no JSON", "its description: Expecting value"),
        ("[]", "its description: "),
        ({"format": 2}, "exported in format 2, newer than this version reads (1); pip install --upgrade"),
        ({"format": "1st"}, "its description, format: "),
        ({"grids": [[0, 5]]}, "its description, grids.0.0: "),
        ({"grids": []}, "its description, grids: "),
        ({"photos": [{"path": "a", "height": 1e9, "width": 1}]}, "its description, photos.0.height: "),
        ({"bank_rows": "many"}, "its description, bank_rows: "),
        ({"calibration": {"threshold": "high"}}, "its description, calibration.threshold: "),
        ({"calibration": {**DESCRIBED["calibration"], "scores": [2.0, 1.0]}}, "scores are not in order"),
        ({"calibration": {**DESCRIBED["calibration"], "threshold": float("nan")}}, "NaN is not a finite number"),
        ({"recipe": {"name": "none"}}, "needs a table [backbone] with a name"),
    ],
)
def test_descriptions_are_checked(change: Any, text: str, tmp_path: Path) -> None:
    described = change if isinstance(change, str) else json.dumps({**DESCRIBED, **change})
    with pytest.raises(pp.ModelFileError) as caught:
        ExportedModel(tmp_path / "part.onnx", described, lambda photos: {})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    ExportedModel(tmp_path / "part.onnx", json.dumps(DESCRIBED), lambda photos: {})
    with pytest.raises(pp.ModelFileError, match="1e999 is not a finite number"):
        ExportedModel(tmp_path / "p.onnx", json.dumps(DESCRIBED).replace("1.0", "1e999"), lambda photos: {})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("score", np.array([np.nan]), r"its output 'score' is not finite numbers \[1\]"),
        ("score", np.zeros(2), r"its output 'score' is not finite numbers \[1\]"),
        ("map", np.zeros((1, 3, 8)), r"its output 'map' is not finite numbers \[1, 9, 8\]"),
        ("distance", None, r"its output 'distance' is not finite numbers \[1\]"),
        ("peak", np.array([[9, 0]]), "names a patch or photo that its description does not have"),
        ("nearest", np.array([[3, 0, 0]]), "names a patch or photo that its description does not have"),
        ("nearest", np.array([[-1, 0, 0]]), "names a patch or photo that its description does not have"),
        ("peak", np.array([[0, -1]]), "names a patch or photo that its description does not have"),
    ],
)
def test_outputs_are_checked(name: str, value: Photo | None, text: str, tmp_path: Path) -> None:
    outputs: dict[str, Any] = {
        "score": np.ones(1),
        "map": np.zeros((1, 9, 8)),
        "distance": np.ones(1),
        "peak": np.array([[1, 2]]),
        "nearest": np.array([[0, 3, 4]]),
    }
    photo = draw(0, (9, 8))
    model = ExportedModel(tmp_path / "part.onnx", json.dumps(DESCRIBED), lambda photos: outputs)
    (found,) = model.predict([photo])
    assert found.nearest is not None
    assert found.nearest.photo == "good.png"
    outputs[name] = value
    if value is None:
        del outputs[name]
    with pytest.raises(pp.TensorError, match=text):
        model.predict([photo])
